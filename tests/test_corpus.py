from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from judgetrace.columns import ColumnsConfig
from judgetrace.config import UserError
from judgetrace.corpus import (
    FORMAT_VERSION,
    BucketResult,
    commit_manifest,
    delete_leftovers,
    find_new_files,
    list_shards,
    name_manifest,
    number_next_round,
    read_manifests,
    write_bucket,
)
from judgetrace.guideline import parse_guideline
from judgetrace.intake import IntakeRules
from judgetrace.labels import TargetConfig
from judgetrace.scale import ScaleConfig
from judgetrace.sources import SourceConfig, SourceFile, list_source_files, plan_parts
from judgetrace.splits import SplitConfig
from judgetrace.staging import StagePlan, stage_parts
from judgetrace.storage import Folder
from judgetrace.units import CorpusRules

SCALES = ScaleConfig(values=("1", "2", "3"))
COLUMNS = ColumnsConfig(item_id="item", text="text", annotator_id="who", label="label")


def write_source(path: Path, num_items: int = 30) -> None:
    rows = [f"i{n:02d},text {n},{who},{n % 3 + 1}" for n in range(num_items) for who in ("a", "b")]
    path.write_text("item,text,who,label\n" + "\n".join([*rows, rows[0], "broken,text,a,9"]) + "\n")


def prepare(
    source: Path, folder: Folder, num_buckets: int = 1, generation: int = 0, columns: ColumnsConfig = COLUMNS
) -> BucketResult:
    """Run both stages in this process."""
    parts = plan_parts(list_source_files(SourceConfig(paths=[str(source)])))
    intake = IntakeRules(columns, SCALES, parse_guideline("Rate."))
    staged = stage_parts(folder, parts, StagePlan(intake, num_buckets, generation), task=0)
    first_round = number_next_round(read_manifests(folder), num_buckets)
    urls = [part.file.url for part in parts]
    rules = CorpusRules(TargetConfig(), SCALES, SplitConfig(), 7, num_buckets, generation, first_round, urls)
    total = BucketResult(staged.tally, files=staged.quarantine)
    for bucket in range(num_buckets):
        pieces = [staged.pieces[bucket]] if bucket in staged.pieces else []
        total.add(write_bucket(folder, bucket, pieces, rules))
    return total


def make_manifest(generation: int, total: BucketResult, **changes: Any) -> dict[str, Any]:
    counts = {
        "rows_in": total.tally.rows_in,
        "annotations": total.annotations,
        "rows_quarantined": total.tally.num_quarantined,
    }
    config = {"limit": None, "source": {"layout": "long"}, "guideline": {"by_section": False}}
    config |= {"columns": {"text": "text"}, "scale": {}, "target": {"rule": "median"}, "split": {}}
    manifest = {
        "format_version": FORMAT_VERSION,
        "generation": generation,
        "counts": counts,
        "shards": total.shards,
        "input": [],
    }
    return {**manifest, "files": total.files, "config": config, "guideline_sha256": "x", **changes}


def read_all(folder: Folder, kind: str) -> list[dict[str, Any]]:
    tables = [(folder / kind).read_table(name) for name in (folder / kind).list_files()]
    return sorted(pa.concat_tables(tables).to_pylist(), key=str)


def read_files(folder: Folder) -> dict[str, bytes]:
    """Read all files but those of staging, whose names are random."""
    names = folder.list_files(".parquet", recursive=True)
    return {name: folder.read_bytes(name) for name in names if not name.startswith("_staging/")}


def test_rows_end_as_annotations_or_in_quarantine(tmp_path: Path) -> None:
    write_source(tmp_path / "a.csv")

    total = prepare(tmp_path / "a.csv", Folder(str(tmp_path / "corpus")))

    assert (total.tally.rows_in, total.annotations, total.units) == (62, 60, 30)
    assert dict(total.tally.quarantined) == {"unknown_label": 1, "duplicate": 1}
    entries = read_all(Folder(str(tmp_path / "corpus")), "quarantine")
    assert [(Path(entry["file"]).name, entry["row"], entry["reason"]) for entry in entries] == [
        ("a.csv", 60, "duplicate"),
        ("a.csv", 61, "unknown_label"),
    ]


def test_shards_hold_the_stated_number_of_units(tmp_path: Path) -> None:
    write_source(tmp_path / "a.csv")

    total = prepare(tmp_path / "a.csv", Folder(str(tmp_path / "corpus")))

    assert [(shard["name"], shard["units"]) for shard in total.shards] == [
        *((f"shard-{number:05d}.parquet", 7) for number in range(4)),
        ("shard-00004.parquet", 2),
    ]


def test_any_number_of_buckets_gives_the_same_rows(tmp_path: Path) -> None:
    write_source(tmp_path / "a.csv")
    folders = {buckets: Folder(str(tmp_path / f"corpus-{buckets}")) for buckets in (1, 4, 50)}
    for buckets, folder in folders.items():
        prepare(tmp_path / "a.csv", folder, buckets)

    for kind in ("items", "annotations", "quarantine"):
        assert read_all(folders[4], kind) == read_all(folders[1], kind)
        assert read_all(folders[50], kind) == read_all(folders[1], kind)


def test_a_replay_writes_the_same_files(tmp_path: Path) -> None:
    write_source(tmp_path / "a.csv")
    folder = Folder(str(tmp_path / "corpus"))
    prepare(tmp_path / "a.csv", folder, 3)
    first = read_files(folder)

    prepare(tmp_path / "a.csv", folder, 3)

    assert read_files(folder) == first


