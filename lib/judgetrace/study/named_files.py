"""Fingerprints of the texts, models and tables that a stage's config names, in whatever section."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from pydantic import BaseModel

from judgetrace.agreement.config import TableConfig
from judgetrace.engine import ModelConfig
from judgetrace.fingerprints import check_model, hash_text
from judgetrace.guideline import GuidelineConfig
from judgetrace.prompts import PromptConfig, PromptRenderer, load_template
from judgetrace.refining.candidate_config import CandidatesConfig, EmbeddingConfig
from judgetrace.refining.embeddings import fingerprint_embedder
from judgetrace.refining.refine_prompts import RefinePrompts, load_templates
from judgetrace.reporting.config import RationalesConfig
from judgetrace.sources import SourceConfig, list_source_files
from judgetrace.storage import read_text

TEXTS = ("guideline", "deepspeed")
"""Keys at the top of a config that name a text."""


def fingerprint_files(config: BaseModel, made: Collection[str]) -> dict[str, str]:
    """Fingerprint what a config names, but for what other stages make: key and what is counted -> fingerprint.

    `made` are the dotted keys whose value other stages make. Raises UserError for what
    can't be read, and for templates that are none.
    """
    sections = [(key, section, above) for key, section, above in _walk(config) if not _is_made(key, made)]
    found = {name: value for own in sections for name, value in _fingerprint_section(*own)}
    for key in TEXTS:
        path = getattr(config, key, None)
        if isinstance(path, str) and not _is_made(key, made):
            found[f"{key} (its text)"] = hash_text(read_text(key, path))
    return found


def _walk(section: Any, key: str = "", above: Any = None) -> Iterator[tuple[str, BaseModel, Any]]:
    """Yield all sections of a config: dotted key (list places as numbers), section, the section that it is in."""
    if isinstance(section, BaseModel):
        yield key, section, above
        for name in type(section).model_fields:
            yield from _walk(getattr(section, name), f"{key}.{name}" if key else name, section)
    elif isinstance(section, (list, tuple)):
        for place, own in enumerate(section):
            yield from _walk(own, f"{key}.{place}", above)


def _is_made(key: str, made: Collection[str]) -> bool:
    """Whether another stage makes what a key names, or a part of it."""
    return any(own == key or own.startswith(f"{key}.") for own in made)


def _fingerprint_section(key: str, section: BaseModel, above: Any) -> Iterator[tuple[str, str]]:
    if isinstance(section, PromptConfig):
        template = load_template(section.template)
        PromptRenderer(template)
        yield f"{key}.template (its text)", hash_text(template)
    elif isinstance(section, CandidatesConfig):
        templates = load_templates(section)
        RefinePrompts(templates, "", [])
        for name, text in templates.items():
            yield f"{key}.{name}_template (its text)", hash_text(text)
        for path in section.paths:
            yield f"{key}.paths: {path} (its text)", hash_text(read_text(f"{key}.paths", path))
    elif isinstance(section, ModelConfig):
        yield f"{key} (its files)", check_model(section, getattr(above, "endpoint", None))
    elif isinstance(section, EmbeddingConfig) and section.model is not None:
        yield f"{key}.model (its files)", fingerprint_embedder(section)
    elif isinstance(section, GuidelineConfig):
        yield f"{key}.path (its text)", hash_text(read_text(f"{key}.path", section.path))
    elif isinstance(section, (SourceConfig, TableConfig, RationalesConfig)):
        yield f"{key}.paths (their files)", _fingerprint_tables(section)


def _fingerprint_tables(section: SourceConfig | TableConfig | RationalesConfig) -> str:
    source = section if isinstance(section, SourceConfig) else SourceConfig(paths=section.paths, format="parquet")
    files = [f"{file.url} {file.fingerprint}" for file in list_source_files(source)]
    return hash_text("\n".join(sorted(files)))
