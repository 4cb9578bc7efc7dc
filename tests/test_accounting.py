"""Counting what a run decided and spent."""

import math
import random
from collections import Counter

import pyarrow as pa
import pytest

from judgetrace.accounting import (
    MAX_ERRORS,
    Tally,
    acceptance_beyond_chance,
    add_tallies,
    coverage_by_dimension,
    label_counts,
    name_error,
    recovery_by_label,
    tally_ratings,
    tally_traces,
    utilisation_by_draws,
    utilisation_by_label,
)
from judgetrace.control import WorkCounts
from judgetrace.ledger import join_decisions
from judgetrace.schema import ITEMS, RATER_ANNOTATIONS, RATINGS, TRACES
from tests.trace_tables import make_decision, make_draw, make_items, table_of


def make_traces(num: int, seed: int = 0):
    rng = random.Random(seed)
    items = make_items(num)
    labels = items.column("target_label").to_pylist()
    rows = []
    for i in range(num):
        ratings = [rng.choice("12345") for _ in range(rng.randrange(1, 9))]
        reasons = ["accepted" if rating == labels[i] else "disagrees" for rating in ratings]
        draws = [
            make_draw(k, *pair, tokens=rng.randrange(50)) for k, pair in enumerate(zip(reasons, ratings, strict=True))
        ]
        rows.append(make_decision(items, i, "accepted" if "accepted" in reasons else "exhausted", draws))
    return join_decisions(items, table_of(*rows), TRACES)


def test_the_counts_are_those_of_counting_by_hand():
    items = make_items(4, labels="1245")
    table = join_decisions(
        items,
        table_of(
            make_decision(items, 0, "accepted", [make_draw(0, "disagrees", "3"), make_draw(1, "accepted", "1", 7)]),
            make_decision(items, 1, "accepted", [make_draw(0, "accepted", "2", 5), make_draw(1, "cancelled", None, 4)]),
            make_decision(items, 2, "exhausted", [make_draw(0, "unparsed"), make_draw(1, "truncated", None, 20)]),
            make_decision(items, 3, "quarantined", [], error="too long"),
        ),
        TRACES,
    )
    tally = tally_traces(table)
    assert tally.outcomes() == {"accepted": 2, "exhausted": 1, "quarantined": 1}
    assert tally.accepted_at == {"1": 1, "0": 1}
    assert tally.draws == {"disagrees": 1, "accepted": 2, "cancelled": 1, "unparsed": 1, "truncated": 1}
    assert tally.tokens == {"prompt": 600, "output": 10 + 7 + 5 + 4 + 10 + 20, "overshoot": 4, "accepted": 12}
    assert tally.errors == {"quarantined\x1ftoo long": 1}
    assert sorted(utilisation_by_label(tally)) == [("", "1", 1, 1), ("", "2", 1, 1), ("", "4", 0, 1), ("", "5", 0, 1)]
    assert utilisation_by_draws(tally, 4) == {1: 0.25, 2: 0.5, 4: 0.5}


def rate(items, row: int, outcome: str, label: str | None, error: str | None = None):
    unit = items.slice(row, 1).to_pylist()[0]
    rating = dict.fromkeys(RATINGS.names) | {name: unit[name] for name in ("item_id", "dimension", "target_source")}
    draws = [make_draw(0, "rated", label, 3), make_draw(1, "unparsed", None, 4)]
    return rating | {"outcome": outcome, "label": label, "error": error, "draws": draws, "shortened": False}


def test_ratings_are_counted_beside_the_target_labels():
    items = make_items(4, labels="1245")
    rows = [
        rate(items, 0, "rated", "2"),
        rate(items, 1, "rated", "2"),
        rate(items, 2, "unrated", None, "unparsed"),
        rate(items, 3, "failed", None, "away"),
    ]
    table = join_decisions(items, pa.Table.from_pylist(rows, schema=RATINGS), RATER_ANNOTATIONS)
    tally = tally_ratings(table)
    assert tally.outcomes() == {"rated": 2, "unrated": 1, "failed": 1}
    assert coverage_by_dimension(tally) == [("", 2, 4)]
    assert label_counts(tally, "") == ({"1": 1, "2": 1, "4": 1, "5": 1}, {"2": 2, "": 2})
    assert tally.errors == {"unrated\x1funparsed": 1, "failed\x1faway": 1}
    assert tally.tokens == {"prompt": 800, "output": 28}
    assert add_tallies([tally_ratings(table.slice(0, 1)), tally_ratings(table.slice(1))]) == tally
    assert tally_ratings(RATER_ANNOTATIONS.empty_table()) == Tally()


def test_tallies_of_any_split_add_up_to_the_same():
    table = make_traces(200)
    whole = tally_traces(table)
    for size in (1, 7, 64):
        parts = [tally_traces(table.slice(start, size)) for start in range(0, 200, size)]
        random.Random(size).shuffle(parts)
        assert add_tallies(parts) == whole
    assert tally_traces(TRACES.empty_table()) == Tally()
    assert Tally.from_json(whole.to_json()) == whole


def test_utilisation_by_draws_is_that_of_brute_force():
    table = make_traces(300, seed=3)
    rows = table.to_pylist()
    for n, share in utilisation_by_draws(tally_traces(table), 8).items():
        hits = sum(any(d["reason"] == "accepted" and d["index"] < n for d in row["draws"]) for row in rows)
        assert share == hits / 300


