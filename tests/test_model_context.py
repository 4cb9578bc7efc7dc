"""The context that a model's config names."""

import json
from pathlib import Path
from typing import Any

import pytest

from judgetrace.engine import ModelConfig
from judgetrace.model_context import read_context


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llama", "max_position_embeddings": 131_072}, 131_072),
        # It has another name there.
        ({"model_type": "gpt2", "n_positions": 512}, 512),
        # Of its language model, not of what sees.
        ({"model_type": "llava", "text_config": {"model_type": "llama", "max_position_embeddings": 640}}, 640),
        # It has no positions, so that any length will do.
        ({"model_type": "mamba"}, None),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_the_context_is_that_of_the_language_model(
    tmp_path: Path, config: dict[str, Any], expected: int | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))

    assert read_context(ModelConfig(path=str(tmp_path))) == expected
    assert read_context(ModelConfig(path=f"file://{tmp_path}"), trusts_remote_code=True) == expected
