"""Totals that the report's page states: of the whole corpus, and of what its trace browser really holds."""

from __future__ import annotations

from pathlib import Path

from judgetrace.corpus import FORMAT_VERSION, name_manifest
from judgetrace.reporting.config import RenderReportConfig
from judgetrace.reporting.embedding import CHUNK_RECORDS
from judgetrace.reporting.report import gather_report
from judgetrace.storage import Folder
from tests.report_runs import LEVELS, make_row, make_table, write_trace_run


def test_a_corpus_that_was_appended_to_is_described_with_what_was_appended(tmp_path: Path) -> None:
    first = {"units": 1_000, "annotations": 3_000, "dropped": {"disagreement": 7}, "labels": {"tone": {}}}
    second = {"units": 234, "annotations": 700, "dropped": {"disagreement": 2, "no_label": 1}, "labels": {"plot": {}}}
    for number, counts in enumerate((first, second)):
        about = {"format_version": FORMAT_VERSION, "generation": number, "counts": counts}
        about["config"] = {"scale": {"values": LEVELS, "type": "ordinal"}}
        Folder(str(tmp_path)).write_json(name_manifest(number), about)

    page = gather_report(RenderReportConfig(output="page", corpus=str(tmp_path)), now=0.0)

    assert page.subtitle == (
        "1,234 units with a target label, from 3,700 annotations; 10 more on which people disagree too much; "
        "ordinal scale of 5 levels, 1 to 5; 2 dimensions."
    )


def test_noise_is_counted_of_the_units_that_the_page_holds_and_no_others(tmp_path: Path) -> None:
    # Every unit is one that no draw reaches; the browser has room for the first chunk alone.
    rows = [make_row(f"i{n}", {"text": "x"}, "3", ["1"] * 8) for n in range(3 * CHUNK_RECORDS)]
    run = Folder(str(tmp_path / "run"))
    write_trace_run(run, [make_table(rows)])
    config = {"output": "page", "traces": [run.url], "browser": {"max_megabytes": 1e-6}}

    page = gather_report(RenderReportConfig.model_validate(config), now=0.0)

    assert page.packed is not None
    assert page.packed.num_records == CHUNK_RECORDS == 250
    (noise,) = (section for section in page.sections if section.id == "noise")
    assert noise.lead.startswith("250 of the 250 units in this page's trace browser")
    assert noise.blocks[0].caption == "The 15 most suspect of 250"  # type: ignore[union-attr]
