"""The panel of raters with a pool in this process: what is asked, kept, read and asked again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from judgetrace.config import UserError
from judgetrace.endpoint_config import EndpointConfig
from judgetrace.engine import EngineConfig, ModelConfig
from judgetrace.limits import LimitsConfig
from judgetrace.parsing import ThinkingConfig
from judgetrace.prompts import PromptConfig, load_template
from judgetrace.ratings import DecodingConfig, RatingDecider
from judgetrace.refining.driver_watch import DriverWatch, StoppedEarlyError
from judgetrace.refining.panel import Rater, RaterPanel, Shown
from judgetrace.refining.panel_rows import KNOWN_BY, KNOWN_RATINGS
from judgetrace.refining.part_log import PartLog
from judgetrace.refining.pool_results import gather_results
from judgetrace.refining.rater_worker import RaterSpec, RaterWorker
from judgetrace.run_folder import RunFolder
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.storage import Folder
from judgetrace.suspects import KILLED_TWICE
from tests.trace_tables import make_items

SCALE = Scale(values=("1", "2", "3", "4", "5"))
ITEMS = [row | {"fields": json.dumps({"text": f"label {row['target_label']}"})} for row in make_items(30).to_pylist()]
GOOD, BAD = Shown("quality 1.0"), Shown("quality 0.0")


class LocalPool:
    """A pool of one worker in this process, which does one batch after another."""

    def __init__(self, **script: object):
        engine = EngineConfig(kind="tests.guided_engine:GuidedEngine", slots=8, args=script)
        decider = RatingDecider("rater", DecodingConfig(max_tokens=100))
        shown = PromptConfig(), load_template(None), ScaleConfig(values=SCALE.values), ThinkingConfig()
        self.worker = RaterWorker(RaterSpec(ModelConfig(path="none"), engine, None, *shown, decider))

    def warm_up(self) -> None:
        pass

    def choose_batch_size(self, num_rows: int) -> int:
        return max(1, min(4, num_rows))

    def run(
        self, batches: Iterable[Any], should_stop: Callable[[], bool] = lambda: False, drain_s: float = 0.0
    ) -> Iterator[tuple[Any, Any]]:
        for batch in batches:
            if should_stop():
                return
            yield from ((batch[place], done) for place, done in self.worker.work(batch))


def make_panel(folder: Path, limits: LimitsConfig | None = None, prices: Any = None, **script: object) -> RaterPanel:
    run = RunFolder(Folder(str(folder / "run")))
    log = PartLog(run.folder / "ratings", KNOWN_RATINGS, KNOWN_BY)
    log.refresh()
    watch = DriverWatch(run, run.claim(0.0), limits or LimitsConfig(), {"a": prices, "b": None})
    raters = [Rater("a", "fa", LocalPool(**script)), Rater("b", "fb", LocalPool(**({"shift": 1.0} | script)))]
    return RaterPanel(raters, log, watch, SCALE, commit_every_s=0.0)


def read_journal(path: Path) -> Counter:
    return Counter(path.read_text().splitlines())


def test_ratings_are_read_as_numbers_by_rater_and_item(tmp_path) -> None:
    panel = make_panel(tmp_path)
    panel.rate("race", [(GOOD, ITEMS), (BAD, ITEMS[:5])])
    targets = np.array([float(item["target_label"]) for item in ITEMS])

    # A shift of 1 makes the second rater wrong always: one level up, and 1 in place of 5.
    assert panel.read_numbers(GOOD, ITEMS).tolist() == [targets.tolist(), (targets % 5 + 1).tolist()]
    assert panel.read_numbers(BAD, ITEMS[:5])[0].tolist() == [2, 3, 4, 5, 1]
    assert np.isnan(panel.read_numbers(BAD, ITEMS[5:])).all()


def test_nothing_is_asked_twice_by_this_call_or_the_next(tmp_path) -> None:
    journal = tmp_path / "journal"
    panel = make_panel(tmp_path, journal=str(journal))
    panel.rate("race", [(GOOD, ITEMS[:20])])
    panel.rate("race", [(GOOD, ITEMS), (BAD, ITEMS)])
    again = make_panel(tmp_path, journal=str(journal))
    again.rate("race", [(GOOD, ITEMS), (BAD, ITEMS)])

    # Both raters of this test are of one path.
    assert set(read_journal(journal).values()) == {2}
    assert len(read_journal(journal)) == 60
    assert (again.read_numbers(BAD, ITEMS) == panel.read_numbers(BAD, ITEMS)).all()


class SparingPool(LocalPool):
    """Finds that the first item kills engines, whichever guideline asks about it."""

    def run(
        self, batches: Iterable[Any], should_stop: Callable[[], bool] = lambda: False, drain_s: float = 0.0
    ) -> Iterator[tuple[Any, Any]]:
        for call in (call for batch in batches for call in batch):
            if call.row is ITEMS[0]:
                yield call, self.worker.refuse(call, f"{KILLED_TWICE}: gone")
            else:
                yield from ((call, done) for _, done in self.worker.work([call]))


def test_an_item_that_killed_a_raters_engines_is_not_asked_about_by_another_guideline(tmp_path) -> None:
    panel = make_panel(tmp_path, journal=str(tmp_path / "journal"))
    panel.raters = (Rater("a", "fa", SparingPool()), panel.raters[1])
    panel.rate("race", [(GOOD, ITEMS[:6])])
    again = make_panel(tmp_path, journal=str(tmp_path / "journal"))
    again.rate("race", [(BAD, ITEMS[:6])])

    # The other rater's engines have outlived it.
    asked = Counter(line.split("\t")[2] for line in (tmp_path / "journal").read_text().splitlines())
    assert asked == {row["item_id"]: 2 if row is ITEMS[0] else 3 for row in ITEMS[:6]}
    assert np.isnan(again.read_numbers(BAD, ITEMS[:6])).tolist() == [[True] + [False] * 5, [False] * 6]
    killers = [row for row in again.find_rows([(BAD, ITEMS[:1])]) if row["rater"] == "fa"]
    assert [(row["outcome"], row["output_tokens"]) for row in killers] == [("quarantined", 0)]


def test_failed_ratings_stop_the_run_until_the_third_takes_them_for_missing(tmp_path) -> None:
    failing = tmp_path / "failing"
    failing.mkdir()
    limits = LimitsConfig(max_failed_rate=1.0)
    with pytest.raises(StoppedEarlyError, match="ratings failed; nothing is decided without them"):
        make_panel(tmp_path, limits, fail_once=str(failing)).rate("race", [(GOOD, ITEMS)])
    make_panel(tmp_path, limits, fail_once=str(failing)).rate("race", [(GOOD, ITEMS)])

    for number in range(3):
        panel = make_panel(tmp_path, limits, fail_once="/nonexistent")
        if number < 2:
            with pytest.raises(StoppedEarlyError):
                panel.rate("race", [(BAD, ITEMS[:3])])
        else:
            panel.rate("race", [(BAD, ITEMS[:3])])
            assert np.isnan(panel.read_numbers(BAD, ITEMS[:3])).all()


def test_a_budget_of_tokens_ends_the_stage_and_keeps_what_was_answered(tmp_path) -> None:
    panel = make_panel(tmp_path, LimitsConfig(max_output_tokens=60), latency_s=0.05)
    with pytest.raises(StoppedEarlyError, match=r"limits.max_output_tokens reached"):
        panel.rate("race", [(GOOD, ITEMS)])

    kept = sum(1 for _ in make_panel(tmp_path).find_rows([(GOOD, ITEMS)]))
    assert 12 <= kept < 60


def test_a_budget_of_money_counts_each_raters_own_prices(tmp_path) -> None:
    prices = EndpointConfig(output_price=1e6)
    panel = make_panel(tmp_path, LimitsConfig(max_cost=20.0), prices)
    with pytest.raises(StoppedEarlyError, match=r"limits.max_cost reached"):
        panel.rate("race", [(GOOD, ITEMS)])


def test_a_newer_driver_ends_an_older_one(tmp_path) -> None:
    panel = make_panel(tmp_path)
    RunFolder(Folder(str(tmp_path / "run"))).claim(1.0)
    with pytest.raises(StoppedEarlyError, match="was replaced by a newer one"):
        panel.rate("race", [(GOOD, ITEMS)])


def test_the_driver_tells_how_far_it_is(tmp_path) -> None:
    panel = make_panel(tmp_path)
    panel.rate("race, look 1", [(GOOD, ITEMS)])
    run = RunFolder(Folder(str(tmp_path / "run")))
    (state,) = run.read_states().values()

    assert (state["state"], state["stage"], state["wanted"]) == ("running", "race, look 1", 60)


def test_a_rater_that_rates_nothing_by_the_original_is_named(tmp_path) -> None:
    panel = make_panel(tmp_path)
    long = Shown("word " * 5000)
    panel.rate("race", [(long, ITEMS), (GOOD, ITEMS)])

    panel.check_answers(GOOD, ITEMS)
    with pytest.raises(UserError, match=r"a gave no rating of 30 items by the original guideline; commonest: the pro"):
        panel.check_answers(long, ITEMS)


class FaultyPool:
    def run(
        self, batches: Iterable[Any], should_stop: Callable[[], bool] = lambda: False, drain_s: float = 0.0
    ) -> Iterator[tuple[Any, Any]]:
        yield "first", 1
        raise ValueError("scripted fault")


class EndlessPool:
    ended = False

    def run(
        self, batches: Iterable[Any], should_stop: Callable[[], bool] = lambda: False, drain_s: float = 0.0
    ) -> Iterator[tuple[Any, Any]]:
        while not should_stop():
            yield "again", 2
        self.ended = True


def test_the_error_of_one_pool_ends_the_others_and_is_raised() -> None:
    endless = EndlessPool()
    with pytest.raises(ValueError, match="scripted fault"):
        for _ in gather_results([(FaultyPool(), ["x"]), (endless, ["y"])], lambda: False, 1.0):
            pass
    assert endless.ended


def test_a_wish_to_stop_ends_all_pools() -> None:
    endless = EndlessPool()
    found = []
    for number, item, row in gather_results([(endless, ["y"])], lambda: len(found) > 3, 1.0):
        found.append((number, item, row))
    assert endless.ended
    assert set(found) == {(0, "again", 2)}
