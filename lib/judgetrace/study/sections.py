"""Nested sections of a TOML file: read with overrides of the command line, merged, flattened, written.

Pure but for reading the one file. Knows no job.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from judgetrace.config import UserError

Sections = Mapping[str, Any]


def read_sections(file: Path, overrides: Iterable[str]) -> dict[str, Any]:
    """Read a TOML file; `overrides` are `--section.key=value`, and win. Raises UserError for what can't be read."""
    if not file.is_file():
        raise UserError(f"{file}: no such config file (looked in {Path.cwd()})")
    try:
        sections: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid TOML: {error}") from error
    for override in overrides:
        name, equals, text = override.partition("=")
        if not name.startswith("--") or not equals:
            raise UserError(f"{override}: not understood\nexpected: --section.key=value")
        sections = merge(sections, nest(name[2:], _read_value(text)))
    return sections


def _read_value(text: str) -> Any:
    """Read a value as TOML spells it; anything else is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def nest(key: str, value: Any) -> dict[str, Any]:
    """Make sections of one dotted key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def merge(*layers: Sections) -> dict[str, Any]:
    """Merge sections, later ones over earlier ones; `false` for a section drops what earlier layers say of it.

    So does null, which no file has, for a key of any kind.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if value is None or (value is False and isinstance(below, Mapping)):
                merged.pop(key, None)
            elif isinstance(value, Mapping):
                merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
            else:
                merged[key] = value
    return merged


def find(section: Any, key: str) -> Any:
    """Find what sections say of a dotted key; null where they say nothing."""
    for part in key.split("."):
        section = section.get(part) if isinstance(section, Mapping) else None
    return section


def flatten(sections: Sections, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value); a list of sections has its places as keys, an empty section is a value."""
    for key, value in sections.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(own, Mapping) for own in value):
            yield from flatten({str(place): own for place, own in enumerate(value)}, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def wrap_lists(values: Sections, model: type[BaseModel]) -> dict[str, Any]:
    """Make a list of one of a text where `model` wants a list, as the command line gives it."""
    wrapped = dict(values)
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            continue
        if isinstance(value, str) and get_origin(field.annotation) in (list, tuple):
            wrapped[key] = [value]
        elif isinstance(value, Mapping):
            inner = next((kind for kind in _list_models(field.annotation)), None)
            wrapped[key] = value if inner is None else wrap_lists(value, inner)
    return wrapped


def _list_models(annotation: Any) -> Iterator[type[BaseModel]]:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind


def write_toml(sections: Sections) -> str:
    """Write sections as TOML with dotted keys; nulls, which TOML has not, are left out."""
    lines = (f"{_write_key(key)} = {_write_value(value)}\n" for key, value in _flatten_parts(sections))
    return "".join(lines)


def _flatten_parts(sections: Sections, *prefix: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in sections.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten_parts(value, *prefix, key)
        elif value is not None:
            yield (*prefix, key), value


def _write_key(parts: tuple[str, ...]) -> str:
    bare = (part if part.replace("_", "").replace("-", "").isalnum() and part.isascii() else "" for part in parts)
    return ".".join(name or json.dumps(part) for name, part in zip(bare, parts, strict=True))


def _write_value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = (f"{_write_key((key,))} = {_write_value(own)}" for key, own in value.items() if own is not None)
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_write_value(own) for own in value) + "]"
    # TOML spells texts, numbers and truth values as JSON does, but for one control character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
