"""Rows of traces as records of the trace browser: what is shown of a unit, as compact lists. Pure.

A record is [item id, fields, annotators' labels, sample SD, group, thinking, rating, index of the accepted draw, draws,
rationales, error]. A field is [name, text, characters cut off]; a draw [reason, rating, text, proposal]; a rationale
[annotator, label, text, characters cut off]; a text [text, characters cut off]. What is missing is null or "".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from judgetrace.label_noise import Reach
from judgetrace.reporting.traces_section import NoisyUnit
from judgetrace.scale import ScaleConfig
from judgetrace.schema import UnitKey

READ_COLUMNS = (
    "item_id",
    "dimension",
    "target_source",
    "target_label",
    "annotator_labels",
    "label_sd",
    "group",
    "split",
    "fields",
    "outcome",
    "trace",
    "rating",
    "draw_index",
    "accepted_by",
    "error",
    "proposal",
    "hinted",
    "draws",
)
"""Columns that are read where a file has them: older runs know no proposals."""

FACETS = ("outcome", "label", "dimension", "split", "proposal", "hint", "run", "accepted_by", "source")
"""What the trace browser filters by."""

NOISE, RATIONALE = 1, 2
"""Flags of a record: suspected label noise; people's reasons are given."""

Rationales = Mapping[tuple[str, str | None], Sequence[tuple[str, str, str]]]
"""(item_id, dimension; None where rationales have no dimension) -> (annotator, label, text)."""


@dataclass
class Records:
    """Records with their facets, in the same order."""

    records: list[list[Any]] = field(default_factory=list)
    facets: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in FACETS})
    keys: list[UnitKey] = field(default_factory=list)
    reaches: dict[UnitKey, Reach] = field(default_factory=dict)
    """What the draws of a unit came to in all runs, hinted ones left out."""

    def __len__(self) -> int:
        return len(self.records)

    def first(self, count: int) -> Records:
        """Return the first so many; of all units it is told what their draws came to."""
        facets = {name: values[:count] for name, values in self.facets.items()}
        return Records(self.records[:count], facets, self.keys[:count], self.reaches)

    def extend(self, other: Records) -> None:
        """Append other records."""
        self.records += other.records
        self.keys += other.keys
        for key, reach in other.reaches.items():
            self.reaches.setdefault(key, Reach(reach.target_label)).merge(reach)
        for name, values in other.facets.items():
            self.facets[name] += values


def make_records(table: pa.Table, run: str, rationales: Rationales, max_chars: int) -> Records:
    """Make the records of rows of traces (READ_COLUMNS, as far as there are)."""
    found = Records()
    if not table.num_rows:
        return found
    columns = {name: table.column(name).to_pylist() for name in table.column_names if name != "draws"}
    draws = _split_draws(table.column("draws").combine_chunks())
    empty = [None] * table.num_rows
    proposals, hinted = columns.get("proposal", empty), columns.get("hinted", empty)
    for n in range(table.num_rows):
        item, dimension, accepted = columns["item_id"][n], columns["dimension"][n], columns["draw_index"][n]
        own = draws[n]
        reasons = rationales.get((item, dimension)) or rationales.get((item, None)) or ()
        found.records.append(
            [
                item,
                _read_fields(columns["fields"][n], max_chars),
                columns["annotator_labels"][n] or [],
                _round(columns["label_sd"][n]),
                columns["group"][n] if columns["group"][n] != item else "",
                cut_text(columns["trace"][n], max_chars),
                columns["rating"][n],
                accepted,
                [_show_draw(draw, accepted, max_chars) for draw in own],
                [[who, label, *(cut_text(text, max_chars) or ["", 0])] for who, label, text in reasons],
                columns["error"][n],
            ]
        )
        source = columns["target_source"][n]
        found.keys.append((item, dimension, source))
        if not hinted[n]:
            reach = found.reaches.setdefault(found.keys[-1], Reach(columns["target_label"][n]))
            reach.add(columns["outcome"][n], [(draw.reason, draw.rating) for draw in own])
        at_accepted = next((d.proposal for d in own if d.index == accepted and d.proposal), None)
        values = (
            columns["outcome"][n],
            columns["target_label"][n],
            dimension,
            columns["split"][n],
            proposals[n] or at_accepted,
            "told" if hinted[n] else "not told",
            run,
            columns["accepted_by"][n],
            source,
        )
        for name, value in zip(FACETS, values, strict=True):
            found.facets[name].append(value or "")
    return found


@dataclass(frozen=True)
class _Draw:
    index: int
    reason: str
    rating: str | None
    text: str | None
    proposal: str | None


def _split_draws(draws: Any) -> list[list[_Draw]]:
    """Split a column of lists of draws; faster than making a mapping of every draw."""
    flat = pc.list_flatten(draws)
    names = {flat.type.field(n).name for n in range(flat.type.num_fields)}
    empty = [None] * len(flat)

    def read(name: str) -> list[Any]:
        return flat.field(name).to_pylist() if name in names else empty

    texts = [trace if trace is not None else text for trace, text in zip(read("trace"), read("text"), strict=True)]
    parts = zip(read("index"), read("reason"), read("rating"), texts, read("proposal"), strict=True)
    made = [_Draw(*part) for part in parts]
    ends, lists, start = pc.list_value_length(draws).to_pylist(), [], 0
    for length in ends:
        lists.append(made[start : start + (length or 0)])
        start += length or 0
    return lists


def _show_draw(draw: _Draw, accepted: int | None, max_chars: int) -> list[Any]:
    # The accepted draw's thinking is the record's own.
    text = None if draw.index == accepted else cut_text(draw.text, max_chars)
    return [draw.reason, draw.rating, text, draw.proposal]


def _read_fields(text: str, max_chars: int) -> list[list[Any]]:
    return [[name, *(cut_text(str(value), max_chars) or ["", 0])] for name, value in json.loads(text).items()]


def cut_text(text: str | None, max_chars: int) -> list[Any] | None:
    """Cut a text to `max_chars` characters; returns it with the number that was cut off."""
    return None if text is None else [text[:max_chars], max(0, len(text) - max_chars)]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def find_noise(found: Records, min_draws: int) -> set[UnitKey]:
    """Find the units that no draw of any run reached, among `min_draws` rated draws or more; see label_noise.py."""
    return {key for key, reach in found.reaches.items() if reach.is_suspect(min_draws)}


def list_noisy(
    found: Records, noise: set[UnitKey], scales: ScaleConfig, limit: int, max_chars: int = 160
) -> list[NoisyUnit]:
    """List the noisy units, the most suspect first; see label_noise.rank_suspect."""
    place: dict[UnitKey, int] = {}
    for n, key in enumerate(found.keys):
        if key in noise:
            place.setdefault(key, n)

    def rank(key: UnitKey) -> tuple[Any, ...]:
        scale = scales.of(key[1])
        assert scale is not None, f"prepare_corpus lets no unit of dimension {key[1]!r} through"
        return (*found.reaches[key].rank(scale), key)

    units = []
    for key in sorted(place, key=rank)[:limit]:
        record, reach = found.records[place[key]], found.reaches[key]
        text = " · ".join(" ".join(part[1].split()) for part in record[1])
        short = text if len(text) <= max_chars else text[:max_chars] + "…"
        units.append(NoisyUnit(key[0], key[1], reach.target_label, record[2], reach.ratings.most_common(), short))
    return units
