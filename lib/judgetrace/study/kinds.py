"""The kinds of stages: which job each calls, what it shares with others, what of its config may change.

A kind is one entry of KINDS. Configs are named, not imported: a study loads those of its own stages alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import BaseModel

from judgetrace.run_config import RESUMABLE_ENGINE_ARGS

CORPUS_SECTIONS = ("source", "columns", "scale", "guideline", "target", "split", "shards")
ASKING_SECTIONS = ("model", "engine", "prompt", "thinking")
SHARED_SECTIONS = (*CORPUS_SECTIONS, *ASKING_SECTIONS, "intervals", "cluster")
"""What a study may say once, at its top."""

ENGINE_COUNTS = ("engine.kind", "engine.args")
ENDPOINT_COUNTS = tuple(f"endpoint.{key}" for key in ("base_url", "dialect", "omit", "extra_body", "special_tokens"))
ALWAYS_FREE = (
    "cluster",
    "dry_run",
    "ledger.commit_every_s",
    "ledger.drain_s",
    "workers",
    "training.micro_batch",
    "training.activation_checkpointing",
    *(f"engine.args.{name}" for name in sorted(RESUMABLE_ENGINE_ARGS)),
)
"""What alters how fast a stage is, not what comes of it."""
_OF_A_MODEL = re.compile(r"^(raters\.\d+|generator)\.")
"""Sections within which a model is asked, as others are at the top of a config."""


@dataclass(frozen=True)
class Kind:
    """A kind of stage."""

    job: str
    """jobs.JOB; without its own process."""
    config: str
    """module:class of the job's config."""
    shared: tuple[str, ...] = ()
    """The shared sections that it takes."""
    output: str = "run"
    """The key of its config that names the folder it writes."""
    done: str = "manifest.json"
    """The file in that folder that says it is complete."""
    free: tuple[str, ...] = ()
    """Keys, besides ALWAYS_FREE, that may change without anything being done again."""
    grows: tuple[str, ...] = ()
    """Keys that may change while the job goes on in its folder: it adds to what is there."""
    goes_on: bool = False
    """Whether the job goes on in its folder when its inputs grew."""
    in_place: bool = False
    """Whether it is made anew in its folder whenever something changed: it holds nothing that is dear."""
    product: str | None = None
    """Where rows are published, of jobs that ask units: a pilot of them (`limit`) writes no manifest."""

    def load_config(self) -> type[BaseModel]:
        """Load the job's config class."""
        module, _, name = self.config.partition(":")
        found: type[BaseModel] = getattr(import_module(module), name)
        return found

    def counts(self, key: str) -> bool:
        """Whether what comes of a stage depends on a key of its config."""
        key = _OF_A_MODEL.sub("", key)
        if key.startswith("engine."):
            counted = _is_under(key, ENGINE_COUNTS)
        elif key.startswith("endpoint."):
            counted = _is_under(key, ENDPOINT_COUNTS)
        else:
            counted = True
        return counted and not _is_under(key, (*ALWAYS_FREE, *self.free))

    def may_grow(self, key: str) -> bool:
        """Whether the job goes on in its folder when this key changes."""
        return _is_under(key, self.grows)


def _is_under(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith((f"{name}.", f"{name} ")) for name in names)


KINDS: dict[str, Kind] = {
    "prepare": Kind(
        "prepare_corpus",
        "judgetrace.corpus_config:PrepareCorpusConfig",
        (*CORPUS_SECTIONS, "cluster"),
        output="corpus",
        done="manifest-00000.json",
        free=("limits.max_quarantined_rate",),
        grows=("source.paths",),
        goes_on=True,
    ),
    "infer": Kind(
        "infer_traces",
        "judgetrace.trace_config:InferTracesConfig",
        (*ASKING_SECTIONS, "cluster"),
        # The gate decides whether a run ends well, not what is in it.
        free=("limits", "gate"),
        grows=("limit",),
        goes_on=True,
        product="traces",
    ),
    "verify": Kind(
        "verify_traces",
        "judgetrace.verification_config:VerifyTracesConfig",
        ("model", "engine", "cluster"),
        free=("limits",),
        grows=("limit",),
        goes_on=True,
        product="verifications",
    ),
    "train": Kind(
        "train_rater",
        "judgetrace.training.config:TrainRaterConfig",
        ("model", "prompt", "thinking", "cluster"),
        free=("validation.batch",),
    ),
    "rate": Kind(
        "rate_items",
        "judgetrace.rating_config:RateItemsConfig",
        (*ASKING_SECTIONS, "cluster"),
        free=("limits",),
        grows=("limit",),
        goes_on=True,
        product="annotations",
    ),
    "recalibrate": Kind(
        "recalibrate_rater",
        "judgetrace.recalibration_config:RecalibrateRaterConfig",
        ("cluster",),
        product="annotations",
    ),
    "refine": Kind(
        "refine_guideline",
        "judgetrace.refining.config:RefineGuidelineConfig",
        ("cluster",),
        free=(
            "limits",
            "allow_one_rater",
            *(f"embedding.{name}" for name in ("batch_size", "num_cpus", "num_gpus", "max_replicas")),
        ),
        # All but what its contract holds fast. In a fresh folder all calls would be made again, and nobody would know
        # how often the confirming items were asked about.
        grows=(
            *("traces", "selection", "generator", "candidates", "embedding"),
            *("scoring", "race", "confirm", "lint", "test", "intervals"),
        ),
        goes_on=True,
    ),
    "agreement": Kind(
        "measure_agreement",
        "judgetrace.agreement.config:MeasureAgreementConfig",
        ("intervals", "cluster"),
        output="output",
        done="agreement.json",
        in_place=True,
    ),
    "table": Kind("", "judgetrace.study.headline:TableConfig", output="output", done="table.md", in_place=True),
    "report": Kind(
        "render_report",
        "judgetrace.reporting.config:RenderReportConfig",
        output="output",
        done="report.html",
        in_place=True,
    ),
}
"""In the order in which they run."""


def import_job(kind: Kind, package: str) -> Any:
    """Import the module of a kind's job, whose `main(arguments)` returns an exit status."""
    return import_module(f"{package}.{kind.job}")
