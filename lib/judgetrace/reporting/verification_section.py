"""Whether a second model recovers the label from accepted traces, as a section of the report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from judgetrace.accounting import Tally, recovery_by_label
from judgetrace.reporting.blocks import Block, Heading, Prose, Section, Table


@dataclass(frozen=True)
class VerificationRun:
    """A run of verify_traces."""

    name: str
    about: Mapping[str, Any]
    """What it says of itself (`read_about`)."""
    tally: Tally
    is_simulated: bool


def make_verification(runs: Sequence[VerificationRun]) -> Section:
    """Make the section of runs of verify_traces."""
    lead = (
        "Every mention of the rating was stripped from a trace, and a second model was asked for the label. A trace "
        "from which it can't be recovered gives no reasons for its rating, or the second model can't read them."
    )
    made = [block for run in runs for block in _show_run(run, is_alone=len(runs) == 1)]
    return Section("verification", "Verification of traces", lead, made, any(run.is_simulated for run in runs))


def _show_run(run: VerificationRun, is_alone: bool) -> Iterator[Block]:
    config, state = run.about["config"], run.about["state"]
    if not is_alone:
        yield Heading(run.name)
    yield Prose(f"Second model: {config['model']['path']}; traces: {config['traces']}.", quiet=True)
    if state != "complete":
        yield Prose(f"The run is {state}: what follows is what it has come to so far.")
    if run.tally.num_units:
        yield _tabulate_outcomes(run.tally)
        yield _tabulate_labels(run.tally)
    else:
        yield Prose("No verdicts yet.")


def _tabulate_outcomes(tally: Tally) -> Table:
    flags = {
        "stripped, still name a level": tally.flags["leaks"],
        "hinted": tally.flags["hinted"],
        "hinted, and name a level or say that they were told": tally.flags["hinted_leaks"],
    }
    rows = [[name, f"{count:,}", f"{count / tally.num_units:.1%}"] for name, count in tally.outcomes().most_common()]
    rows += [[name, f"{count:,}", f"{count / tally.num_units:.1%}"] for name, count in flags.items()]
    return Table("Verdicts", ["", "traces", "share"], rows)


def _tabulate_labels(tally: Tally) -> Table:
    rows = [
        [" · ".join(filter(None, [dimension, label])), f"{total:,}", f"{hits:,}", f"{hits / total:.1%}"]
        for dimension, label, hits, total in recovery_by_label(tally)
    ]
    return Table("Recovered by target label", ["label", "traces", "recovered", "share"], rows)