def test_a_later_generation_adds_shards_and_knows_the_units_of_earlier_ones(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "corpus"))
    write_source(tmp_path / "a.csv", 10)
    first = prepare(tmp_path / "a.csv", folder, 2)
    commit_manifest(folder, make_manifest(0, first))
    write_source(tmp_path / "b.csv", 12)

    second = prepare(tmp_path / "b.csv", folder, 2, generation=1)

    assert second.units == 2
    # 20 rows of the ten known items and the repeat of the first of them.
    assert dict(second.tally.quarantined) == {"unknown_label": 1, "already_prepared": 21}
    assert not {shard["name"] for shard in first.shards} & {shard["name"] for shard in second.shards}
    commit_manifest(folder, make_manifest(1, second))
    assert list_shards(folder) == [f"items/{name}" for name in (folder / "items").list_files()]


def test_the_next_round_is_above_every_kind_of_file() -> None:
    manifests = [
        {
            "files": [
                "items/shard-00003.parquet",
                "dropped/shard-00009.parquet",
                "quarantine/part-00000-map-00099.parquet",
            ]
        }
    ]

    assert number_next_round(manifests, 4) == 3  # 9 // 4 + 1
    assert number_next_round([], 4) == 0


def test_files_that_no_manifest_lists_are_left_over_from_a_stopped_run(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "corpus"))
    write_source(tmp_path / "a.csv")
    total = prepare(tmp_path / "a.csv", folder)
    commit_manifest(folder, make_manifest(0, total))
    kept = read_files(folder)
    for name in ("items/shard-00099.parquet", "_staging/00000/map-00000-x.parquet", "dropped/shard-00099.parquet"):
        folder.write_atomic(name, b"x")

    delete_leftovers(folder)

    assert read_files(folder) == kept
    assert folder.list_files(recursive=True) == sorted([*kept, name_manifest(0)])


def test_a_manifest_that_does_not_add_up_is_never_written(tmp_path: Path) -> None:
    total = BucketResult(annotations=1)
    total.tally.rows_in = 3

    with pytest.raises(AssertionError, match="rows in 3 are not annotations 1"):
        commit_manifest(Folder(str(tmp_path)), make_manifest(0, total))
    assert Folder(str(tmp_path)).list_files() == []


def test_the_second_run_that_finishes_a_generation_is_told(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "corpus"))
    commit_manifest(folder, make_manifest(0, BucketResult()))

    with pytest.raises(UserError, match="another run"):
        commit_manifest(folder, make_manifest(0, BucketResult()))
    write_source(tmp_path / "a.csv")
    with pytest.raises(RuntimeError, match="finished by another run"):
        prepare(tmp_path / "a.csv", folder)


def test_a_missing_manifest_is_told(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with pytest.raises(UserError, match="no manifest"):
        list_shards(folder)
    folder.write_json(name_manifest(1), make_manifest(1, BucketResult()))
    with pytest.raises(UserError, match="without a gap"):
        read_manifests(folder)


def make_file(name: str, fingerprint: str = "1") -> SourceFile:
    return SourceFile(f"file:///{name}", "csv", 1, fingerprint)


def test_only_files_that_no_run_took_are_new(tmp_path: Path) -> None:
    earlier = make_manifest(0, BucketResult(), input=[{"url": "file:///a", "fingerprint": "1"}])
    now = make_manifest(1, BucketResult())

    assert find_new_files(Folder("x"), [earlier], now, [make_file("a"), make_file("b")]) == [make_file("b")]
    assert find_new_files(Folder("x"), [], now, [make_file("a")]) == [make_file("a")]


def test_a_corpus_refuses_rows_of_another_config_or_changed_files() -> None:
    earlier = make_manifest(0, BucketResult(), input=[{"url": "file:///a", "fingerprint": "1"}])
    now = make_manifest(1, BucketResult())
    changed = {**now, "config": {**now["config"], "target": {"rule": "majority"}}, "guideline_sha256": "y"}
    pilot = {**earlier, "config": {**earlier["config"], "limit": 5}}

    with pytest.raises(UserError, match=r"changed: guideline, target\.rule"):
        find_new_files(Folder("x"), [earlier], changed, [])
    with pytest.raises(UserError, match="file:///a"):
        find_new_files(Folder("x"), [earlier], now, [make_file("a", "2")])
    with pytest.raises(UserError, match="pilot"):
        find_new_files(Folder("x"), [pilot], now, [])


def test_an_item_lies_in_one_split_whichever_of_its_rows_tell_its_group(tmp_path: Path) -> None:
    rows = [
        f"i{n:02d},text,{dimension},{group},1" for n in range(40) for dimension, group in (("a", ""), ("b", f"g{n}"))
    ]
    (tmp_path / "a.csv").write_text("item,text,dim,group,label\n" + "\n".join(rows) + "\n")
    columns = ColumnsConfig(item_id="item", text="text", label="label", dimension="dim", group="group")
    folder = Folder(str(tmp_path / "corpus"))
    total = prepare(tmp_path / "a.csv", folder, columns=columns)
    commit_manifest(folder, make_manifest(0, total))
    (tmp_path / "b.csv").write_text("item,text,dim,group,label\n" + "".join(f"i{n:02d},text,c,,1\n" for n in range(40)))
    prepare(tmp_path / "b.csv", folder, generation=1, columns=columns)

    units = read_all(folder, "items")

    assert len(units) == 120
    assert {(unit["item_id"], unit["group"]) for unit in units} == {(f"i{n:02d}", f"g{n}") for n in range(40)}
    assert len({(unit["item_id"], unit["split"]) for unit in units}) == 40