def test_acceptance_beyond_chance_is_cohens_kappa_of_the_first_draws():
    # Cohen's textbook table: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no; p_o = 0.7, p_e = 0.5, kappa = 0.4.
    pairs = Counter({"\x1fyes\x1fyes": 20, "\x1fyes\x1fno": 5, "\x1fno\x1fyes": 10, "\x1fno\x1fno": 15})
    result = acceptance_beyond_chance(Tally(first_draws=pairs), "", 2)
    assert result["observed"] == 0.7
    assert result["kappa"] == pytest.approx(0.4)
    assert result["corrected"] == pytest.approx(0.4)


def test_a_uniform_guesser_is_at_chance():
    pairs = Counter({f"d\x1f{label}\x1f{rating}": 10 for label in "12345" for rating in "12345"})
    result = acceptance_beyond_chance(Tally(first_draws=pairs), "d", 5)
    assert math.isclose(result["corrected"], 0.0, abs_tol=1e-12)
    assert math.isclose(result["kappa"], 0.0, abs_tol=1e-12)
    assert acceptance_beyond_chance(Tally(first_draws=pairs), "another", 5) is None


def test_one_level_only_leaves_kappa_at_zero_and_not_at_one():
    result = acceptance_beyond_chance(Tally(first_draws=Counter({"\x1f1\x1f1": 9})), "", 5)
    assert result["kappa"] == 0.0


def tally_first_draws(*units: tuple[list[str], str, str], **more: object) -> Tally:
    """Tally units of one draw each, given the labels that are accepted, what the draw said, and what came of it."""
    rows = [
        unit | {"target_label": labels[0], "accepted_labels": labels}
        for unit, (labels, _, _) in zip(make_items(len(units)).to_pylist(), units, strict=True)
    ]
    items = pa.Table.from_pylist(rows, ITEMS)
    decisions = [
        make_decision(items, row, "accepted" if reason == "accepted" else "exhausted", [make_draw(0, reason, rating)])
        for row, (_, rating, reason) in enumerate(units)
    ]
    return tally_traces(join_decisions(items, table_of(*(row | more for row in decisions)), TRACES))


def test_a_first_draw_that_says_either_accepted_label_is_a_match_and_luck_has_two_levels_to_hit():
    tally = tally_first_draws(
        (["1", "2"], "2", "accepted"),
        (["1", "2"], "1", "accepted"),
        (["3"], "3", "accepted"),
        (["3"], "2", "disagrees"),
    )
    result = acceptance_beyond_chance(tally, "", 5)

    # It is what the page calls data utilisation at one draw.
    assert result["observed"] == utilisation_by_draws(tally, 1)[1] == 0.75
    # A guess matches (2 + 2 + 1 + 1) / (4 * 5) = .3 of them.
    assert result["corrected"] == pytest.approx((0.75 - 0.3) / 0.7)
    # Draws say 1, 2, 3 in 1/4, 1/2, 1/4: half of the units match the first two, half of them the last: 3/8 + 1/8.
    assert result["kappa"] == pytest.approx(0.5)


def test_where_every_level_is_accepted_nothing_is_beyond_chance():
    result = acceptance_beyond_chance(tally_first_draws((["No", "Yes"], "Yes", "accepted")), "", 2)
    assert result == {"observed": 1.0, "corrected": 0.0, "kappa": 0.0}


def test_a_draw_that_was_told_the_label_matches_that_one_alone():
    tally = tally_first_draws((["1", "2"], "2", "disagrees"), hinted=True)
    assert acceptance_beyond_chance(tally, "", 5)["observed"] == 0.0


def test_units_without_any_draw_are_counted():
    items = make_items(2)
    rows = [make_decision(items, row, "quarantined", [], error="refused") for row in range(2)]
    tally = tally_traces(join_decisions(items, table_of(*rows), TRACES))
    assert tally.outcomes() == {"quarantined": 2}
    assert tally.tokens["output"] == 0


def test_recovered_ratings_are_counted_by_label():
    counts = {"d\x1f1\x1frecovered": 3, "d\x1f1\x1fmissed": 1, "d\x1f2\x1funrated": 2, "e\x1f1\x1frecovered": 5}
    assert recovery_by_label(Tally(units=Counter(counts))) == [("d", "1", 3, 4), ("d", "2", 0, 2), ("e", "1", 5, 5)]


def test_errors_that_differ_in_counts_and_ids_alone_are_one_and_statuses_stay():
    long = [name_error("quarantined", f"the prompt has {n} tokens, the model takes 15360") for n in (16001, 23117)]
    ids = [name_error("failed", f"429: busy (request {i})") for i in ("req-0a1b2c3d4e5f", "4b825dc6-42cb-6eb9-a060")]
    assert long[0] == long[1] == "quarantined: the prompt has # tokens, the model takes #"
    assert ids[0] == ids[1] == "failed: 429: busy (request #)"
    assert name_error("failed", "500: oops") == "failed: 500: oops"


def test_errors_of_any_number_of_kinds_take_bounded_room_and_none_is_lost():
    kinds = [Tally(errors=Counter({f"failed\x1fkind {chr(0x4E00 + n)}": 2, "failed\x1fusual": 1})) for n in range(900)]
    errors = add_tallies(kinds).errors
    assert len(errors) <= MAX_ERRORS + 1
    assert errors["failed\x1fusual"] == 900
    assert errors.total() == 2700
    work = WorkCounts()
    for tally in kinds:
        work += WorkCounts(errors=tally.errors)
    assert work.errors == errors
