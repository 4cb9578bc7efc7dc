"""Turn a matplotlib figure into SVG that takes its colours from the page, and that a strict content policy lets pass.

Plots are drawn in marker colours, one for each role. Here these become classes, which the style sheet colours for light
and dark; inline styles become attributes, since a policy without 'unsafe-inline' ignores styles. Text stays text.
"""

from __future__ import annotations

import io
import re
import warnings
from contextlib import AbstractContextManager
from typing import Any, cast
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

ROLES = {
    "ink": "#010101",
    "quiet": "#020202",
    "grid": "#030303",
    "paper": "#040404",
    "one": "#0a0001",
    "two": "#0a0002",
    "three": "#0a0003",
    "four": "#0a0004",
    "five": "#0a0005",
    "band": "#0a0006",
}
"""What a colour is for -> the colour that stands for it while plotting."""

SERIES = ("one", "two", "three", "four", "five")
WIDTH = 4.5
"""Inches; at 72 units an inch a plot is 324 units wide, and read at its own size on a phone."""

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_ROLE_OF = {colour: role for role, colour in ROLES.items()}
_KEPT = {
    "fill",
    "stroke",
    "stroke-width",
    "stroke-linecap",
    "stroke-linejoin",
    "stroke-dasharray",
    "stroke-dashoffset",
    "fill-opacity",
    "stroke-opacity",
    "opacity",
    "text-anchor",
}
_FONT_SIZE = re.compile(r"([\d.]+)px")
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.titlesize": 10,
    "text.color": ROLES["ink"],
    "axes.labelcolor": ROLES["quiet"],
    "axes.edgecolor": ROLES["grid"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": ROLES["grid"],
    "grid.linewidth": 0.6,
    "xtick.color": ROLES["grid"],
    "ytick.color": ROLES["grid"],
    "xtick.labelcolor": ROLES["quiet"],
    "ytick.labelcolor": ROLES["quiet"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Make an empty figure; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def plot_style() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn: the report's style."""
    return rc_context(_STYLE)


def clean_label(text: str, limit: int = 30) -> str:
    """Make a text fit to be a label: printable in XML, one line, not longer than `limit`."""
    text = " ".join(_UNWRITABLE.sub("\ufffd", text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def write_svg(figure: Figure, name: str, alternative: str) -> str:
    """Write a figure as an SVG element for an HTML page; `name` keeps its ids apart from those of other plots."""
    target, canvas = io.StringIO(), cast(Any, FigureCanvasSVG(figure))
    with warnings.catch_warnings(), rc_context({**_STYLE, "svg.hashsalt": name}):
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # a browser has fonts that matplotlib has not
        canvas.print_svg(target, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(_UNWRITABLE.sub("\ufffd", target.getvalue()))
    _remove_unused(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        _rewrite(element, name)
    root.set("role", "img")
    root.set("aria-label", alternative)
    root.set("class", "plot")
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    return ElementTree.tostring(root, encoding="unicode")


def _remove_unused(root: ElementTree.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rsplit("}")[-1] in ("metadata", "style"):
                parent.remove(child)


def _rewrite(element: ElementTree.Element, name: str) -> None:
    classes = []
    for prop, value in _read_style(element.attrib.pop("style", "")):
        role = _ROLE_OF.get(value.lower())
        if prop in ("font", "font-size"):
            size = _FONT_SIZE.search(value)
            if size:
                element.set("font-size", size.group(1))
        elif role is not None and prop in ("fill", "stroke"):
            classes.append(f"{prop}-{role}")
        elif prop in _KEPT:
            element.set(prop, value)
    if classes:
        element.set("class", " ".join(classes))
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.get('id')}")
    if _HREF in element.attrib:
        element.set("href", f"#{name}-{element.attrib.pop(_HREF).removeprefix('#')}")
    clip = element.get("clip-path", "")
    if clip.startswith("url(#"):
        element.set("clip-path", f"url(#{name}-{clip[5:]}")


def _read_style(style: str) -> list[tuple[str, str]]:
    pairs = (part.partition(":") for part in style.split(";"))
    return [(prop.strip(), value.strip()) for prop, _, value in pairs if prop.strip()]
