"""The raters that score candidates: ask them what is not known yet, and read their ratings as numbers.

A rating is known by the guideline's text, the rater and the unit, so that nothing is asked twice: not by the next
round, not by the next run, not for another candidate of the same text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from judgetrace.config import UserError
from judgetrace.fingerprints import hash_text
from judgetrace.refining.driver_watch import DriverWatch, StoppedEarlyError
from judgetrace.refining.engine_pool import DoneRow, EnginePool
from judgetrace.refining.panel_rows import KNOWN_BY
from judgetrace.refining.part_log import PartLog, PendingRows
from judgetrace.refining.pool_results import gather_results
from judgetrace.refining.rater_worker import RatingCall
from judgetrace.scale import Scale
from judgetrace.schema import unit_key
from judgetrace.suspects import KILLED_TWICE

MIN_ANSWERED = 10


@dataclass(frozen=True)
class Rater:
    """A rater of the panel."""

    rater_id: str
    fingerprint: str
    pool: EnginePool


@dataclass(frozen=True)
class Shown:
    """A guideline as raters are shown it."""

    guideline: str

    @cached_property
    def text(self) -> str:
        """Its fingerprint."""
        return hash_text(self.guideline)


class RaterPanel:
    """Raters, and the log of their ratings."""

    def __init__(
        self,
        raters: Sequence[Rater],
        log: PartLog,
        watch: DriverWatch,
        scale: Scale,
        *,
        commit_every_s: float = 5.0,
        drain_s: float = 20.0,
    ):
        self.raters, self._log, self._watch, self._scale = tuple(raters), log, watch, scale
        self._pending, self._drain_s = PendingRows(log, commit_every_s), drain_s

    def rate(self, stage: str, wanted: Sequence[tuple[Shown, Sequence[Mapping[str, Any]]]]) -> None:
        """Have items (rows of schema.ITEMS) rated by all raters under each guideline; asks what is not known.

        Raises StoppedEarlyError where the run is to end, and where ratings failed that the next run may get.
        """
        for rater in self.raters:
            self._spare_engines(rater, wanted)
        asked = [self._make_batches(rater, wanted) for rater in self.raters]
        self._watch.begin(stage, sum(len(batch) for batches in asked for batch in batches))
        if any(asked):
            self._watch.check()
            for rater, batches in zip(self.raters, asked, strict=True):
                if batches:
                    rater.pool.warm_up()
            self._ask(asked)
        self._check_failures(wanted)

    def _spare_engines(self, rater: Rater, wanted: Sequence[tuple[Shown, Sequence[Mapping[str, Any]]]]) -> None:
        """Record an item that killed a rater's engines by one guideline as quarantined by the others, unasked."""
        killers = {
            unit_key(known): known
            for known in self._log.rows
            if known["rater"] == rater.fingerprint and KILLED_TWICE in (known["error"] or "")
        }
        no_tokens = {"prompt_tokens": 0, "output_tokens": 0}
        spared = [
            {**killers[unit_key(row)], "text": shown.text, **no_tokens}
            for shown, rows in wanted
            for row in (rows if killers else ())
            if unit_key(row) in killers and self._log.lacks(*_make_key(shown, rater, row))
        ]
        if spared:
            self._pending.add(spared)
            self._pending.commit()

    def _make_batches(
        self, rater: Rater, wanted: Sequence[tuple[Shown, Sequence[Mapping[str, Any]]]]
    ) -> list[list[RatingCall]]:
        """Make batches of what a rater is still to be asked, guideline by guideline: engines keep common beginnings."""
        missing = [
            (shown, [row for row in rows if self._log.lacks(*_make_key(shown, rater, row))]) for shown, rows in wanted
        ]
        size = rater.pool.choose_batch_size(sum(len(rows) for _, rows in missing))
        return [
            [RatingCall(shown.text, shown.guideline, row) for row in rows[start : start + size]]
            for shown, rows in missing
            for start in range(0, len(rows), size)
        ]

    def _ask(self, asked: Sequence[Sequence[Sequence[RatingCall]]]) -> None:
        runs = [(rater.pool, batches) for rater, batches in zip(self.raters, asked, strict=True)]
        try:
            for number, call, done in gather_results(runs, self._look, self._drain_s):
                self._take(self.raters[number], call, done)
        finally:
            self._pending.commit()
        self._watch.check()

    def _look(self) -> bool:
        self._pending.commit_when_due()
        return self._watch.look()

    def _take(self, rater: Rater, call: RatingCall, done: DoneRow) -> None:
        row = {"text": call.text, "rater": rater.fingerprint, **_sum_draws(done.row)}
        self._watch.note(rater.rater_id, [row])
        self._watch.note_engine(rater.rater_id, done.worker, done.engine_s)
        self._pending.add([row])

    def _check_failures(self, wanted: Sequence[tuple[Shown, Sequence[Mapping[str, Any]]]]) -> None:
        failed = [row for row in self.find_rows(wanted) if row["outcome"] == "failed"]
        again = [row for row in failed if self._log.lacks(*(row[name] for name in KNOWN_BY))]
        if again:
            raise StoppedEarlyError(
                f"{len(again):,} ratings failed; nothing is decided without them. The last: {again[-1]['error']}"
            )

    def check_answers(self, shown: Shown, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise UserError where a rater gave no rating by the original guideline: that is no candidate's fault."""
        for rater in self.raters:
            known = [self._log.find(*_make_key(shown, rater, row)) or {} for row in rows]
            if len(rows) >= MIN_ANSWERED and not any(row.get("outcome") == "rated" for row in known):
                commonest = Counter(str(row.get("error")) for row in known).most_common(1)[0][0]
                raise UserError(
                    f"{rater.rater_id} gave no rating of {len(rows):,} items by the original guideline; commonest: "
                    f"{commonest}\nChange its prompt, thinking or decoding, or leave it out of raters."
                )

    def find_rows(self, wanted: Sequence[tuple[Shown, Sequence[Mapping[str, Any]]]]) -> Iterator[Mapping[str, Any]]:
        """Find the known ratings (KNOWN_RATINGS) of items under guidelines."""
        for shown, rows in wanted:
            for rater in self.raters:
                for row in rows:
                    known = self._log.find(*_make_key(shown, rater, row))
                    if known is not None:
                        yield known

    def list_texts(self, rows: Sequence[Mapping[str, Any]]) -> set[str]:
        """List the fingerprints of all guidelines under which some of these items have been asked about, ever."""
        units = {unit_key(row) for row in rows}
        return {known["text"] for known in self._log.rows if unit_key(known) in units}

    def read_numbers(self, shown: Shown, rows: Sequence[Mapping[str, Any]], as_levels: bool = False) -> np.ndarray:
        """Read the ratings [R, N] of items in the scale's numbers; NaN where a rater gave none.

        `as_levels` takes the label's number where the rating is a mean or an expectation; so do nominal scales.
        """
        numbers = np.full((len(self.raters), len(rows)), np.nan)
        for place, rater in enumerate(self.raters):
            for column, row in enumerate(rows):
                known = self._log.find(*_make_key(shown, rater, row))
                if known is not None and known["outcome"] == "rated":
                    numbers[place, column] = self._read_number(known, as_levels)
        return numbers

    def _read_number(self, known: Mapping[str, Any], as_levels: bool) -> float:
        if as_levels or known["rating"] is None:
            return self._scale.numbers[self._scale.values.index(known["label"])]
        return float(known["rating"])


def _make_key(shown: Shown, rater: Rater, row: Mapping[str, Any]) -> tuple[str, ...]:
    return (shown.text, rater.fingerprint, *unit_key(row))


def _sum_draws(row: Mapping[str, Any]) -> dict[str, Any]:
    """Put the tokens of a row's draws in place of the draws."""
    tokens = {name: sum(draw[name] or 0 for draw in row["draws"]) for name in ("prompt_tokens", "output_tokens")}
    return {name: value for name, value in row.items() if name != "draws"} | tokens
