"""Whether a second model recovers the label from accepted traces, as a section of the report. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from judgetrace.accounting import Tally, recovery_by_label
from judgetrace.reporting.blocks import Block, Prose, Section, Table


def make_verification(about: Mapping[str, Any], tally: Tally, is_simulated: bool) -> Section:
    """Make the section of a run of verify_traces from what it says of itself (`read_about`) and its counts."""
    config = about["config"]
    lead = (
        "Every mention of the rating was stripped from a trace, and a second model was asked for the label. A trace "
        "from which it can't be recovered gives no reasons for its rating, or the second model can't read them."
    )
    made: list[Block] = [Prose(f"Second model: {config['model']['path']}; traces: {config['traces']}.", quiet=True)]
    if about["state"] != "complete":
        made.append(Prose(f"The run is {about['state']}: what follows is what it has come to so far."))
    made += [_tabulate_outcomes(tally), _tabulate_labels(tally)] if tally.num_units else [Prose("No verdicts yet.")]
    return Section("verification", "Verification of traces", lead, made, is_simulated)


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
