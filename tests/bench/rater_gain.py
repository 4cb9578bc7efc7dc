"""Gain: does tuning make a rater agree better with people, and what of it is owed to the traces? Labels, model: real.

The embedded model learns from the embedded human ratings (words that ten people rated from -4 to 4; target: the median)
and rates words that it has not seen. Every seed has a corpus of its own: a fifth of the lexicon's word stems, no stem
in two of them, prepared anew with split.seed = seed. A stem (the first four letters) is also the group that splits and
bootstrap keep whole. So both training and test items differ between seeds, and the test items of up to five seeds are
disjoint: what pooling needs (see pooled_figures for the rule). Traces are inferred once a seed, by the untuned base
itself (at most 8 draws, its first sentence as thinking), with the text of rejected draws.

base           the untuned model, no thinking
base_thinking  the untuned model, its first sentence as thinking
recalibrated   base, its ratings mapped by isotonic regression on the validation split
label          tuned on the label alone (of the units with an accepted trace); rates without thinking
traces         tuned on accepted traces; rates with thinking, as the next two
unrejected     tuned on the first draw with its own rating, whether or not it matches people's
shuffled       tuned on the accepted traces of other units with the same label

All arms rate the test split by the expected rating over the scale; with thinking from one greedy sample. Tuned arms
take the same number of updates of the same batch (LoRA, the checkpoint of the best validation tau), so unrejected,
which has more examples, sees each less often. Nothing was tuned on the test split.

arms          by arm: tau_b, qwk, mse against the median of people (mean over seeds, intervals, by seed); the paired
              difference to base and to base_thinking on the items that both rated; coverage; examples; minutes
beats_base    by tuned arm and statistic: whether the intervals of the difference to `base` exclude zero, for the better
people        each person against the others, on the same items
minutes       of the jobs that all arms of a seed share, and of all

The work folder is kept: a second call goes on with the job at hand, and what is done stays. Minutes are those of a
job's last call. Another size needs another folder.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import harness
from tests.bench.harness import say
from tests.bench.pooled_figures import (
    STATISTICS,
    excludes_zero,
    pool,
    read_agreement,
    read_difference,
    select_rows,
)

FULL = {
    "seeds": 3,
    "arms": "base,base_thinking,recalibrated,label,traces,unrejected,shuffled",
    "items": 1500,
    "updates": 40,
    "batch": 16,
    "learning_rate": 5e-4,
    "max_draws": 8,
    "validation_items": 64,
    "validate_every": 20,
    "min_fit_items": 30,
}
QUICK = {
    **FULL,
    "seeds": 1,
    "items": 200,
    "updates": 2,
    "batch": 4,
    "max_draws": 4,
    "validation_items": 8,
    "validate_every": 2,
    "min_fit_items": 5,
}
PARTS = 5
"""Disjoint parts of the lexicon; seeds beyond take parts of another partition, which overlap with these."""
STEM = 4
SPLIT = {"train": 0.6, "validation": 0.15, "test": 0.25}
PROMPT = "jobs/demo_prompt.jinja"
THINKING = {"constrained_rating": "always", "stop": [".", "\n"]}
MAX_TOKENS = 64
ENGINE = {
    "num_cpus": 1,
    "slots": 64,
    "args": {"max_model_len": 512},
    "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
}
RAY = {"address": "local", "num_cpus": 2}
WORKERS = 2


@dataclass(frozen=True)
class Arm:
    """A rater: how it thinks, and what it was tuned on (data.target), if it was."""

    thinks: bool
    target: str | None = None


ARMS = {
    "base": Arm(thinks=False),
    "base_thinking": Arm(thinks=True),
    "recalibrated": Arm(thinks=False),
    "label": Arm(thinks=False, target="label"),
    "traces": Arm(thinks=True, target="traces"),
    "unrejected": Arm(thinks=True, target="first_draw"),
    "shuffled": Arm(thinks=True, target="shuffled_traces"),
}
BASES = ("base", "base_thinking")
INFERRED = "inferred"
"""The run of infer_traces in a seed's folder."""


