"""Sampling efficiency: tokens per accepted unit of the sequential mode over those of the fixed k=16 mode. Real model.

The embedded model on a real vLLM rates the embedded human ratings (ten raters, nine levels, -4..4; target: the
median). Two runs of the same command line `python -m jobs.infer_traces` over the same units, at least 20 for every
engine slot, differ in sampling.mode alone.

token_ratio_live   output tokens per accepted unit, all draws of a run counted: sequential over fixed
token_ratio        the same ratio replayed on the fixed run's recorded draws: sequential pays for the draws up to the
                   first accepted one, fixed for all; both accept the same units
overshoot          output tokens of the sequential run on draws that no outcome depends on (cancelled ones and the tail
                   included), over all its output tokens
utilisation        accepted units over units: a unit never accepted costs max_draws draws in both modes, so the ratios
                   fall as this rises
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.bench import harness
from tests.bench.harness import say

FULL = {"units": 160, "slots": 8, "max_draws": 16, "max_tokens": 40}
QUICK = {"units": 24, "slots": 8, "max_draws": 4, "max_tokens": 40}


def run_mode(folder: Path, mode: str, options: Any) -> dict[str, Any]:
    """Run the job in one mode; returns its summary."""
    config = {
        "corpus": str(folder / "corpus"),
        "run": str(folder / mode),
        "limit": options.units,
        "model": {"path": str(harness.MODEL)},
        "engine": {
            "num_cpus": 1,
            "slots": options.slots,
            # Small blocks: the draws of a unit share the prefill of their prompt.
            "args": {"max_model_len": 512, "block_size": 32},
            "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        },
        "prompt": {"template": "jobs/demo_prompt.jinja"},
        "thinking": {"constrained_rating": "always", "stop": [".", "\n"]},
        "sampling": {"mode": mode, "max_draws": options.max_draws, "max_tokens": options.max_tokens},
        "cluster": {"address": "local", "num_cpus": 2},
    }
    seconds = harness.run_job(
        "infer_traces", harness.write_config(folder / f"{mode}.toml", config), folder / f"{mode}.log"
    )
    summary = summarise(folder, mode, options.units)
    say(f"{mode}: {seconds:.0f} s, {json.dumps({k: summary[k] for k in ('outcomes', 'draws', 'tokens')})}")
    return {**summary, "wall_s": seconds}


def summarise(folder: Path, mode: str, units: int) -> dict[str, Any]:
    from judgetrace.products import TRACE_PRODUCT
    from judgetrace.run_folder import RunFolder
    from judgetrace.run_report import summarise_run
    from judgetrace.storage import Folder

    return summarise_run(RunFolder(Folder(str(folder / mode))), Folder(str(folder / "corpus")), TRACE_PRODUCT, units)


def tokens_per_accepted(summary: dict[str, Any]) -> float:
    accepted = summary["outcomes"].get("accepted", 0)
    if not accepted:
        raise RuntimeError("no unit was accepted: the run is too small to compare")
    return summary["tokens"]["output"] / accepted


def replay(run: Path) -> tuple[int, int]:
    """Count the output tokens of a fixed run up to each unit's first accepted draw, and of all its draws."""
    from judgetrace.ledger import current_shard_files
    from judgetrace.storage import Folder

    sequential = fixed = 0
    for name in current_shard_files(Folder(str(run)) / "traces").values():
        for row in (Folder(str(run)) / "traces").read_table(name, ["draws"]).to_pylist():
            draws = sorted(row["draws"], key=lambda draw: draw["index"])
            first = next((draw["index"] for draw in draws if draw["reason"] == "accepted"), len(draws))
            fixed += sum(draw["output_tokens"] for draw in draws)
            sequential += sum(draw["output_tokens"] for draw in draws if draw["index"] <= first)
    return sequential, fixed


def share_accepted(summary: dict[str, Any]) -> float:
    return summary["outcomes"].get("accepted", 0) / summary["decided"]


def main(arguments: list[str]) -> None:
    options = harness.apply_sizes(harness.make_parser("sampling_efficiency", __doc__), arguments, FULL, QUICK)
    harness.use_job_environment()
    harness.prepare_demo()
    folder = harness.empty_folder(options.work)
    config = harness.demo_corpus_config(folder, units_per_shard=500)
    harness.run_job("prepare_corpus", harness.write_config(folder / "prepare.toml", config), folder / "prepare.log")
    say(f"{options.units} units on {options.slots} slots, at most {options.max_draws} draws")
    sequential, fixed = run_mode(folder, "sequential", options), run_mode(folder, "fixed", options)
    replayed, all_tokens = replay(folder / "fixed")
    figures = {
        "token_ratio_live": tokens_per_accepted(sequential) / tokens_per_accepted(fixed),
        "token_ratio": replayed / all_tokens,
        "overshoot": sequential["tokens"].get("overshoot", 0) / sequential["tokens"]["output"],
        "utilisation": {"sequential": share_accepted(sequential), "fixed": share_accepted(fixed)},
        "tokens_per_accepted": {
            "sequential": round(tokens_per_accepted(sequential), 1),
            "fixed": round(tokens_per_accepted(fixed), 1),
        },
        "wall_s": {"sequential": round(sequential["wall_s"]), "fixed": round(fixed["wall_s"])},
        "engine_s": {"sequential": round(sequential["engine_seconds"]), "fixed": round(fixed["engine_seconds"])},
        "draws": {"sequential": sequential["draws"], "fixed": fixed["draws"]},
    }
    sizes = {key: getattr(options, key) for key in FULL}
    harness.finish("sampling_efficiency", figures, sizes, simulated=False)


if __name__ == "__main__":
    main(sys.argv[1:])
