"""Count what a run decided and spent: sums that add over shards, and the figures computed from them. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

UTILISATION_AT = (1, 2, 4, 8, 16, 32, 64)
MAX_ERRORS = 200
OTHER_ERRORS = "other errors"
_VARYING = re.compile(r"\b(?=[\w-]*\d)[\w-]{12,}\b|\b\d{4,}\b")
"""Ids, and numbers from four digits on: statuses of servers stay."""
_SEPARATOR = "\x1f"  # in no label or dimension that a person types
_EITHER = "\x1e"  # nor this: it stands between labels of which a draw may match any


def name_level(dimension: str, label: str) -> str:
    """Name a target label of a dimension as the keys of a Tally begin."""
    return f"{dimension}{_SEPARATOR}{label}"


def name_error(outcome: str, error: str, separator: str = ": ") -> str:
    """Name an error so that those which differ in a count or an id alone are one."""
    return f"{outcome}{separator}{_VARYING.sub('#', error)}"[:200]


def count_error(errors: Counter[str], name: str, count: int = 1) -> None:
    """Count an error by its name; beyond MAX_ERRORS different ones all others are one."""
    errors[name if name in errors or len(errors) < MAX_ERRORS else OTHER_ERRORS] += count


def merge_errors(errors: Counter[str], more: Mapping[str, int]) -> None:
    """Add counts of errors to others, in place."""
    for name, count in more.items():
        count_error(errors, name, count)


def split_key(key: str) -> list[str]:
    """Split a key of a Tally into its parts."""
    return key.split(_SEPARATOR)


@dataclass
class Tally:
    """Counts of decided units and their draws. Every field is a sum, so tallies add. Keys are joined by _SEPARATOR."""

    units: Counter[str] = field(default_factory=Counter)
    """By dimension, target label and outcome."""
    accepted_at: Counter[str] = field(default_factory=Counter)
    """Accepted units by the index of their first accepted draw."""
    accepted_by: Counter[str] = field(default_factory=Counter)
    """Accepted units by the rule that accepted them."""
    draws: Counter[str] = field(default_factory=Counter)
    """Draws by reason."""
    first_draws: Counter[str] = field(default_factory=Counter)
    """Units by dimension, labels that draw 0 may match (_EITHER), and its rating, or the label given ("": none)."""
    errors: Counter[str] = field(default_factory=Counter)
    """Quarantined and failed units by outcome and error."""
    tokens: Counter[str] = field(default_factory=Counter)
    """prompt, output, overshoot (output of draws that no outcome depends on), accepted (output of accepted draws)."""

    flags: Counter[str] = field(default_factory=Counter)
    """Verified traces by what was found: leaks, hinted, hinted_leaks (name a level, or say that they were told)."""

    def __add__(self, other: Tally) -> Tally:
        return add_tallies([self, other])

    def to_json(self) -> str:
        """Write the tally as JSON."""
        return json.dumps(vars(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Tally:
        """Read what `to_json` wrote."""
        return cls(**{name: Counter(counts) for name, counts in json.loads(text).items()})

    def outcomes(self) -> Counter[str]:
        """Units by outcome."""
        return _sum_by(self.units, 2)

    @property
    def num_units(self) -> int:
        """All units counted."""
        return sum(self.units.values())

    @property
    def num_tried(self) -> int:
        """Units but those that were over their level's quota and never asked."""
        return self.num_units - self.outcomes()["over_quota"]

    def count_accepted(self) -> Counter[str]:
        """Count accepted units by level (name_level)."""
        return _sum_by(Counter({key: n for key, n in self.units.items() if split_key(key)[2] == "accepted"}), 0, 1)

    @property
    def num_accepted(self) -> int:
        """Units with an accepted draw."""
        return self.outcomes()["accepted"]


def add_tallies(tallies: Iterable[Tally]) -> Tally:
    """Add any number of tallies."""
    total = Tally()
    for tally in tallies:
        for part in fields(Tally):
            add = merge_errors if part.name == "errors" else Counter.update
            add(getattr(total, part.name), getattr(tally, part.name))
    return Tally(*(+getattr(total, part.name) for part in fields(Tally)))