def find_stem(text: str) -> str:
    """Find what inflections of a word share; an emoticon is its own."""
    return text.lower()[:STEM] if text.isalpha() else text


def place(stem: str, salt: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{salt}\x1f{stem}".encode(), digest_size=8).digest(), "big")


def write_source(path: Path, seed: int, most: int) -> int:
    """Write the labelled words of a seed's part of the lexicon, whole stems up to about `most` rows."""
    with (harness.SOURCE / "ratings.csv").open(newline="") as file:
        rows = [{**row, "stem": find_stem(row["text"])} for row in csv.DictReader(file)]
    own = [row for row in rows if place(row["stem"], f"part {seed // PARTS}") % PARTS == seed % PARTS]
    own.sort(key=lambda row: (place(row["stem"], "order"), row["item_id"]))
    end = most
    while 0 < end < len(own) and own[end]["stem"] == own[end - 1]["stem"]:
        end += 1
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(own[:end])
    return len(own[:end])


class SeedRun:
    """All jobs of one seed, in a folder of its own. A job that is done is not called again."""

    def __init__(self, work: Path, seed: int, options: Any):
        self.folder, self._seed, self._options = work / f"seed-{seed}", seed, options
        self.folder.mkdir(exist_ok=True)

    def call(self, name: str, job: str, config: dict[str, Any]) -> float:
        """Call a job unless an earlier call ended well; returns the seconds it took."""
        done = self.folder / f"{name}.done"
        if not done.exists():
            path = harness.write_config(self.folder / f"{name}.toml", {**config, "cluster": RAY})
            seconds = harness.run_job(job, path, self.folder / f"{name}.log")
            done.write_text(f"{seconds:.1f}")
            say(f"{self.folder.name} {name}: {seconds:.0f} s")
        return float(done.read_text())

    def prepare(self) -> dict[str, float]:
        """Prepare the corpus, infer traces; returns the seconds of each."""
        source = self.folder / "source.csv"
        if not source.exists():
            count = write_source(source.with_suffix(".part"), self._seed, self._options.items)
            source.with_suffix(".part").rename(source)
            say(f"{self.folder.name}: {count:,} words")
        corpus = harness.demo_corpus_config(self.folder, units_per_shard=500)
        corpus["source"]["paths"] = [str(source)]
        corpus["columns"]["group"] = "stem"
        corpus["split"] = {**SPLIT, "seed": self._seed}
        return {"corpus": self.call("corpus", "prepare_corpus", corpus), "traces": self._infer_traces()}

    def _infer_traces(self) -> float:
        config = {
            **self._ask(INFERRED, harness.MODEL),
            # No arm learns from the others.
            "splits": ["train"],
            "thinking": THINKING,
            "sampling": {"max_draws": self._options.max_draws, "max_tokens": MAX_TOKENS, "seed": self._seed},
            "ledger": {"keep_rejected_text": True},
        }
        return self.call(INFERRED, "infer_traces", config)

    def _ask(self, run: str, model: Path) -> dict[str, Any]:
        return {
            "corpus": str(self.folder / "corpus"),
            "run": str(self.folder / run),
            "model": {"path": str(model)},
            "engine": ENGINE,
            "prompt": {"template": PROMPT},
        }

    def run_arm(self, name: str) -> dict[str, Any]:
        """Run an arm, or read what an earlier call of it found; returns its facts."""
        result = self.folder / f"arm-{name}.json"
        if not result.exists():
            facts = self._recalibrate(name) if name == "recalibrated" else self._tune_and_rate(name, ARMS[name])
            result.with_suffix(".part").write_text(json.dumps(facts))
            result.with_suffix(".part").rename(result)
        return dict(json.loads(result.read_text()))

    def _tune_and_rate(self, name: str, arm: Arm) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        model = harness.MODEL
        if arm.target is not None:
            facts = self._tune(name, arm)
            model = self.folder / f"{name}-tuned" / "rater"
        config = {
            **self._ask(f"{name}-rated", model),
            "rater_id": name,
            "splits": ["validation", "test"] if name == "base" else ["test"],
            "thinking": THINKING if arm.thinks else {"format": "none"},
            "decoding": {"rating": "expected", "temperature": 0.0, "max_tokens": MAX_TOKENS, "seed": self._seed},
        }
        return {**facts, "rating_s": self.call(f"{name}-rated", "rate_items", config)}

    def _tune(self, name: str, arm: Arm) -> dict[str, Any]:
        run, options = self.folder / f"{name}-tuned", self._options
        config = {
            "corpus": str(self.folder / "corpus"),
            "traces": [str(self.folder / INFERRED)],
            "run": str(run),
            "deepspeed": str(harness.ROOT / "cluster/deepspeed/zero1.json"),
            "model": {"path": str(harness.MODEL)},
            "prompt": {"template": PROMPT},
            "data": {"target": arm.target, "max_tokens": 512},
            "training": {
                "batch": options.batch,
                "micro_batch": -(-options.batch // WORKERS),  # the guideline is run once a pass
                "learning_rate": options.learning_rate,
                "warmup_steps": max(1, options.updates // 8),
                "max_steps": options.updates,
                "max_epochs": 100.0,
                "seed": self._seed,
            },
            "validation": {
                "every_steps": options.validate_every,
                "max_items": options.validation_items,
                "max_new_tokens": MAX_TOKENS,
            },
            "workers": {"num_workers": WORKERS, "num_cpus": 0.5},
        }
        seconds = self.call(f"{name}-tuned", "train_rater", config)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        manifest = json.loads((run / "manifest.json").read_text())
        training = manifest["training"]
        kept = {key: training[key] for key in ("steps", "epochs", "best_step", "padding_share")}
        return {"tuning_s": seconds, "examples": manifest["data"]["examples"], **kept}

    def _recalibrate(self, name: str) -> dict[str, Any]:
        config = {
            "corpus": str(self.folder / "corpus"),
            "ratings": str(self.folder / "base-rated"),
            "run": str(self.folder / f"{name}-rated"),
            "rater_id": name,
            "splits": ["test"],
            "min_items": self._options.min_fit_items,
        }
        return {"rating_s": self.call(f"{name}-rated", "recalibrate_rater", config)}

    def measure(self, arms: Iterable[str]) -> list[dict[str, Any]]:
        """Measure all arms' agreement on the test split at once; returns the rows about all units."""
        config = {
            "corpus": str(self.folder / "corpus"),
            "raters": [str(self.folder / f"{name}-rated") for name in arms],
            "split": "test",
            "output": str(self.folder / "agreement"),
            "intervals": {"replicates": 2000, "seed": self._seed},
            "cluster": RAY,
        }
        path = harness.write_config(self.folder / "agreement.toml", config)
        seconds = harness.run_job("measure_agreement", path, self.folder / "agreement.log")
        say(f"{self.folder.name} agreement: {seconds:.0f} s")
        document = json.loads((self.folder / "agreement/agreement.json").read_text())
        return [dict(row) for row in select_rows(document["statistics"])]


def summarise_arm(name: str, rows: list[list[dict[str, Any]]], facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Pool an arm's figures; `rows` and `facts` are by seed."""
    agreement = [read_agreement(of_seed, name) for of_seed in rows]
    summary: dict[str, Any] = {figure: pool([one[figure] for one in agreement]) for figure in STATISTICS}
    for base in BASES:
        if base != name and all(any(row["who"] == base for row in of_seed) for of_seed in rows):
            differences = [read_difference(of_seed, name, base) for of_seed in rows]
            summary[f"difference_to_{base}"] = {f: pool([one[f] for one in differences]) for f in STATISTICS}
    summary |= {key: [one[key] for one in agreement] for key in ("coverage", "items")}
    summary |= {key: [one[key] for one in facts] for key in facts[0] if not key.endswith("_s")}
    summary["minutes"] = {
        key.removesuffix("_s"): round(sum(one[key] for one in facts) / 60, 1) for key in facts[0] if key.endswith("_s")
    }
    return summary


def judge(summary: dict[str, Any]) -> dict[str, dict[str, bool | None]]:
    """Say whether the intervals of a tuned arm's differences to the base exclude zero, for the better."""
    found: dict[str, dict[str, bool | None]] = {}
    for figure, difference in summary["difference_to_base"].items():
        mean = difference["mean"]
        is_better = None if mean is None else (mean < 0) == (figure == "mse")
        kinds = {"items": difference["interval"], "seeds": difference["seeds_interval"]}
        found[figure] = {name: excludes_zero(kind) and is_better for name, kind in kinds.items()}
    return found


def summarise_people(rows: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Pool each person's agreement with the others."""
    found = {}
    for figure, statistic in STATISTICS.items():
        of_seeds = [
            next(
                row
                for row in of_seed
                if row["comparison"] == "human_ceiling"
                and row["who"] == "each annotator"
                and row["statistic"] == statistic
            )
            for of_seed in rows
        ]
        found[figure] = pool([{key: row[key] for key in ("value", "low", "high")} for row in of_seeds])
    return found


def keep_sizes(work: Path, options: Any) -> None:
    """Write down what the folder's results depend on. Raises where it holds results of another size."""
    sizes = {key: getattr(options, key) for key in FULL if key not in ("seeds", "arms")}
    file = work / "sizes.json"
    if file.exists() and json.loads(file.read_text()) != sizes:
        raise SystemExit(f"{work} has results of {file.read_text()}; give another --work, or delete it")
    file.write_text(json.dumps(sizes))


def choose_arms(names: str) -> list[str]:
    """Choose the arms, in their own order. Raises for unknown ones; recalibrated needs base."""
    wanted = {name.strip() for name in names.split(",")}
    if not wanted <= set(ARMS):
        raise SystemExit(f"--arms: unknown {sorted(wanted - set(ARMS))}; known: {','.join(ARMS)}")
    wanted |= {"base"}
    return [name for name in ARMS if name in wanted]


def main(arguments: list[str]) -> None:
    options = harness.apply_sizes(
        harness.make_parser("rater_gain", __doc__, work="kept: a second call goes on"), arguments, FULL, QUICK
    )
    harness.use_job_environment()
    harness.prepare_demo()
    began, arms, work = time.monotonic(), choose_arms(options.arms), Path(options.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    keep_sizes(work, options)
    facts: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    shared, rows = [], []
    for seed in range(options.seeds):
        run = SeedRun(work, seed, options)
        shared.append(run.prepare())
        for name in arms:
            facts[name].append(run.run_arm(name))
        rows.append(run.measure(arms))
    summaries = {name: summarise_arm(name, rows, facts[name]) for name in arms}
    jobs_s = sum(sum(one.values()) for one in shared) + sum(
        value for of_arm in facts.values() for one in of_arm for key, value in one.items() if key.endswith("_s")
    )
    figures = {
        "arms": summaries,
        "beats_base": {name: judge(summaries[name]) for name in arms if ARMS[name].target is not None},
        "people": summarise_people(rows),
        "minutes": {
            "traces": round(sum(one["traces"] for one in shared) / 60, 1),
            "all_jobs": round(jobs_s / 60, 1),
            "this_call": round((time.monotonic() - began) / 60, 1),
        },
    }
    harness.finish("rater_gain", figures, {key: getattr(options, key) for key in FULL}, simulated=False)


if __name__ == "__main__":
    main(sys.argv[1:])
