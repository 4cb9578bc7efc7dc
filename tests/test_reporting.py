"""The report's parts: records, samples, packing, plots, the policy; without a browser."""

import base64
import gzip
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jobs.render_report import main, split_output
from judgetrace.config import UserError, load_config
from judgetrace.reporting.blocks import Cell, Facts, Matrix, Section, Table
from judgetrace.reporting.charts import Dot, DotRow, Line, draw_dots, draw_lines, draw_shares
from judgetrace.reporting.config import ComparisonConfig, RenderReportConfig
from judgetrace.reporting.cost_section import Spent, make_cost
from judgetrace.reporting.discovery import fill_from_study, find_runs
from judgetrace.reporting.embedding import CHUNK_RECORDS, encode, pack_records
from judgetrace.reporting.page import Page, write_page, write_policy
from judgetrace.reporting.report import describe_browser
from judgetrace.reporting.run_reading import read_refinement_spent, read_training_run
from judgetrace.reporting.trace_reading import list_trace_files, read_records, select_items
from judgetrace.reporting.trace_records import find_noise, list_noisy, make_records
from judgetrace.reporting.traces_section import NoisyUnit, make_noise
from judgetrace.run_folder import name_runs
from judgetrace.scale import ScaleConfig
from judgetrace.storage import Folder
from judgetrace.study.sections import write_toml
from tests.report_runs import LEVELS, make_row, make_table, write_trace_run, write_training_run

FIVE = ScaleConfig(values=tuple(LEVELS))


