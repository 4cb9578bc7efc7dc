"""Fingerprints of what a run's rows depend on: texts, and the model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from judgetrace.config import UserError
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import ModelConfig
from judgetrace.model_store import Part, is_url, list_files, strip_file
from judgetrace.storage import Folder


def hash_text(text: str) -> str:
    """Fingerprint a text."""
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def check_model(model: ModelConfig, endpoint: EndpointConfig | None) -> str:
    """Fingerprint the model that a run asks; one behind an endpoint is known by its name alone. Raises UserError."""
    if endpoint is None:
        return fingerprint_model(model)
    if model.adapter is not None:
        raise UserError("model.adapter: an endpoint serves adapters under names of their own; give that as model.path")
    return f"endpoint:{model.path}"


def fingerprint_model(model: ModelConfig) -> str:
    """Fingerprint a model and its adapter.

    A local folder counts by its config, tokenizer and samples of its weights, a folder by URL by its config, tokenizer
    and what the store's listing says of its weights, a name by its revision. Raises UserError for a path or URL that
    holds no model.
    """
    base = _fingerprint_base(model)
    if model.adapter is None:
        return base
    if is_url(model.adapter):
        return f"{base}+{_fingerprint_url(model.adapter, 'adapter')}"
    folder = Path(strip_file(model.adapter))
    if not (folder / "adapter_config.json").is_file():
        raise UserError(
            f"model.adapter = {model.adapter}: no adapter_config.json there\n"
            "expected: a folder of a LoRA adapter, as peft writes it"
        )
    return f"{base}+{_fingerprint_folder(folder)}"


def _fingerprint_base(model: ModelConfig) -> str:
    if is_url(model.path):
        return _fingerprint_url(model.path, "path")
    folder = Path(strip_file(model.path))
    if not folder.is_dir():
        if model.path.startswith((".", "/")) or model.path.count("/") != 1:
            raise UserError(
                f"model.path = {model.path}: no such folder\nexpected: a Hugging Face model folder (config.json, "
                "tokenizer, weights), or a name such as 'organisation/model'"
            )
        return f"name:{model.path}@{model.revision}"
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path = {model.path}: no config.json in it; expected a Hugging Face model folder")
    return _fingerprint_folder(folder)


def _fingerprint_url(url: str, part: Part) -> str:
    """Fingerprint without fetching the weights."""
    folder, digest = Folder(url), hashlib.blake2b(digest_size=12)
    for file in list_files(url, part):
        if file.name.endswith((".json", ".jinja")):
            digest.update(file.name.encode() + folder.read_bytes(file.name))
        else:
            digest.update(f"{file.name} {file.size} {file.stamp}".encode())
    return digest.hexdigest()


def _fingerprint_folder(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".jinja"}:
            digest.update(file.name.encode() + file.read_bytes())
        elif file.is_file():
            _update_with_sample(digest, file)
    return digest.hexdigest()


def _update_with_sample(digest: Any, file: Path) -> None:
    """Hash a large file by name, size and 64 pieces of it: weights that were tuned further have the same size."""
    size = file.stat().st_size
    digest.update(f"{file.name} {size}".encode())
    with file.open("rb") as stream:
        for start in range(0, size, max(1, size // 64)):
            stream.seek(start)
            digest.update(stream.read(1 << 14))
