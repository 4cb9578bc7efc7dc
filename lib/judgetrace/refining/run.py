"""The driver of refine_guideline on a connected Ray: candidates, contest, test split.

Everything is a function of calls and ratings that the run folder keeps: a driver that starts anew goes through the same
steps and asks only what is not known.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.markup import escape

from judgetrace.config import UserError
from judgetrace.refining.agreement_change import CHANGES, Ratings, measure_change
from judgetrace.refining.candidate_config import GENERATOR
from judgetrace.refining.config import RefineGuidelineConfig
from judgetrace.refining.contest import Contest, hold_contest
from judgetrace.refining.driver_watch import DriverWatch, StoppedEarlyError
from judgetrace.refining.engine_pool import EnginePool
from judgetrace.refining.entries import Entry, list_entries
from judgetrace.refining.generation import Generate, generate_candidates
from judgetrace.refining.held_items import Part
from judgetrace.refining.inputs import RefineInputs
from judgetrace.refining.look_log import fingerprint_look, number_look
from judgetrace.refining.outcome import Outcome, Spent
from judgetrace.refining.panel import Rater, RaterPanel, Shown
from judgetrace.refining.panel_rows import KNOWN_BY, KNOWN_RATINGS
from judgetrace.refining.part_log import PartLog
from judgetrace.refining.publishing import print_outcome, write_manifest, write_outputs
from judgetrace.refining.rater_worker import RaterSpec, RaterWorker
from judgetrace.refining.scores import score_items
from judgetrace.refining.trace_choice import TraceSupply
from judgetrace.run_folder import Fence, FencedError, RunFolder
from judgetrace.session import check_resources
from judgetrace.storage import Folder
from judgetrace.unit_job import end_early
from judgetrace.unit_run import needs_of


def refine(console: Console, inputs: RefineInputs, started_here: bool, generate: Generate = generate_candidates) -> int:
    """Refine a guideline; returns the job's exit status: 0 complete, 3 ended early and can be continued."""
    config, run = inputs.config, RunFolder(Folder(inputs.config.run))
    engines = {GENERATOR: config.generator.engine, **{rater.rater: rater.engine for rater in config.raters}}
    for name, engine in engines.items():
        check_resources(name, needs_of(engine), started_here)
    if started_here:
        check_rooms(config)
    run.check_store()
    run.check_contract(inputs.contract())
    driver = run.claim(time.time(), describe_run(inputs))
    # What it says is of the rules of an earlier call.
    run.folder.delete(["manifest.json"])
    watch = DriverWatch(run, driver, config.limits, config.endpoints())
    job = RefineRun(console, inputs, run, driver=driver, watch=watch, generate=generate)
    with watch.signals():
        try:
            outcome = job.work()
        except (StoppedEarlyError, FencedError) as stop:
            watch.write_state(str(stop))
            console.print(
                f"[bold]Ended early[/]: {escape(str(stop))}\nRun the same command again to go on.", soft_wrap=True
            )
            return end_early(config.limits, isinstance(stop, FencedError) or stop.is_planned)
        except BaseException as error:
            watch.write_state(f"failed: {error}"[:1000])
            raise
    watch.write_state("complete")
    print_outcome(console, config.run, outcome)
    return 0


def check_rooms(config: RefineGuidelineConfig) -> None:
    """Check that a Ray that can't grow has room for all that is up at once: none would end to make way for another.

    Raises UserError.
    """
    raters = {rater.rater: rater.engine for rater in config.raters}
    firsts = [needs_of(engine) for engine in raters.values() for _ in range(engine.min_replicas)]
    check_room(f"raters: the first engines of {list(raters)}", firsts, "Lower their engine.num_{}s (fractions may do).")
    if {"rubric", "both"} & set(config.candidates.kinds):
        engine, embedding = config.generator.engine, config.embedding
        writers = [needs_of(engine) for _ in range(engine.max_replicas)]
        check_room(
            "generator and embedding: generator.engine.max_replicas engines and one embedding worker",
            [*writers, {"CPU": embedding.num_cpus, "GPU": embedding.num_gpus}],
            "Lower generator.engine.max_replicas, or num_{}s of generator.engine or embedding (fractions may do).",
        )


def check_room(who: str, needs: Sequence[Mapping[str, float]], remedy: str) -> None:
    """Check that Ray has what several workers need together, given the resources of each. Raises UserError."""
    import ray

    have = ray.cluster_resources()
    for name in ("CPU", "GPU"):
        wanted = sum(need[name] for need in needs)
        if wanted > have.get(name, 0.0):
            raise UserError(
                f"{who} are up at once and need {wanted:g} {name}; this machine has {have.get(name, 0.0):g}\n"
                + remedy.format(name.lower())
            )


def describe_run(inputs: RefineInputs) -> dict[str, Any]:
    """Collect what a driver leaves for those who look at its run from elsewhere."""
    config = inputs.config.model_dump(mode="json")
    return {"job": "refine_guideline", "dimension": inputs.dimension, "config": config}


