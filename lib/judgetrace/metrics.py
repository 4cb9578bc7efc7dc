"""How a run stands, as the figures that its live line shows, and the same figures as Prometheus metrics.

Both are made from the driver's view (control.RunSnapshot), once a second. Counters count what this call of the job did:
a run that goes on begins again at 0. Gauges tell of the whole run, earlier calls included. Ray puts `ray_` before a
metric's name and `_total` behind a counter's.

The tag `job` is the job's name, as `infer_traces`; `run` is the run folder. Prometheus calls its own scrape job `job`,
too, and by default renames ours to `exported_job`: queries had better go by `run`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from judgetrace.control import RunSnapshot, WorkCounts

TAGS = ("job", "run")


@dataclass(frozen=True)
class MetricSpec:
    """One metric. A counter that has not counted yet is not exported."""

    name: str
    kind: Literal["counter", "gauge"]
    description: str
    labels: tuple[str, ...] = ()
    """Beside `job` and `run`."""

    @property
    def exported_name(self) -> str:
        """What Prometheus sees."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


METRICS = (
    MetricSpec("judgetrace_units", "counter", "Units that ended in this call, failed ones too.", ("outcome",)),
    MetricSpec("judgetrace_draws", "counter", "Draws sampled by this call."),
    MetricSpec("judgetrace_tokens", "counter", "Tokens of this call's draws.", ("kind",)),  # prompt, output
    MetricSpec("judgetrace_engine_restarts", "counter", "Engine processes of this call that replaced an ended one."),
    MetricSpec("judgetrace_quarantined_rows", "gauge", "Units of the run that can't be asked, or kill their engine."),
    MetricSpec("judgetrace_units_planned", "gauge", "Units that the run covers."),
    MetricSpec("judgetrace_units_decided", "gauge", "Units that the run has decided, which failed ones are not."),
    MetricSpec(
        "judgetrace_utilisation",
        "gauge",
        "Share of decided units that were accepted (rate_items: rated; verify_traces: recovered); of infer_traces "
        "without those over their level's quota.",
    ),
    MetricSpec(
        "judgetrace_tokens_per_accepted",
        "gauge",
        "Output tokens for each accepted (rate_items: rated; verify_traces: recovered) unit.",
    ),
    MetricSpec("judgetrace_draws_in_flight", "gauge", "Draws in flight now."),
    MetricSpec("judgetrace_engines", "gauge", "Engines now.", ("state",)),  # starting, running, draining
)
ENGINE_STATES = ("starting", "running", "draining")


@dataclass(frozen=True)
class RunFigures:
    """How a run stands. `None` where there is nothing to divide by."""

    planned: int
    decided: int
    """Failed units are not: the next call asks them again."""
    accepted: int
    """Units with the outcome that the job is after; of rate_items the rated ones, of verify_traces the recovered."""
    others: Mapping[str, int]
    """Units with other outcomes, failed ones among them."""
    quarantined: int
    draws: int
    prompt_tokens: int
    output_tokens: int
    restarts: int
    utilisation: float | None
    tokens_per_accepted: float | None


@dataclass(frozen=True)
class RunView:
    """What turns a snapshot of this call into figures of the whole run."""

    planned: int
    earlier: WorkCounts
    """What earlier calls did; without failed units, which this call tries again."""
    hit: str = "accepted"
    """The outcome that the job is after."""

    def figures(self, seen: RunSnapshot) -> RunFigures:
        """Add what earlier calls did to what this one has done."""
        total = self.earlier + seen.done
        accepted, decided = total.outcomes[self.hit], total.num_units - total.outcomes["failed"]
        # Units over their level's quota were never asked.
        tried = decided - total.outcomes["over_quota"]
        return RunFigures(
            planned=self.planned,
            decided=decided,
            accepted=accepted,
            others={name: n for name, n in sorted(total.outcomes.items()) if n and name != self.hit},
            quarantined=total.outcomes["quarantined"],
            draws=total.num_draws,
            prompt_tokens=total.prompt_tokens,
            output_tokens=total.output_tokens,
            restarts=seen.num_restarts,
            utilisation=accepted / tried if tried else None,
            tokens_per_accepted=total.output_tokens / accepted if accepted else None,
        )


def count_earlier(summary: Mapping[str, Any]) -> WorkCounts:
    """Collect what earlier calls of a run did, from run_report.summarise_run."""
    outcomes = Counter({name: n for name, n in summary["outcomes"].items() if name != "failed"})
    tokens = summary["tokens"]
    return WorkCounts(
        outcomes=outcomes,
        num_draws=sum(summary["draws"].values()),
        prompt_tokens=tokens.get("prompt", 0),
        output_tokens=tokens.get("output", 0),
    )


Key = tuple[str, tuple[str, ...]]
"""A metric's name and the values of its labels."""


def read_counters(seen: RunSnapshot) -> dict[Key, int]:
    """Return what this call's counters stand at."""
    done = seen.done
    return {
        **{("judgetrace_units", (outcome,)): count for outcome, count in done.outcomes.items()},
        ("judgetrace_draws", ()): done.num_draws,
        ("judgetrace_tokens", ("prompt",)): done.prompt_tokens,
        ("judgetrace_tokens", ("output",)): done.output_tokens,
        ("judgetrace_engine_restarts", ()): seen.num_restarts,
    }


def read_gauges(figures: RunFigures, seen: RunSnapshot) -> Iterator[tuple[Key, float]]:
    """Yield what the gauges stand at; those that are not defined yet are left out."""
    yield ("judgetrace_units_planned", ()), figures.planned
    yield ("judgetrace_units_decided", ()), figures.decided
    yield ("judgetrace_quarantined_rows", ()), figures.quarantined
    if figures.utilisation is not None:
        yield ("judgetrace_utilisation", ()), figures.utilisation
    if figures.tokens_per_accepted is not None:
        yield ("judgetrace_tokens_per_accepted", ()), figures.tokens_per_accepted
    yield ("judgetrace_draws_in_flight", ()), seen.draws_in_flight
    for state in ENGINE_STATES:
        yield ("judgetrace_engines", (state,)), seen.states[state]


class RunMetrics:
    """Exports a run's metrics through Ray, from the process that makes it. Needs a connected Ray."""

    def __init__(self, job: str, run: str, view: RunView):
        from ray.util import metrics

        kinds = {"counter": metrics.Counter, "gauge": metrics.Gauge}
        self._view = view
        self._tags = {"job": job, "run": run}
        self._labels = {spec.name: spec.labels for spec in METRICS}
        self._metrics = {
            spec.name: kinds[spec.kind](spec.name, spec.description, (*TAGS, *spec.labels)) for spec in METRICS
        }
        self._counted: Counter[Key] = Counter()

    def record(self, seen: RunSnapshot) -> None:
        """Bring all metrics up to a snapshot."""
        for key, count in read_counters(seen).items():
            if count > self._counted[key]:
                self._metrics[key[0]].inc(count - self._counted[key], self._tags_of(key))
                self._counted[key] = count
        for key, value in read_gauges(self._view.figures(seen), seen):
            self._metrics[key[0]].set(value, self._tags_of(key))

    def _tags_of(self, key: Key) -> dict[str, str]:
        name, values = key
        return {**self._tags, **dict(zip(self._labels[name], values, strict=True))}