def unpack(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def write_run(folder: Path, count: int, dimensions: tuple[str, ...] = ("",)) -> str:
    rows = [
        make_row(f"i{n}", {"text": f"text {n}"}, "3", ["3"], dimension=dimension)
        for n in range(count)
        for dimension in dimensions
    ]
    half = len(rows) // 2
    write_trace_run(Folder(str(folder)), [make_table(rows[:half]), make_table(rows[half:])])
    return str(folder)


def test_a_record_holds_what_is_shown_of_a_unit() -> None:
    row = make_row("a", {"title": "T", "text": "long text"}, "3", ["1", None, "3"], "reasons")
    found = make_records(make_table([row]), "run", {("a", None): [("ann", "4", "I think")]}, 4)
    (record,) = found.records
    assert record[:4] == ["a", [["title", "T", 0], ["text", "long", 5]], ["3", "3"], 0.0]
    assert record[5:8] == [["reas", 3], "3", 2]
    assert record[8] == [["disagrees", "1", None, None], ["unparsed", None, None, None], ["accepted", "3", None, None]]
    assert record[9] == [["ann", "4", "I th", 3]]
    assert found.facets["outcome"] == ["accepted"]


def test_noise_is_what_no_draw_of_any_run_reached() -> None:
    missed = make_row("a", {"text": "x"}, "3", ["1", "1", "1", "2"])
    few = make_row("b", {"text": "x"}, "3", ["1"])
    elsewhere = make_row("c", {"text": "x"}, "3", ["1", "1", "1", "1"])
    found = make_records(make_table([missed, few, elsewhere]), "one", {}, 100)
    found.extend(make_records(make_table([make_row("c", {"text": "x"}, "3", ["3"])]), "two", {}, 100))
    noise = find_noise(found, 4)
    assert noise == {("a", "", "aggregate")}
    (unit,) = list_noisy(found, noise, FIVE, 10)
    assert (unit.label, unit.ratings) == ("3", [("1", 3), ("2", 1)])


def test_a_draw_that_was_told_the_label_reaches_no_noisy_unit() -> None:
    missed, told = make_row("a", {"text": "x"}, "3", ["1"] * 4), make_row("a", {"text": "x"}, "3", ["1", "3"])
    found = make_records(make_table([missed]), "one", {}, 100)
    found.extend(make_records(make_table([told | {"hinted": True}]), "two", {}, 100))
    (unit,) = list_noisy(found, find_noise(found, 4), FIVE, 10)
    assert unit.ratings == [("1", 4)]
    found.extend(make_records(make_table([told]), "three", {}, 100))
    assert find_noise(found, 4) == set()


def test_of_noisy_units_whose_draws_agree_alike_those_far_from_their_label_come_first() -> None:
    near, far = make_row("a", {"text": "x"}, "3", ["2"] * 5), make_row("b", {"text": "x"}, "3", ["5"] * 4)
    found = make_records(make_table([near, far]), "one", {}, 100)
    assert [unit.item_id for unit in list_noisy(found, find_noise(found, 4), FIVE, 10)] == ["b", "a"]


def test_the_list_of_noisy_units_says_how_many_there_are_and_where_it_stops() -> None:
    ratings = [("1", 9), ("2", 3), ("4", 2), ("5", 2), ("6", 1)]
    units = [NoisyUnit(f"i{n}", "", "3", ["3"], ratings, "text") for n in range(2)]
    for total, caption in ((7, "The 2 most suspect of 7"), (2, "Suspected units")):
        (table,) = make_noise(units, total, 10, 8).blocks
        assert isinstance(table, Table)
        assert table.caption == caption
        assert table.rows[0][-1] == "1 \u00d7 9, 2 \u00d7 3, 4 \u00d7 2, 5 \u00d7 2, …"


def test_a_record_says_whether_its_draws_were_told_the_label() -> None:
    row = make_row("a", {"text": "x"}, "3", ["3"])
    found = make_records(make_table([row, row | {"hinted": True}]), "run", {}, 100)
    assert found.facets["hint"] == ["not told", "told"]


def test_costs_add_up_over_runs_as_far_as_they_are_known() -> None:
    runs = [Spent("a", "infer_traces", 10, 5, 1, 2, 4.0, None, 0.5), Spent("b", "train_rater", seconds=60.0)]
    (table, *_) = make_cost(runs, "EUR").blocks
    assert isinstance(table, Table)
    assert [cell.text for cell in table.cells()[-1]] == ["together", "10", "5", "\u2013", "4 s", "60 s", "0.50"]
    (alone, *_) = make_cost(runs[:1], "EUR").blocks
    assert isinstance(alone, Table)
    assert len(alone.rows) == 1


def test_the_cost_of_training_is_in_tokens_of_all_steps(tmp_path: Path) -> None:
    url = str(tmp_path / "rater")
    write_training_run(Folder(url), steps=20)
    _, spent = read_training_run("rater", url)
    assert spent.trained_tokens == 20 * 100
    (table, *_) = make_cost([Spent("a", "infer_traces", 10, 5), spent], "").blocks
    assert isinstance(table, Table)
    place = table.columns.index("tokens trained on")
    assert [row[place].text for row in table.cells()] == ["\u2013", "2,000", "2,000"]
    (without, *_) = make_cost([Spent("a", "infer_traces", 10, 5)], "").blocks
    assert isinstance(without, Table)
    assert "tokens trained on" not in without.columns


def test_a_sample_is_seeded_takes_whole_items_and_keeps_to_its_limit(tmp_path: Path) -> None:
    url = write_run(tmp_path / "run", 100, ("p", "q"))
    files = list_trace_files([("run", url)])
    samples = []
    for seed in (0, 0, 1):
        selection = select_items(files, 50, seed)
        found = read_records(files, selection, {}, 100)
        assert selection.num_units == 200
        assert 40 <= len(found) <= 50
        items = [key[0] for key in found.keys]
        assert all(items.count(item) == 2 for item in items)
        samples.append(found.keys)
    assert samples[0] == samples[1] != samples[2]


@pytest.mark.parametrize(
    ("max_items", "max_megabytes", "says"),
    [
        (1000, 20.0, "All 600 units; in a mixed order."),
        (50, 20.0, r"A sample: \d\d of 600 units; drawn by item with seed 0 \(browser.max_items = 50\)."),
        (1000, 1e-6, r"A sample: \d+ of 600 units; drawn by item with seed 0 \(browser.max_megabytes = 1e-06\)."),
    ],
)
def test_a_page_that_holds_a_sample_says_of_how_many_it_is(tmp_path: Path, max_items, max_megabytes, says) -> None:
    files = list_trace_files([("run", write_run(tmp_path / "run", 600))])
    selection = select_items(files, max_items, 0)
    found = read_records(files, selection, {}, 100)
    browser = {"max_items": max_items, "max_megabytes": max_megabytes}
    config = RenderReportConfig.model_validate({"output": "r.html", "traces": ["run"], "browser": browser})
    packed = pack_records(found, set(), max_megabytes)
    assert re.match(says, describe_browser(packed, found, selection.num_units, config))


def test_chunks_and_index_hold_all_records_in_one_order(tmp_path: Path) -> None:
    url = write_run(tmp_path / "run", 2 * CHUNK_RECORDS + 3)
    files = list_trace_files([("run", url)])
    found = read_records(files, select_items(files, 10**6, 0), {}, 100)
    packed = pack_records(found, set(), 100)
    records = [record for chunk in packed.chunks for record in unpack(chunk)]
    index = unpack(packed.index)
    assert len(packed.chunks) == 3
    assert records == found.records
    assert index["count"] == packed.num_records == len(records) == len(index["facets"]["split"]["codes"])
    assert pack_records(found, set(), 1e-9).num_records == CHUNK_RECORDS


def test_what_a_refinement_has_spent_is_that_of_all_models_that_it_asked(tmp_path: Path) -> None:
    assert read_refinement_spent(str(tmp_path)) == []
    asked = {"prompt_tokens": 10, "output_tokens": 3, "cost": 0.5}
    manifest = {
        "calls": asked,
        "embeddings": {"prompt_tokens": 5, "output_tokens": 0},
        "ratings": {"a": asked, "b": {"prompt_tokens": 1, "output_tokens": 1}},
        "seconds": 9.0,
        "engine_seconds": 4.0,
        "config": {"generator": {"engine": {"kind": None}}, "raters": [{"engine": {"kind": "scripts.play"}}]},
    }
    Folder(str(tmp_path)).write_json("manifest.json", manifest)
    (spent,) = read_refinement_spent(str(tmp_path))
    assert (spent.prompt_tokens, spent.output_tokens, spent.money) == (26, 7, 1.0)
    assert (spent.engine_s, spent.seconds, spent.is_simulated) == (4.0, 9.0, True)


def test_half_a_surrogate_pair_is_packed() -> None:
    assert unpack(encode(["half \ud800"])) == ["half \ud800"]


def test_a_plot_has_no_style_that_a_policy_would_stop_and_its_labels_are_texts() -> None:
    evil = "<script>alert(1)</script> $x^2$ \x00"
    plots = [
        draw_lines("a", [Line(evil, [1, 2], [0.5, None]), Line("b", [1, 2], [0.1, 0.2])], evil, evil, log_x=True),
        draw_shares("b", [(evil, 0.5), ("x", 0.0)], evil, baseline=0.2),
        draw_dots("c", [DotRow(evil, [Dot(0.1, 0.0, 0.2), None])], [evil, "x"], evil, evil, ceiling=True),
    ]
    for plot in plots:
        assert "<script" not in plot
        assert "style=" not in plot
        assert "<style" not in plot
        assert "$x^2$" in plot
        assert "#0a0001" not in plot
    ids = [re.findall(r' id="([^"]+)"', plot) for plot in plots]
    assert not set(ids[0]) & set(ids[1])


def test_shades_are_shares_of_a_column() -> None:
    matrix = Matrix("m", "rater", "label", ["1", "2"], [[1, 0], [3, 0]])
    assert matrix.shades() == [[(1, 2), (0, 0)], [(3, 7), (0, 0)]]


def test_a_column_of_sentences_is_known_by_any_of_its_cells() -> None:
    table = Table("t", ["who", "said"], [["a", "no"], ["b", "that the ending is not earned"]])
    assert [table.is_long(n) for n in range(2)] == [False, True]


def test_columns_of_figures_stand_flush_right() -> None:
    table = Table("t", ["who", "n", "said"], [["a", Cell("\u22120.5", "0 to 1"), "x"], ["b", "1,200", "y"]])
    assert [table.is_numeric(n) for n in range(3)] == [False, True, False]


class CountingRows(list[Any]):
    """Rows that count how often one of them is read, and refuse it beyond a number of times each."""

    read, most = 0, 10

    def __iter__(self) -> Iterator[Any]:
        for row in super().__iter__():
            self.read += 1
            assert self.read <= self.most * len(self)
            yield row


def test_a_long_table_takes_as_much_work_a_row_as_a_short_one() -> None:
    for size in (30, 3_000):
        rows = CountingRows([f"{n}", f"{n / 7:.3f}", "a sentence that is longer than most"] for n in range(size))
        section = Section("training", "Training", "", [Table("steps", ["step", "loss", "said"], rows)])
        page = write_page(Page("t", "", Facts([]), [section])).decode()
        assert page.count('<td class="n">') == size
        assert page.count('<td class="long" dir="auto">') == size


def test_the_policy_names_the_script_it_runs_and_nothing_else() -> None:
    policy = write_policy("a{}", "")
    assert "script-src 'none'" in policy
    assert "unsafe" not in write_policy("a{}", "run()")
    assert "http" not in write_policy("a{}", "run()")


def test_runs_of_the_same_name_are_told_apart() -> None:
    assert name_runs(["a/x/run", "a/y/run/", "s3://b/other"]) == ["x/run", "y/run", "other"]


def test_a_study_is_known_by_what_lies_in_it(tmp_path: Path) -> None:
    one = write_run(tmp_path / "stages/infer-a", 2)
    two = write_run(tmp_path / "stages/infer-b", 2)
    Folder(str(tmp_path / "agree")).write_json("agreement.json", {})
    assert find_runs(Folder(str(tmp_path))) == {"traces": [one, two], "agreement": str(tmp_path / "agree")}


def test_of_a_study_only_what_complete_stages_have_made_last_is_shown(tmp_path: Path) -> None:
    stages = [("infer", "infer", "infer.2", "complete"), ("infer.more", "infer", "infer/more", "stopped")]
    stages.append(("infer.gone", "former", "infer/gone", "complete"))
    for folder in ("infer", "infer.2", "infer/more", "infer/gone"):
        write_run(tmp_path / folder, 2)
    rows = [dict(zip(("stage", "kind", "folder", "state"), row, strict=True)) for row in stages]
    Folder(str(tmp_path)).write_json("study.json", {"stages": rows})

    assert find_runs(Folder(str(tmp_path))) == {"traces": [str(tmp_path / "infer.2")]}


def test_a_study_s_runs_that_have_nothing_to_show_yet_do_not_keep_the_others_from_the_page(tmp_path: Path) -> None:
    one = write_run(tmp_path / "infer", 2)
    for name, job in (("train/tuned", "train_rater"), ("refine", "refine_guideline")):
        Folder(str(tmp_path / name)).write_json("drivers/driver-00000.json", {"job": job})
    assert find_runs(Folder(str(tmp_path))) == {"traces": [one]}
    (tmp_path / "refine/refinement.json").write_text("{}")
    assert find_runs(Folder(str(tmp_path)))["refinement"] == str(tmp_path / "refine")


def test_of_a_study_s_agreements_that_of_all_raters_is_shown_with_the_study_s_own_pairs(tmp_path: Path) -> None:
    for name, raters in (("after", ["a", "b"]), ("all", ["a", "b", "c"]), ("before", ["a"])):
        Folder(str(tmp_path / f"agreement/{name}")).write_json("agreement.json", {"config": {"raters": raters}})
    pair = {"before": "a", "after": "c", "what": "", "optional": True}
    config = RenderReportConfig(output="x", study=str(tmp_path))
    assert fill_from_study(config).comparisons == []
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/report.toml").write_text(write_toml({"comparisons": [pair]}))

    found = fill_from_study(config)
    assert found.agreement == str(tmp_path / "agreement/all")
    assert [one.model_dump() for one in found.comparisons] == [pair]
    own = [ComparisonConfig(before="b", after="a")]
    assert fill_from_study(config.model_copy(update={"comparisons": own})).comparisons == own


def test_a_study_s_page_made_again_has_all_that_its_own_report_was_told(tmp_path: Path) -> None:
    """Only its pairs were taken: people's reasons, the currency, the title and what a suspect takes were lost."""
    run = write_run(tmp_path / "infer", 2)
    told = {
        "output": "elsewhere",
        "corpus": "gone",
        "traces": ["gone"],
        "title": "Own",
        "currency": "EUR",
        "remarks": ["The test split has been rated by 2 refined guidelines."],
        "rationales": {"paths": ["reasons.parquet"], "dimension": "test"},
        "browser": {"min_draws": 4, "seed": 7},
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/report.toml").write_text(write_toml(told))
    file = tmp_path / "page.toml"
    file.write_text(write_toml({"output": "here", "study": str(tmp_path)}))

    def fill(*given: str) -> dict[str, Any]:
        return fill_from_study(load_config(RenderReportConfig, "render_report", [str(file), *given])).model_dump()

    found = fill()
    assert (found["output"], found["corpus"], found["traces"]) == ("here", None, [run])
    assert (found["title"], found["currency"], found["remarks"]) == ("Own", "EUR", told["remarks"])
    assert (found["rationales"]["paths"], found["rationales"]["dimension"]) == (["reasons.parquet"], "test")
    assert (found["browser"]["min_draws"], found["browser"]["seed"]) == (4, 7)

    # What the caller says holds, key by key, as in a study's own sections.
    found = fill("--title=Mine", "--browser.seed=1")
    assert (found["title"], found["browser"]["min_draws"], found["browser"]["seed"]) == ("Mine", 4, 1)

    (tmp_path / "configs/report.toml").write_text(write_toml({"browser": {"min_drows": 4}}))
    with pytest.raises(UserError, match=r"configs/report\.toml .*\n  browser\.min_drows: unknown key"):
        fill()


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_job_writes_a_page_that_loads_nothing(tmp_path: Path) -> None:
    url = write_run(tmp_path / "run", 5)
    config = tmp_path / "report.toml"
    config.write_text(f"output = '{tmp_path}/page.html'\ntraces = ['{url}']\n")
    assert main([str(config)]) == 0
    parser = Tags()
    parser.feed((tmp_path / "page.html").read_text())
    assert not [tag for tag, _ in parser.tags if tag in ("link", "img", "iframe", "object", "base")]
    assert not [attrs for tag, attrs in parser.tags if "src" in attrs or "onload" in attrs or "style" in attrs]
    again = (tmp_path / "page.html").read_bytes()
    main([str(config)])
    assert (tmp_path / "page.html").read_bytes() == again


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    config = tmp_path / "report.toml"
    for key, value in (("agreement", "'nowhere'"), ("training", "['nowhere']"), ("traces", "['nowhere']")):
        config.write_text(f"output = '{tmp_path}'\n{key} = {value}\n")
        with pytest.raises(UserError, match="nowhere"):
            main([str(config)])


def test_an_output_is_a_file_or_a_folder() -> None:
    assert split_output("a/b.html") == ("a", "b.html")
    assert split_output("b.html") == (".", "b.html")
    assert split_output("s3://x/y/") == ("s3://x/y", "report.html")
