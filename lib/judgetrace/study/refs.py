"""References to what another stage makes, and their places in a config. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ref:
    """A file or folder in a stage's folder; "" is the folder itself."""

    stage: str
    path: str = ""

    def __str__(self) -> str:
        return f"<{self.stage}>" + (f"/{self.path}" if self.path else "")


def list_refs(value: Any) -> Iterator[Ref]:
    """List the references in a value, however deep."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        for own in value.values():
            yield from list_refs(own)
    elif isinstance(value, (list, tuple)):
        for own in value:
            yield from list_refs(own)


def is_there(value: Any, folders: Mapping[str, str]) -> bool:
    """Whether a value is something else than a reference to what nobody made."""
    return not isinstance(value, Ref) or value.stage in folders


def resolve(value: Any, folders: Mapping[str, str]) -> Any:
    """Put the URLs of folders in place of references; in lists, leave out those of stages that have none."""
    if isinstance(value, Ref):
        url = folders[value.stage]
        return f"{url}/{value.path}" if value.path else url
    if isinstance(value, Mapping):
        return {key: resolve(own, folders) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [resolve(own, folders) for own in value if not isinstance(own, Ref) or own.stage in folders]
    return value


def describe(value: Any) -> Any:
    """Spell references by the name of their stage, wherever its folder is."""
    if isinstance(value, Ref):
        return str(value)
    if isinstance(value, Mapping):
        return {key: describe(own) for key, own in value.items()}
    return [describe(own) for own in value] if isinstance(value, (list, tuple)) else value
