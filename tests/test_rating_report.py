"""What rate_items shows of a run."""

from __future__ import annotations

import io

import pyarrow as pa
from rich.console import Console

from judgetrace.accounting import tally_ratings
from judgetrace.rating_report import print_rating_summary
from judgetrace.scale import ScaleConfig
from judgetrace.schema import RATER_ANNOTATIONS
from tests.trace_tables import make_draw


def show(*pairs: tuple[str | None, str]) -> str:
    """Show the summary of items with these (target label, rater's label)."""
    rows = [
        dict.fromkeys(RATER_ANNOTATIONS.names)
        | {"item_id": f"item-{n}", "dimension": "", "target_label": target, "label": label, "outcome": "rated"}
        | {"draws": [make_draw(0, "rated", label)]}
        for n, (target, label) in enumerate(pairs)
    ]
    tally = tally_ratings(pa.Table.from_pylist(rows, schema=RATER_ANNOTATIONS))
    summary = {"tally": tally.to_json(), "decided": len(rows), "units": len(rows), "engine_seconds": 1.0}
    out = io.StringIO()
    print_rating_summary(Console(file=out, width=200), summary, ScaleConfig(values=(1, 2, 3)))
    return out.getvalue()


def test_target_labels_stand_beside_the_raters_on_the_same_items():
    shown = [line.split() for line in show(("1", "1"), ("1", "2"), ("3", "2"), (None, "3")).splitlines()]
    counts = {cells[1]: cells[3:-1:2] for cells in shown if len(cells) > 2 and cells[1] in ("target", "rater")}
    assert counts == {"target": ["2", "0", "1"], "rater": ["1", "2", "0"]}


def test_without_one_target_label_an_item_no_table_of_zeros_is_shown():
    shown = show((None, "1"), (None, "3"))
    assert "No table of labels: none of these items has one target label" in shown
    assert "rater │" not in shown
    assert "Coverage: 100.0% of 2 items" in shown
