"""What measure_agreement says of broken files, and of stores that refuse."""

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from judgetrace.agreement.config import MeasureAgreementConfig, TableConfig
from judgetrace.agreement.intake import Source, read_source
from judgetrace.agreement.run import MapTask, StagePlan, collect_counts, stage_rows
from judgetrace.agreement.sources import find_inputs
from judgetrace.scale import ScaleConfig
from judgetrace.sources import SourceConfig, list_source_files, plan_parts
from judgetrace.staging import gather_pieces
from judgetrace.storage import CorruptFileError, Folder, StoreError, encode_parquet
from tests import refusing_store
from tests.agreement_runs import draw_people, run_here, write_table


def describe_people(folder: str) -> MeasureAgreementConfig:
    """Make the config that reads the file people.parquet of a folder."""
    return MeasureAgreementConfig(
        output=f"{folder}/out",
        tables=[TableConfig(paths=[f"{folder}/people.parquet"], kind="human")],
        scale=ScaleConfig(values=("1", "2", "3", "4", "5")),
    )


def check_wrong_bits(folder: Folder, name: str, read: Callable[[], pa.Table]) -> None:
    """Turn single bits of a file's pages: what is read then is what it held, or the file is named as broken."""
    whole, right, chance, named = folder.read_bytes(name), read(), random.Random(0), 0
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for _ in range(200):
        broken = bytearray(whole)
        broken[chance.randrange(4, footer)] ^= 1 << chance.randrange(8)
        folder.write_atomic(name, bytes(broken))
        try:
            assert read().equals(right)
        except CorruptFileError as error:
            named += f"{name}: is not the Parquet file it must be" in str(error)
    assert named > 100


def test_a_wrong_bit_of_a_source_is_never_read_as_another_label(tmp_path: Path) -> None:
    """Pages were read without their checksums, so that most wrong bits passed for other items and labels."""
    table = pa.Table.from_pandas(draw_people(0, items=500).assign(dimension=""), preserve_index=False)
    folder = Folder(str(tmp_path))
    folder.write_atomic("a.parquet", encode_parquet(table))
    (part,) = plan_parts(list_source_files(SourceConfig(paths=[str(tmp_path)])))

    check_wrong_bits(folder, "a.parquet", lambda: read_source(part, Source("people", "human")))


def test_a_wrong_bit_of_the_staged_rows_is_never_counted(tmp_path: Path) -> None:
    write_table(tmp_path / "people.parquet", draw_people(0, items=500))
    inputs, folder = find_inputs(describe_people(str(tmp_path))), Folder(f"{tmp_path}/out")
    plan = StagePlan(tuple(inputs.sources), inputs.rules, num_buckets=1)
    piece = stage_rows(folder, plan, 0, MapTask(tuple(inputs.parts))).pieces[0]

    check_wrong_bits(folder, piece.name, lambda: gather_pieces(folder, [piece], inputs.rules.schema))


def test_a_table_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "people.parquet").write_bytes(b"<html>404</html>")

    with pytest.raises(CorruptFileError, match=r"people\.parquet: is not the Parquet file it must be"):
        find_inputs(describe_people(str(tmp_path)))


@pytest.mark.parametrize(
    ("mode", "part", "complaint"),
    [
        ("rb", "people.parquet", r"people\.parquet: can't be read: PermissionError: AccessDenied"),
        ("wb", "_staging/", r"_staging/map-00000-\w+\.parquet: can't be written: PermissionError: AccessDenied"),
    ],
)
def test_a_store_that_refuses_is_named_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, part: str, complaint: str
) -> None:
    write_table(tmp_path / "people.parquet", draw_people(1))
    config = describe_people(f"refusing://{tmp_path}")
    inputs = find_inputs(config)
    monkeypatch.setattr(refusing_store, "REFUSED", (mode, part))

    with pytest.raises(StoreError, match=complaint):
        collect_counts(config, inputs, Folder(config.output), run_here)


def test_a_table_that_is_refused_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "people.parquet", draw_people(1))
    monkeypatch.setattr(refusing_store, "REFUSED", ("rb", "people.parquet"))

    with pytest.raises(StoreError, match=r"people\.parquet: can't be read: PermissionError: AccessDenied"):
        find_inputs(describe_people(f"refusing://{tmp_path}"))