def tally_traces(table: pa.Table) -> Tally:
    """Count a table of schema.TRACES."""
    if not table.num_rows:
        return Tally()
    draws = table.column("draws").combine_chunks()
    unit = pc.list_parent_indices(draws)
    flat = pc.list_flatten(draws)
    reason, index, output = (flat.field(name) for name in ("reason", "index", "output_tokens"))
    in_vain = pc.greater_equal(index, table.column("num_needed").take(unit).combine_chunks())
    first = pc.equal(index, 0)
    first_units = table.take(unit.filter(first))
    accepted = table.filter(pc.equal(table.column("outcome"), "accepted"))
    faulty = table.filter(pc.is_in(table.column("outcome"), pa.array(["quarantined", "failed"])))
    accepted_draw = pc.equal(index, table.column("draw_index").take(unit).combine_chunks())
    return Tally(
        units=_count(table.column("dimension"), table.column("target_label"), table.column("outcome")),
        accepted_at=_count(accepted.column("draw_index")),
        accepted_by=_count(accepted.column("accepted_by")),
        draws=_count(reason),
        first_draws=_count(
            first_units.column("dimension"), _name_matching(first_units), flat.field("rating").filter(first)
        ),
        errors=_count_errors(faulty),
        tokens=Counter(
            prompt=_total(flat.field("prompt_tokens")),
            output=_total(output),
            overshoot=_total(output.filter(in_vain)),
            accepted=_total(output.filter(pc.fill_null(accepted_draw, False))),
        ),
    )


def _name_matching(units: pa.Table) -> Any:
    """Name the labels that a draw of each unit may match, the target label first; a hinted one may match that alone."""
    hinted = pc.fill_null(units.column("hinted"), False)
    return pc.if_else(hinted, units.column("target_label"), pc.binary_join(units.column("accepted_labels"), _EITHER))


def tally_ratings(table: pa.Table) -> Tally:
    """Count a table of schema.RATER_ANNOTATIONS. `first_draws` counts the label given beside the target label."""
    if not table.num_rows:
        return Tally()
    flat = pc.list_flatten(table.column("draws").combine_chunks())
    output = flat.field("output_tokens")
    faulty = table.filter(pc.is_in(table.column("outcome"), pa.array(["unrated", "quarantined", "failed"])))
    compared = table.filter(pc.is_valid(table.column("target_label")))
    return Tally(
        units=_count(table.column("dimension"), table.column("target_label"), table.column("outcome")),
        draws=_count(flat.field("reason")),
        first_draws=_count(compared.column("dimension"), compared.column("target_label"), compared.column("label")),
        errors=_count_errors(faulty),
        tokens=Counter(prompt=_total(flat.field("prompt_tokens")), output=_total(output)),
    )


def tally_verifications(table: pa.Table) -> Tally:
    """Count a table of schema.VERIFICATIONS. `first_draws` counts the label recovered beside the trace's rating."""
    if not table.num_rows:
        return Tally()
    flat = pc.list_flatten(table.column("draws").combine_chunks())
    faulty = table.filter(pc.is_in(table.column("outcome"), pa.array(["unrated", "quarantined", "failed"])))
    leaks, hinted = table.column("leaks"), table.column("hinted")
    tells = pc.and_(hinted, pc.or_(leaks, table.column("mentions_hint")))
    return Tally(
        units=_count(table.column("dimension"), table.column("target_label"), table.column("outcome")),
        draws=_count(flat.field("reason")),
        first_draws=_count(table.column("dimension"), table.column("rating"), table.column("recovered_label")),
        errors=_count_errors(faulty),
        tokens=Counter(prompt=_total(flat.field("prompt_tokens")), output=_total(flat.field("output_tokens"))),
        flags=Counter(leaks=_total(leaks), hinted=_total(hinted), hinted_leaks=_total(tells)),
    )


def _count_errors(faulty: pa.Table) -> Counter[str]:
    """Count the rows of a table by outcome and error."""
    errors: Counter[str] = Counter()
    for key, count in _count(faulty.column("outcome"), faulty.column("error")).items():
        outcome, error = split_key(key)
        count_error(errors, name_error(outcome, error, _SEPARATOR), count)
    return errors


def _count(*columns: Any) -> Counter[str]:
    texts = [pc.fill_null(pc.cast(column, pa.string()), "") for column in columns]
    joined = texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, _SEPARATOR)
    return Counter({entry["values"]: entry["counts"] for entry in pc.value_counts(joined).to_pylist()})


def _total(column: Any) -> int:
    return int(pc.sum(column).as_py() or 0)


def _sum_by(counts: Counter[str], *parts: int) -> Counter[str]:
    totals: Counter[str] = Counter()
    for key, count in counts.items():
        pieces = key.split(_SEPARATOR)
        totals[_SEPARATOR.join(pieces[part] for part in parts)] += count
    return totals