def list_repeats(num_others: int) -> Iterator[str]:
    """Say where this run folder's test split has been rated by other refined guidelines before."""
    if num_others:
        yield (
            f"The test split has been rated with {num_others:,} other refined guideline(s) in this run folder: who "
            "chose between them by its figures has no test split left."
        )


def check_held(inputs: RefineInputs) -> None:
    """Check that there are items to race and to confirm candidates on. Raises UserError."""
    for part in ("race", "confirm"):
        if not inputs.items.rows[part]:
            raise UserError(
                f"corpus = {inputs.config.corpus}: no items of dimension {inputs.dimension!r} to {part} candidates on\n"
                "expected: items of the validation split (split.validation of prepare_corpus) with one target label "
                "each (any target.rule but per_annotator)"
            )


class RefineRun:
    """One call of the job."""

    def __init__(
        self,
        console: Console,
        inputs: RefineInputs,
        run: RunFolder,
        *,
        driver: int,
        watch: DriverWatch,
        generate: Generate,
    ):
        self._console, self._inputs, self._run, self._watch = console, inputs, run, watch
        self._generate, self._driver, self._fence = generate, driver, Fence(run, driver)
        self._ratings = PartLog(run.folder / "ratings", KNOWN_RATINGS, KNOWN_BY, self._fence.check)

    def work(self) -> Outcome:
        """Do all that is not done yet, and write the outputs. Raises StoppedEarlyError, FencedError."""
        self._ratings.refresh()
        check_held(self._inputs)
        made = self._generate(self._inputs, self._run, self._fence, self._watch)
        entries = list_entries(made.candidates, self._inputs.guideline, self._inputs.dimension)
        self._print_entries(entries)
        with self._open_panel() as panel:
            contest = self._hold_contest(panel, entries)
            outcome = self._measure(panel, entries, contest, made.traces)
        self._fence.check()
        write_outputs(outcome, made.critiques, self._inputs, self._run.folder)
        write_manifest(outcome, self._inputs, self._run, self._list_work(), self._ratings.rows)
        return outcome

    def _list_work(self) -> list[Mapping[str, Any]]:
        """List what every driver of the run says of its work, this one last."""
        earlier = [state for number, state in self._run.read_states().items() if number != self._driver]
        return [*earlier, {"seconds": self._watch.seconds, "engine_s": self._watch.total.engine_s}]

    def _print_entries(self, entries: Sequence[Entry]) -> None:
        self._console.print(f"{len(entries)} candidates, {sum(e.why_out is None for e in entries)} of them to be raced")
        for entry in entries:
            if entry.why_out is not None:
                self._console.print(f"  {entry.name}: {entry.why_out}"[:300], markup=False, soft_wrap=True)

    @contextmanager
    def _open_panel(self) -> Iterator[RaterPanel]:
        inputs, config = self._inputs, self._inputs.config
        with ExitStack() as stack:
            raters = []
            for place, rater in enumerate(config.raters):
                spec = RaterSpec(
                    rater.model,
                    rater.engine,
                    # The contract has the address as the driver sees it; workers must not see another.
                    None if rater.endpoint is None else rater.endpoint.resolve(),
                    rater.prompt,
                    inputs.templates[place],
                    inputs.corpus.scale,
                    rater.thinking,
                    rater.decider(),
                    # Of an endpoint nothing computes here, and GPUs compute for themselves.
                    sum(
                        other.engine.max_replicas
                        for other in config.raters
                        if other is not rater and other.endpoint is None and not other.engine.num_gpus
                    ),
                )
                pool = EnginePool(rater.rater, RaterWorker, (spec,), rater.engine, config.cluster.wait_s)
                raters.append(Rater(rater.rater, inputs.rater_fingerprint(place), stack.enter_context(pool)))
            ledger = config.ledger
            yield RaterPanel(
                raters,
                self._ratings,
                self._watch,
                inputs.scale,
                commit_every_s=ledger.commit_every_s,
                drain_s=ledger.drain_s,
            )

    def _hold_contest(self, panel: RaterPanel, entries: Sequence[Entry]) -> Contest:
        inputs, config = self._inputs, self._inputs.config
        shown = {entry.name: entry.shown for entry in entries if entry.why_out is None and entry.shown is not None}

        def score(stage: str, names: Sequence[str], part: Part, places: Sequence[int]) -> Mapping[str, np.ndarray]:
            rows = [inputs.items.rows[part][place] for place in places]
            panel.rate(stage, [(shown[name], rows) for name in names])
            panel.check_answers(shown[entries[0].name], rows)
            targets = self._read_targets(rows)
            is_exact = inputs.score_kind == "exact"
            return {
                name: score_items(
                    panel.read_numbers(shown[name], rows, as_levels=is_exact),
                    targets,
                    inputs.scale.numbers,
                    inputs.score_kind,
                )
                for name in names
            }

        return hold_contest(
            list(shown),
            inputs.items,
            score,
            race_config=config.race.for_scores(inputs.score_kind, len(inputs.scale.values)),
            confirm_config=config.confirm,
            seed=config.seed,
            number_look=lambda challenger: self._number_look(panel, entries, challenger),
        )

    def _number_look(self, panel: RaterPanel, entries: Sequence[Entry], challenger: str) -> int:
        inputs = self._inputs
        texts = {entry.name: entry.shown.text for entry in entries if entry.shown is not None}
        raters = [inputs.rater_fingerprint(place) for place in range(len(inputs.config.raters))]
        compared = [texts[entries[0].name], texts[challenger]]
        look = fingerprint_look(compared, inputs.score_kind, raters, inputs.items.rows["confirm"])
        self._fence.check()
        return number_look(self._run.folder, look, self._count_others(panel, "confirm", entries, challenger))

    def _count_others(self, panel: RaterPanel, part: Part, entries: Sequence[Entry], challenger: str | None) -> int:
        """Count the guidelines, but for the original and a challenger, that a part's items have been asked about."""
        ours = {entry.shown.text for entry in entries if entry.shown and entry.name in {entries[0].name, challenger}}
        return len(panel.list_texts(self._inputs.items.rows[part]) - ours)

    def _read_targets(self, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        scale = self._inputs.scale
        return np.array([scale.numbers[scale.values.index(row["target_label"])] for row in rows])

    def _measure(self, panel: RaterPanel, entries: Sequence[Entry], contest: Contest, traces: TraceSupply) -> Outcome:
        """Measure agreement before and after on the test split, or without it where the winner was confirmed."""
        inputs = self._inputs
        by_name = {entry.name: entry for entry in entries}
        names = [contest.original, *filter(None, [contest.challenger])]
        shown = [found for name in names if (found := by_name[name].shown) is not None]
        part: Part = "test" if inputs.config.test.enabled else "confirm"
        rows = inputs.items.rows[part]
        if part == "test":
            panel.rate("test split", [(some, rows) for some in shown])
        measured_on = part if rows and (part == "test" or contest.challenger is not None) else None
        num_others = self._count_others(panel, "test", entries, contest.challenger)
        changes = CHANGES.empty_table()
        coverage: dict[str, dict[str, float]] = {}
        if measured_on is not None:
            changes, coverage = self._measure_rows(panel, shown, rows)
        return Outcome(
            entries,
            contest,
            inputs.items,
            measured_on,
            changes,
            coverage,
            self._sum_spent(entries),
            [*inputs.list_shortages(), *list_repeats(num_others)],
            traces,
            self._measure_race(panel, by_name, contest),
        )

    def _measure_race(self, panel: RaterPanel, entries: Mapping[str, Entry], contest: Contest) -> dict[str, pa.Table]:
        """Measure every raced candidate's agreement on the items that it was scored on. Takes no further rating."""
        if contest.race is None:
            return {}
        rows = self._inputs.items.rows["race"]
        original = entries[contest.original].shown
        others = {name: entries[name].shown for name in contest.race.candidates}
        return {
            name: self._measure_rows(panel, [original] if name == contest.original else [original, shown], rows)[0]
            for name, shown in others.items()
            if shown is not None and original is not None
        }

    def _measure_rows(
        self, panel: RaterPanel, shown: Sequence[Shown], rows: Sequence[Mapping[str, Any]]
    ) -> tuple[pa.Table, dict[str, dict[str, float]]]:
        inputs, config = self._inputs, self._inputs.config
        numbers = [panel.read_numbers(some, rows) for some in shown]
        names = [rater.rater_id for rater in panel.raters]
        groups = [row["group"] for row in rows]
        after = numbers[1] if len(numbers) > 1 else None
        ratings = Ratings(names, numbers[0], after, self._read_targets(rows), groups)
        options = config.intervals
        changes = measure_change(
            ratings, inputs.scale, replicates=options.replicates, seed=config.seed, level=options.level
        )
        shares = [dict(zip(names, (~np.isnan(some)).mean(axis=1).tolist(), strict=True)) for some in numbers]
        return changes, dict(zip(("before", "after"), shares, strict=False))

    def _sum_spent(self, entries: Sequence[Entry]) -> dict[str, Spent]:
        """Sum up what the run's ratings took, by the candidate that each text is of."""
        name_of = {e.shown.text: e.name for e in reversed(entries) if e.shown is not None and e.why_out is None}
        found: dict[str, Spent] = {}
        for row in self._ratings.rows:
            name = name_of.get(row["text"])
            if name is not None:
                sums = found.get(name, Spent())
                found[name] = Spent(
                    sums.num_ratings + 1,
                    sums.prompt_tokens + (row["prompt_tokens"] or 0),
                    sums.output_tokens + (row["output_tokens"] or 0),
                )
        return found
