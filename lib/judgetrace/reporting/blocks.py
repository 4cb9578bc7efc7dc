"""What a report is made of: sections of blocks. Plain data; the template decides how they look."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

_FIGURE = re.compile(r"^$|^undefined$|^(filtered|all): |^[+\u2212-]?[\d.,]+( ?(%|s|min|h))?$|^\u2013$")

LONG_TEXT = 24
"""Characters."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    detail: str = ""
    """Set small beside the text: an interval."""
    tone: str = ""
    """good, bad, quiet, or nothing."""


Cells = list[str | Cell]
"""A row of a table."""


@dataclass(frozen=True)
class Table:
    """A table; the first `num_heads` cells of a row are its heads. Cells are texts or `Cell`s."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    num_heads: int = 1
    note: str = ""

    def cells(self) -> list[list[Cell]]:
        """Return all rows as cells."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds figures, which stand flush right."""
        if column < self.num_heads:
            return False
        return all(_FIGURE.match(text) for text in self._texts(column))

    def is_long(self, column: int) -> bool:
        """Whether a column holds sentences, which need room on a phone, too."""
        return any(len(text) > LONG_TEXT for text in self._texts(column))

    def list_classes(self) -> list[str]:
        """List how each column looks: n, long, or nothing. To be asked once a table, since it reads every cell."""
        return ["n" if self.is_numeric(n) else "long" if self.is_long(n) else "" for n in range(len(self.columns))]

    def _texts(self, column: int) -> Iterator[str]:
        for row in self.rows:
            cell = row[column]
            yield cell.text if isinstance(cell, Cell) else cell


@dataclass(frozen=True)
class Figure:
    """A plot, what it shows in words, and its data."""

    kind: ClassVar[str] = "figure"
    svg: str
    caption: str
    alternative: str
    data: Table


@dataclass(frozen=True)
class Figures:
    """Several plots, side by side where the page is wide."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Prose:
    """A paragraph; `quiet` for remarks."""

    kind: ClassVar[str] = "prose"
    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Notes:
    """A list of sentences under a title."""

    kind: ClassVar[str] = "notes"
    title: str
    sentences: Sequence[str]


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Fact:
    """A figure worth seeing first."""

    value: str
    name: str
    detail: str = ""


@dataclass(frozen=True)
class Facts:
    """Figures worth seeing first."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[Fact]


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix: counts [rows, columns], shaded within each column."""

    kind: ClassVar[str] = "matrix"
    caption: str
    row_name: str
    column_name: str
    levels: Sequence[str]
    counts: Sequence[Sequence[int]]

    def shades(self) -> list[list[tuple[int, int]]]:
        """Return for every cell its count and a shade 0 ... 9: its share of the column."""
        totals = [sum(row[column] for row in self.counts) for column in range(len(self.levels))]
        return [
            [
                (count, min(9, round(9 * count / total)) if total else 0)
                for count, total in zip(row, totals, strict=True)
            ]
            for row in self.counts
        ]


@dataclass(frozen=True)
class Matrices:
    """Several confusion matrices."""

    kind: ClassVar[str] = "matrices"
    matrices: Sequence[Matrix]


@dataclass(frozen=True)
class DiffLine:
    """A line of a comparison of texts."""

    mark: str
    """Space, +, - or @ (where lines that are the same were left out)."""
    text: str


@dataclass(frozen=True)
class Diff:
    """Two texts compared."""

    kind: ClassVar[str] = "diff"
    caption: str
    lines: Sequence[DiffLine]


@dataclass(frozen=True)
class Folded:
    """Blocks that are closed until someone opens them."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: Sequence[Block]


Block = Table | Figure | Figures | Prose | Notes | Heading | Facts | Matrices | Diff | Folded


@dataclass(frozen=True)
class Section:
    """A section with a heading of its own."""

    id: str
    title: str
    lead: str
    blocks: Sequence[Block] = field(default_factory=list)
    is_simulated: bool = False
    """Some engine behind its figures was no model."""
