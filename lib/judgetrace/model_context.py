"""How many tokens a model takes, prompt and output together, by its own config."""

from __future__ import annotations

from judgetrace.engine import ModelConfig
from judgetrace.model_store import fetch_folder


def read_context(model: ModelConfig, *, trusts_remote_code: bool = False) -> int | None:
    """Read the context that a model's config names; null where it names none. Of a URL no weights are fetched."""
    from transformers import AutoConfig

    path = str(fetch_folder(model.path, weights=False))
    config = AutoConfig.from_pretrained(path, revision=model.revision, trust_remote_code=trusts_remote_code)
    # Of a model that reads images, too, its language model's.
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(context) if context else None
