"""Write the config of rate_items that asks a tuned rater as it was taught. Pure."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from judgetrace.ratings import DecodingConfig
from judgetrace.study.sections import write_toml
from judgetrace.training.config import TrainRaterConfig


def write_rating_config(config: TrainRaterConfig, *, has_nominal: bool, context: int | None) -> str:
    """Write the config; its run folder is a proposal.

    has_nominal  whether a scale is nominal: its levels have no expectation
    context      tokens that the base takes by its own config; null where that does not say
    """
    rater = f"{config.run}/rater"
    form = config.thinking.format if config.thinks else "none"
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
        "engine": _choose_engine(config, context),
        "thinking": {"format": form, "tags": config.thinking.tags if form == "tags" else None},
        "prompt": config.prompt.model_dump(mode="json", exclude_defaults=True),
        # Validation writes greedily.
        "decoding": {
            "rating": "sampled" if has_nominal else config.validation.rating,
            "temperature": 0.0,
            "max_tokens": _limit_answer(config, context),
        },
    }
    return write_toml({name: value for name, value in sections.items() if value != {}}).rstrip()


def _choose_engine(config: TrainRaterConfig, context: int | None) -> dict[str, Any]:
    """Choose GPUs and context of an engine; without training on GPUs, its defaults."""
    if not config.workers.num_gpus:
        return {}
    # The longest prompt that it learned from, and an answer; a base's own 131,072 tokens leave no room on most GPUs.
    needed = config.data.max_tokens + DecodingConfig().max_tokens
    args = {"max_model_len": min(context or needed, needed)}
    # Without a GPU of its own it would be placed anywhere.
    return {"num_gpus": 1, "num_cpus": config.workers.num_cpus, "args": args}


def _limit_answer(config: TrainRaterConfig, context: int | None) -> int | None:
    """Limit an answer's tokens where the default leaves no room for the longest prompt; null where it does.

    At least half of the context: what was learned from was prompt and answer together.
    """
    default = DecodingConfig().max_tokens
    if context is None or context >= config.data.max_tokens + default:
        return None
    return min(default, max(context - config.data.max_tokens, context // 2))