def utilisation_by_draws(tally: Tally, max_draws: int) -> dict[int, float]:
    """Compute the share of units with an accepted draw among their first n, for n = 1, 2, 4, ... and `max_draws`.

    Units over their level's quota, which were never asked, count as neither.
    """
    points = sorted({n for n in UTILISATION_AT if n < max_draws} | {max_draws})
    counts = {n: sum(c for index, c in tally.accepted_at.items() if int(index) < n) for n in points}
    return {n: count / tally.num_tried if tally.num_tried else 0.0 for n, count in counts.items()}


def utilisation_by_label(tally: Tally) -> list[tuple[str, str, int, int]]:
    """List (dimension, target label, accepted units, all units but those over quota)."""
    totals = _sum_by(Counter({k: c for k, c in tally.units.items() if split_key(k)[2] != "over_quota"}), 0, 1)
    hits = tally.count_accepted()
    rows = []
    for key, total in totals.items():
        dimension, label = key.split(_SEPARATOR)
        rows.append((dimension, label, hits[key], total))
    return rows


def recovery_by_label(tally: Tally) -> list[tuple[str, str, int, int]]:
    """List (dimension, target label, traces whose rating was recovered, all traces) of a tally of verifications."""
    totals = _sum_by(tally.units, 0, 1)
    hits = _sum_by(Counter({k: c for k, c in tally.units.items() if split_key(k)[2] == "recovered"}), 0, 1)
    keys = ((split_key(key), key) for key in sorted(totals))
    return [(dimension, label, hits[key], totals[key]) for (dimension, label), key in keys]


def coverage_by_dimension(tally: Tally) -> list[tuple[str, int, int]]:
    """List (dimension, items with a rating, all items) in order of names."""
    totals, rated = _sum_by(tally.units, 0), _sum_by(tally.units, 0, 2)
    return [(dimension, rated[f"{dimension}{_SEPARATOR}rated"], total) for dimension, total in sorted(totals.items())]


def label_counts(tally: Tally, dimension: str) -> tuple[Counter[str], Counter[str]]:
    """Count target labels, and the labels given, of the items of a dimension that have a target label."""
    own = Counter({k: n for k, n in tally.first_draws.items() if k.split(_SEPARATOR)[0] == dimension})
    return _sum_by(own, 1), _sum_by(own, 2)


def count_first_draws(tally: Tally, dimension: str) -> Counter[tuple[tuple[str, ...], str]]:
    """Count a dimension's units by the labels that draw 0 may match, the target label first, and its rating or ""."""
    counts: Counter[tuple[tuple[str, ...], str]] = Counter()
    for key, n in tally.first_draws.items():
        own_dimension, labels, rating = split_key(key)
        if own_dimension == dimension:
            counts[tuple(labels.split(_EITHER)), rating] += n
    return counts


def sum_margins(counts: Counter[tuple[tuple[str, ...], str]]) -> tuple[Counter[tuple[str, ...]], Counter[str]]:
    """Sum what count_first_draws counted: units by the labels that they accept, first draws by their rating."""
    units: Counter[tuple[str, ...]] = Counter()
    ratings: Counter[str] = Counter()
    for (labels, rating), n in counts.items():
        units[labels] += n
        ratings[rating] += n
    return units, ratings


def acceptance_beyond_chance(tally: Tally, dimension: str, num_levels: int) -> dict[str, float] | None:
    """Compare how often draw 0 matches with chance; None where no unit of the dimension was drawn.

    It matches with the target label, or another one that the target rule accepts; not by what the acceptance rule adds.
    Returns `observed`; `corrected` = (observed - e) / (1 - e), chance e being a uniform guess among the V levels, which
    matches k labels in k / V; `kappa`, chance being the product of both marginals: of units and of ratings (Cohen 1960,
    where each unit has one label). A draw without a rating is a miss.
    """
    counts = count_first_draws(tally, dimension)
    total = counts.total()
    if not total:
        return None
    units, ratings = sum_margins(counts)
    observed = sum(n for (labels, rating), n in counts.items() if rating in labels) / total
    guessed = sum(n * len(labels) for labels, n in units.items()) / (num_levels * total)
    expected = sum(n * sum(ratings[label] for label in labels) for labels, n in units.items()) / total**2
    return {
        "observed": observed,
        "corrected": correct_for_chance(observed, guessed),
        "kappa": correct_for_chance(observed, expected),
    }


def correct_for_chance(observed: float, chance: float) -> float:
    """Compute which share of what chance leaves to be matched is matched; 0 where it leaves nothing."""
    return 0.0 if chance == 1 else (observed - chance) / (1 - chance)
