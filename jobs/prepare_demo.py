"""Lay out what the demo runs on: the embedded model as a folder, and its human ratings as a corpus.

python -m jobs.prepare_demo CONFIG.toml [--key=value ...]

Writes model_dir (a Hugging Face folder) and corpus_dir (ratings.csv, guideline.md). A second run does nothing.
"""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import BaseModel, Field

from judgetrace import embedded
from judgetrace.config import STRICT, load_config, run_job
from judgetrace.storage import Folder


class PrepareDemoConfig(BaseModel):
    """Where the embedded model and the embedded ratings go."""

    model_config = STRICT

    model_dir: Path = Field(description="Local folder for the converted model (269 MB); kept between runs.")
    corpus_dir: str = Field(description="Folder for ratings.csv and guideline.md: a local path or any fsspec URL.")


def main(arguments: list[str]) -> int:
    """Prepare both; returns the exit status."""
    config = load_config(PrepareDemoConfig, "prepare_demo", arguments)

    gguf_file = embedded.find_model_file()
    print(f"model: {gguf_file.name} -> {config.model_dir} (20 to 50 s the first time)", flush=True)
    started = time.monotonic()
    converted = embedded.prepare_model(gguf_file, config.model_dir)
    seconds = time.monotonic() - started
    print(f"model: converted in {seconds:.0f} s" if converted else "model: already there", flush=True)

    lexicon = embedded.read_lexicon(embedded.find_lexicon_file())
    written = embedded.write_source(lexicon, Folder(config.corpus_dir))
    state = f"wrote {' and '.join(written)}" if written else "already there"
    print(f"corpus: {len(lexicon)} items x {embedded.NUM_RATERS} human ratings in {config.corpus_dir}: {state}")
    return 0


if __name__ == "__main__":
    run_job(main)
