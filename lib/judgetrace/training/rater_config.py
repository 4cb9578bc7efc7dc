"""Write the config of rate_items that asks a tuned rater as it was taught. Pure."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from judgetrace.study.sections import write_toml
from judgetrace.training.config import TrainRaterConfig


def write_rating_config(config: TrainRaterConfig, *, has_nominal: bool) -> str:
    """Write the config; its run folder is a proposal.

    `has_nominal` says whether a scale is nominal: its levels have no expectation.
    """
    rater = f"{config.run}/rater"
    form = config.thinking.format if config.thinks else "none"
    workers = config.workers
    sections: dict[str, Any] = {
        "corpus": config.corpus,
        "run": f"{config.run}-ratings",
        # By default a rater is called what its folder is, and every tuned one lies in a folder `rater`.
        "rater_id": PurePosixPath(config.run).name,
        "splits": ["test"],
        "guideline": None if config.guideline is None else f"{rater}/guideline.md",
        "model": {"path": rater}
        if config.output.form == "merged"
        else {"path": config.model.path, "revision": config.model.revision, "adapter": rater},
        # Where it was trained on GPUs, an engine without one would be placed anywhere.
        "engine": {"num_gpus": 1, "num_cpus": workers.num_cpus} if workers.num_gpus else {},
        "thinking": {"format": form, "tags": config.thinking.tags if form == "tags" else None},
        "prompt": config.prompt.model_dump(mode="json", exclude_defaults=True),
        # Validation writes greedily.
        "decoding": {"rating": "sampled" if has_nominal else config.validation.rating, "temperature": 0.0},
    }
    return write_toml({name: value for name, value in sections.items() if value != {}}).rstrip()
