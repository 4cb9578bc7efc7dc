import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from jobs.measure_agreement import main
from jobs.prepare_corpus import main as prepare_corpus
from judgetrace.agreement.results import AGREEMENT
from judgetrace.config import UserError
from judgetrace.storage import Folder
from tests.agreement_runs import draw_people, draw_rater

NUM_ITEMS = 80


def prepare(folder: Path, where: str) -> str:
    """Prepare a corpus of four annotators with documents as groups and a genre; returns its URL."""
    people = draw_people(1, items=NUM_ITEMS)
    number = people["item_id"].str.split().str[1].astype(int)
    people["text"] = "Text of " + people["item_id"]
    people["document"] = "d" + (number // 2).astype(str)
    people["genre"] = (number % 3 > 0).map({True: "poem", False: "tale"})
    people.to_csv(folder / "people.csv", index=False)
    (folder / "guideline.md").write_text("Rate it from 1 to 5.\n")
    (folder / "corpus.toml").write_text(
        f"""
corpus = "{where}/corpus"
source.paths = ["{folder / "people.csv"}"]
scale.values = [1, 2, 3, 4, 5]
guideline.path = "{folder / "guideline.md"}"
target = {{rule = "median", max_sd = 0.6}}
split = {{train = 0.4, validation = 0.2, test = 0.4}}
shards = {{buckets = 3, units_per_shard = 10}}
[columns]
item_id = "item_id"
text = "text"
annotator_id = "annotator_id"
label = "label"
group = "document"
"""
    )
    assert prepare_corpus([str(folder / "corpus.toml")]) == 0
    return f"{where}/corpus"


def write_run(where: str, name: str, frame: pd.DataFrame) -> str:
    """Write a rater's annotations in two shards, as rate_items does."""
    import io

    for shard, rows in enumerate((frame[:30], frame[30:])):
        buffer = io.BytesIO()
        rows.to_parquet(buffer, index=False)
        Folder(f"{where}/{name}/annotations").write_atomic(f"shard-{shard:05d}.parquet", buffer.getvalue())
    return f"{where}/{name}"


def write_config(folder: Path, corpus: str, runs: list[str], output: str) -> list[str]:
    (folder / "agreement.toml").write_text(
        f"""
output = "{output}"
corpus = "{corpus}"
raters = {json.dumps(runs)}
slices.columns = ["genre"]
intervals.replicates = 100
"""
    )
    return [str(folder / "agreement.toml")]


def read_rows(output: str) -> list[dict[str, Any]]:
    table = Folder(output).read_table("agreement.parquet")
    assert table.schema.remove_metadata() == AGREEMENT
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@pytest.mark.slow
def test_a_corpus_and_two_raters_become_figures_and_a_report_on_disk_as_on_s3(
    tmp_path: Path, s3: str, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    raters = {"base": draw_rater(2, "base", NUM_ITEMS), "tuned": draw_rater(3, "tuned", NUM_ITEMS)}
    outputs = []
    for where in (str(tmp_path / "disk"), f"{s3}/agreement"):
        corpus = prepare(tmp_path, where)
        runs = [write_run(where, name, frame) for name, frame in raters.items()]
        assert main(write_config(tmp_path, corpus, runs, f"{where}/out")) == 0
        outputs.append(f"{where}/out")

    on_disk, on_s3 = (read_rows(output) for output in outputs)
    assert on_disk == on_s3
    assert "report.md" in capsys.readouterr().out
    comparisons = {row["comparison"] for row in on_disk}
    assert {"human_human", "human_ceiling", "rater_target", "rater_rest", "rater_rater", "difference"} <= comparisons
    assert {(row["slice_by"], row["slice"]) for row in on_disk} >= {
        ("genre", "poem"),
        ("genre", "tale"),
        ("label", "3"),
    }
    names = Folder(outputs[1]).list_files(recursive=True)
    assert names == ["agreement.json", "agreement.parquet", "report.md"]
    document = Folder(outputs[1]).read_json("agreement.json")
    assert document["counts"]["annotations"] == len(draw_people(1, items=NUM_ITEMS)) + 2 * NUM_ITEMS
    assert len(document["statistics"]) == len(on_disk)
    # What the rule drops has its groups and slices, too.
    units = {(r["population"], r["slice"]): r["num_units"] for r in on_disk if r["slice_by"] == "genre"}
    everything = draw_people(1, items=NUM_ITEMS)["item_id"].nunique()
    assert units["all", "poem"] + units["all", "tale"] == everything
    assert units["filtered", "poem"] + units["filtered", "tale"] < everything
    report = (tmp_path / "disk/out/report.md").read_text()
    assert "| base | alpha (ordinal) |" in report
    assert "replicates over groups" in report

    # Other numbers of buckets, the same command again: the same bits.
    assert main([*write_config(tmp_path, f"{tmp_path}/disk/corpus", runs, outputs[0]), "--buckets=5"]) == 0
    assert read_rows(outputs[0]) == on_disk


@pytest.mark.slow
def test_a_split_holds_its_units_alone(tmp_path: Path, ray_session: None) -> None:
    corpus = prepare(tmp_path, str(tmp_path / "disk"))
    items = pq.read_table(tmp_path / "disk/corpus/items", columns=["item_id", "group", "split"]).to_pandas()
    dropped = pq.read_table(tmp_path / "disk/corpus/dropped", columns=["item_id", "group"]).to_pandas()
    split_of = dict(zip(items["group"], items["split"], strict=True))

    arguments = write_config(tmp_path, corpus, [], str(tmp_path / "out"))
    assert main([*arguments, "--split=test", "--intervals.replicates=0"]) == 0

    num_kept = (items["split"] == "test").sum()
    # A dropped item is of its group's split; some groups have lost all of their items.
    num_dropped = (dropped["group"].map(split_of) == "test").sum()
    num_unknown = dropped["group"].map(split_of).isna().sum()
    for population, low, high in (
        ("filtered", num_kept, num_kept),
        ("all", num_kept + num_dropped, num_kept + num_dropped + num_unknown),
    ):
        rows = [r for r in read_rows(str(tmp_path / "out")) if r["population"] == population and not r["slice_by"]]
        (found,) = {row["num_units"] for row in rows}
        assert low <= found <= high
    assert num_dropped > 0


def test_a_dry_run_says_what_would_be_read_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_people(1).to_parquet(tmp_path / "people.parquet")
    (tmp_path / "c.toml").write_text(
        f'output = "{tmp_path}/out"\nscale.values = [1, 2, 3, 4, 5]\n'
        f'[[tables]]\npaths = ["{tmp_path}/people.parquet"]\nkind = "human"\n'
    )

    assert main([str(tmp_path / "c.toml"), "--dry-run"]) == 0

    told = capsys.readouterr().out
    assert '"replicates": 1000' in told
    assert "tables[0]: 1 file(s)" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "nothing to measure"),
        ('corpus = "nowhere"\n', "no finished corpus"),
        ('corpus = "c"\nscale.values = [1, 2]\n', "drop the section scale"),
        ('corpus = "c"\nrater = ["r"]\n', "rater: unknown key"),
    ],
)
def test_a_config_that_cannot_work_is_refused_without_a_cluster(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "c.toml").write_text(f'output = "{tmp_path}/out"\n{text}')

    with pytest.raises(UserError, match=complaint):
        main([str(tmp_path / "c.toml")])
