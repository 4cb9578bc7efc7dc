"""Write sections and embedded traces as one page that loads nothing and runs no text that it shows.

A content policy names the hashes of the one style and the one script; nothing else may load, run or be sent anywhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from judgetrace.reporting.blocks import Facts, Section
from judgetrace.reporting.embedding import Packed


@dataclass(frozen=True)
class Page:
    """All that a page shows."""

    title: str
    subtitle: str
    facts: Facts
    sections: Sequence[Section]
    missing: Sequence[str] = field(default_factory=tuple)
    """What could be shown had its input been given: a sentence each."""
    provenance: Sequence[tuple[str, str]] = field(default_factory=tuple)
    packed: Packed | None = None
    browser_note: str = ""
    """Whether the trace browser holds everything or a sample."""


def write_page(page: Page) -> bytes:
    """Write a page as UTF-8. Half surrogate pairs, which no UTF-8 holds, become question marks."""
    style, script = read_asset("report.css"), read_asset("browser.js") if page.packed else ""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, auto_reload=False
    )
    environment.globals["safe_svg"] = Markup  # our own plots; their labels were escaped when they were written
    template = environment.from_string(read_asset("report.jinja"))
    text = template.render(page=page, style=Markup(style), script=Markup(script), policy=write_policy(style, script))
    return text.encode("utf-8", "replace")


def write_policy(style: str, script: str) -> str:
    """Write the content policy for one inline style and at most one inline script."""
    scripts = f"'sha256-{_hash(script)}'" if script else "'none'"
    rules = {
        "default-src": "'none'",
        "script-src": scripts,
        "style-src": f"'sha256-{_hash(style)}'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def read_asset(name: str) -> str:
    """Read a file of the package."""
    return (files("judgetrace") / "reporting" / name).read_text(encoding="utf-8")
