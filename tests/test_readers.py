import bz2
import gzip
import json
import lzma
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.utils import compressions

from judgetrace import batches as batches_room
from judgetrace import text_files
from judgetrace.batches import Fault, RawBatch
from judgetrace.columns import ColumnsConfig, check_columns
from judgetrace.config import UserError
from judgetrace.readers import read_column_names, read_part
from judgetrace.sources import SourceConfig, list_source_files, plan_parts


def read_file(path: Path, columns: Sequence[str] = ("item", "label"), quote: str | None = '"') -> list[RawBatch]:
    parts = plan_parts(list_source_files(SourceConfig(paths=[str(path)])), quote=quote)
    return [batch for part in parts for batch in read_part(part, columns)]


def list_rows(batches: list[RawBatch]) -> dict[int, tuple[str | None, ...]]:
    """List rows by their number in the file."""
    return {
        int(row): tuple(values.values())
        for batch in batches
        for row, values in zip(batch.rows, batch.table.to_pylist(), strict=True)
    }


def compress_zstd(data: bytes) -> bytes:
    compressed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return compressed


def list_faults(batches: list[RawBatch]) -> list[Fault]:
    return [fault for batch in batches for fault in batch.faults]


def test_a_csv_row_with_a_wrong_number_of_columns_is_named_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b'item,label\na,1\nb\n\n"two\nlines",2\nc,3,4\nd,\n')

    batches = read_file(file)

    assert list_rows(batches) == {0: ("a", "1"), 2: ("two\nlines", "2"), 4: ("d", "")}
    assert list_faults(batches) == [
        Fault(1, 1, "invalid_row", "expected 2 columns, found 1"),
        Fault(3, 1, "invalid_row", "expected 2 columns, found 3"),
    ]


def test_csv_row_numbers_hold_over_block_borders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "CSV_BLOCK_BYTES", 64)
    file = tmp_path / "a.csv"
    file.write_text("item,label\n" + "".join(f"{n},x\n" if n % 7 else "bad\n" for n in range(100)))

    batches = read_file(file)

    assert list_rows(batches) == {n: (str(n), "x") for n in range(100) if n % 7}
    assert [fault.row for fault in list_faults(batches)] == [n for n in range(100) if n % 7 == 0]


def test_a_bad_csv_row_that_is_found_while_a_batch_is_handed_over_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The reader runs ahead on a thread of its own: now and then what it found meanwhile counted as told.
    monkeypatch.setattr(text_files, "CSV_BLOCK_BYTES", 80)
    (tmp_path / "a.csv").write_text("item,label\n" + "a,1\n" * 20 + "b\n")
    (part,) = plan_parts(list_source_files(SourceConfig(paths=[str(tmp_path / "a.csv")])))

    assert {len(list_faults(list(read_part(part, ["item"])))) for _ in range(400)} == {1}


def test_a_bad_byte_spoils_its_row_and_no_other_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"item,label\na,1\nb\xff,1\nc,nul\x00\n")
    (tmp_path / "a.jsonl").write_bytes(
        b'{"item":"a","label":"1"}\n{"item":"b\xff","label":"1"}\n{"item":"c","label":"2"}\n'
    )
    bad = pa.array([b"a", b"b\xff", b"c"]).cast(pa.large_binary()).view(pa.large_string())
    pq.write_table(pa.table({"item": bad, "label": pa.array(["1", "1", "2"])}), tmp_path / "a.parquet")

    for name in ("a.csv", "a.jsonl", "a.parquet"):
        batches = read_file(tmp_path / name)
        assert sorted(list_rows(batches)) == [0, 2], name
        assert [(f.row, f.reason) for f in list_faults(batches)] == [(1, "undecodable")], name
        assert "0xff at 1" in list_faults(batches)[0].detail or name == "a.jsonl"


def test_a_bad_byte_in_a_csv_row_with_too_many_columns_ends_nothing(tmp_path: Path) -> None:
    # The CSV reader hands such rows over as text, which used to fail on the byte and end the file.
    (tmp_path / "a.csv").write_bytes(b"item,label\na,1\nb\xff,1,2\nc\xfe,1\nd,1\n")

    batches = read_file(tmp_path / "a.csv")

    assert sorted(list_rows(batches)) == [0, 3]
    assert list_faults(batches) == [
        Fault(1, 1, "invalid_row", "expected 2 columns, found 3"),
        Fault(2, 1, "undecodable", "column item: byte 0xfe at 1"),
    ]


def test_a_quote_that_is_not_closed_stands_for_all_the_lines_it_swallows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('item,label\na,1\n"b,1\nc,1\nd,1\n')

    batches = read_file(tmp_path / "a.csv")

    assert sorted(list_rows(batches)) == [0]
    hint = "where quotes are plain text, set source.quote = ''"
    detail = f"expected 2 columns, found 1: a quote that is still open at the end of the file, over 3 line(s); {hint}"
    assert list_faults(batches) == [Fault(1, 3, "invalid_row", detail)]


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_quote_that_is_open_in_the_last_column_makes_no_valid_row_of_what_it_swallows(
    tmp_path: Path, end: str
) -> None:
    (tmp_path / "a.csv").write_bytes(f'label,text\n1,good\nbad\n2,"oh no\n3,fine\n1,bad{end}'.encode())

    batches = read_file(tmp_path / "a.csv")

    assert list_rows(batches) == {0: ("1", "good")}
    assert [(fault.row, fault.num_rows, fault.reason) for fault in list_faults(batches)] == [
        (1, 1, "invalid_row"),
        (2, 3, "invalid_row"),
    ]
    assert "still open at the end of the file, over 3 line(s); where" in list_faults(batches)[1].detail
    assert "source.quote = ''" in list_faults(batches)[1].detail


def test_a_file_of_one_column_tells_an_open_quote_and_keeps_a_closed_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('item\na\n"b\nc\n')
    (tmp_path / "b.csv").write_text('item\na\n"b\nc"')

    assert [(fault.row, fault.num_rows) for fault in list_faults(read_file(tmp_path / "a.csv"))] == [(1, 2)]
    assert list_rows(read_file(tmp_path / "b.csv")) == {0: ("a",), 1: ("b\nc",)}
    assert list_faults(read_file(tmp_path / "b.csv")) == []


def test_quotes_are_plain_text_where_the_config_names_none(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('label\ttext\n2\t"oh no\n3\tfine "so"\n1\t"bad"\n')
    expected = {0: ("2", '"oh no'), 1: ("3", 'fine "so"'), 2: ("1", '"bad"')}

    batches = read_file(tmp_path / "a.tsv", quote="")
    assert (list_rows(batches), list_faults(batches)) == (expected, [])
    (tmp_path / "a.tsv").write_text("label\ttext\n2\t'a\tb'\n")
    assert list_rows(read_file(tmp_path / "a.tsv", quote="'")) == {0: ("2", "a\tb")}


def test_an_open_quote_that_swallows_more_than_a_block_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "CSV_BLOCK_BYTES", 64)
    (tmp_path / "a.csv").write_text('item,label\na,1\n"b,1\n' + "c,1\n" * 100)

    fault = list_faults(read_file(tmp_path / "a.csv"))[-1]

    assert (fault.row, fault.reason) == (None, "unreadable")
    assert "a quote that is not closed? where quotes are plain text, set source.quote" in fault.detail


def test_a_bad_byte_in_a_list_column_spoils_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"x", b"\xff"]).view(pa.string())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), texts)
    pq.write_table(pa.table({"item": ["a", "b"], "label": lists}), tmp_path / "a.parquet")

    assert [(f.row, f.reason) for f in list_faults(read_file(tmp_path / "a.parquet"))] == [(1, "undecodable")]


def test_jsonl_lines_that_are_no_objects_are_named_and_blank_ones_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    deep = "[" * 100_000
    lines = ['{"item":"a","label":1.0}', "", "{", "[1]", '{"item":"\\ud800"}', deep, '{"item":"\\ud83d\\ude00"}']
    file.write_text("\n".join(lines))

    batches = read_file(file)

    assert list_rows(batches) == {0: ("a", "1.0"), 6: ("\U0001f600", None)}
    assert [(fault.row, fault.reason) for fault in list_faults(batches)] == [
        (2, "invalid_json"),
        (3, "invalid_json"),
        (4, "undecodable"),
        (5, "invalid_json"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.csv.ZST"])
def test_zstandard_files_are_read_whole_also_where_they_have_several_frames(tmp_path: Path, name: str) -> None:
    rows = [(f"i{n}", str(n % 5)) for n in range(2000)]
    if "csv" in name:
        lines = b"item,label\n" + b"".join(f"{item},{label}\n".encode() for item, label in rows)
    else:
        lines = b"".join(json.dumps({"item": item, "label": label}).encode() + b"\n" for item, label in rows)
    (tmp_path / name).write_bytes(compress_zstd(lines[:9000]) + compress_zstd(lines[9000:]))

    batches = read_file(tmp_path / name)

    assert list_rows(batches) == dict(enumerate(rows))
    assert list_faults(batches) == []


def test_a_file_that_no_codec_of_this_python_opens_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(compressions, "xz")
    (tmp_path / "a.csv.xz").write_bytes(lzma.compress(b"item,label\na,1\n"))

    with pytest.raises(UserError, match=r"a\.csv\.xz: this Python was built without"):
        read_file(tmp_path / "a.csv.xz")


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".zst", compress_zstd)],
)
def test_a_truncated_compressed_file_gives_what_can_be_read_and_one_fault(
    tmp_path: Path, suffix: str, compress: object
) -> None:
    assert callable(compress)
    lines = b"".join(b'{"item":"%d","label":"%d"}\n' % (n, n * 7919 % 10007) for n in range(400_000))
    file = tmp_path / f"a.jsonl{suffix}"
    whole = compress(lines)
    file.write_bytes(whole[: len(whole) * 3 // 4])

    batches = read_file(file)

    assert 0 < len(list_rows(batches)) < 400_000
    assert [(fault.row, fault.num_rows, fault.reason) for fault in list_faults(batches)] == [(None, 1, "unreadable")]


def test_a_broken_row_group_is_one_fault_and_the_others_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    rng = np.random.default_rng(0)
    table = pa.table({"item": [f"i{n}" for n in range(3000)], "label": [str(x) for x in rng.random(3000)]})
    pq.write_table(table, file, row_group_size=1000, compression="zstd", use_dictionary=False)
    start = pq.read_metadata(file).row_group(1).column(1).data_page_offset
    data = bytearray(file.read_bytes())
    data[start : start + 400] = b"\xa5" * 400
    file.write_bytes(bytes(data))

    batches = read_file(file)

    assert sorted(list_rows(batches)) == [*range(1000), *range(2000, 3000)]
    assert [(fault.row, fault.num_rows, fault.reason) for fault in list_faults(batches)] == [(None, 1000, "unreadable")]


def test_bytes_in_columns_that_are_not_needed_spoil_no_row(tmp_path: Path) -> None:
    broken = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), pa.array([b"x", b"\xff"]).view(pa.string()))
    table = {"item": ["a", "b"], "label": ["1", "2"], "hash": [b"\xff\x00", b"text"], "tags": broken}
    pq.write_table(pa.table({**table, "image": [b"\xff" * 65, None]}), tmp_path / "a.parquet")
    (part,) = plan_parts(list_source_files(SourceConfig(paths=[str(tmp_path)])))

    batches = list(read_part(part, ["item", "label"]))
    assert list_rows(batches) == {0: ("a", "1", "ff00", ["x"], None), 1: ("b", "2", "text", None, None)}
    assert list_faults(batches) == []
    assert list_rows(list(read_part(part, ["item", "label"], with_others=False))) == {0: ("a", "1"), 1: ("b", "2")}
    faults = list_faults(list(read_part(part, ["item", "hash"])))
    assert [(fault.row, fault.detail) for fault in faults] == [(0, "column hash: byte 0xff at 0")]


def test_a_broken_page_of_a_column_that_is_not_needed_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    numbers = pa.array(np.random.default_rng(0).random(3000))
    pq.write_table(pa.table({"item": [f"i{n}" for n in range(3000)], "x": numbers}), file, use_dictionary=False)
    start = pq.read_metadata(file).row_group(0).column(1).data_page_offset
    data = bytearray(file.read_bytes())
    data[start : start + 400] = b"\xa5" * 400
    file.write_bytes(bytes(data))
    (part,) = plan_parts(list_source_files(SourceConfig(paths=[str(file)])))

    batches = list(read_part(part, ["item"], with_others=False))

    assert list_rows(batches) == {n: (f"i{n}",) for n in range(3000)}
    assert list_faults(batches) == []


@pytest.mark.parametrize("is_dictionary", [False, True])
def test_a_batch_is_as_large_as_its_decoded_rows_whatever_the_footer_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_dictionary: bool
) -> None:
    # The text is in the file once: a group of 2 MB decoded takes some kB, and used to be one batch.
    monkeypatch.setattr(batches_room, "BATCH_BYTES", 256_000)
    texts = pa.array(["x" * 1000] * 2000)
    column = texts.dictionary_encode() if is_dictionary else texts
    pq.write_table(pa.table({"item": [str(n) for n in range(2000)], "label": column}), tmp_path / "a.parquet")

    found = read_file(tmp_path / "a.parquet")

    assert list_rows(found) == {n: (str(n), "x" * 1000) for n in range(2000)}
    # Four pieces of 64 rows of 1 kB reach the limit.
    assert {len(batch.rows) for batch in found[:-1]} == {256}


def test_rows_before_a_broken_page_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    labels = [str(x) for x in np.random.default_rng(0).random(2000)]
    table = pa.table({"item": [f"i{n}" for n in range(2000)], "label": labels})
    pq.write_table(table, file, use_dictionary=False, data_page_size=4000, write_batch_size=100, write_page_index=True)
    data = bytearray(file.read_bytes())
    chunk = pq.read_metadata(file).row_group(0).column(1)
    middle = chunk.data_page_offset + chunk.total_compressed_size * 3 // 4
    data[middle : middle + 200] = b"\xa5" * 200
    file.write_bytes(bytes(data))

    found = read_file(file)

    rows = list_rows(found)
    (fault,) = list_faults(found)
    assert 64 <= len(rows) < 2000
    assert rows == {n: (f"i{n}", labels[n]) for n in range(len(rows))}
    assert (fault.reason, fault.num_rows) == ("unreadable", 2000 - len(rows))


def test_ids_of_fixed_size_are_read_as_text(tmp_path: Path) -> None:
    number = "00112233-4455-6677-8899-aabbccddeeff"
    uuids = pa.array([uuid.UUID(number).bytes, None], pa.uuid())
    fixed = pa.array([b"\xff\x01", b"ab"], pa.binary(2))
    pq.write_table(pa.table({"item": uuids, "label": fixed}), tmp_path / "a.parquet")

    batches = read_file(tmp_path / "a.parquet")

    assert list_rows(batches) == {0: (number, "ff01"), 1: (None, "ab")}
    assert list_faults(batches) == []


def test_a_parquet_file_without_its_footer_is_one_fault(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"item": ["a"] * 100, "label": ["1"] * 100}), file)
    file.write_bytes(file.read_bytes()[:-20])

    assert [(fault.row, fault.reason) for fault in list_faults(read_file(file))] == [(None, "unreadable")]


def test_columns_are_known_from_the_head_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfitem,"the, label"\r\na,1\r\n')
    (tmp_path / "a.jsonl").write_text('{"item":1}\n{"label":2}\n')
    pq.write_table(pa.table({"item": ["a"], "label": ["1"]}), tmp_path / "a.parquet")
    files = {file.format: file for file in list_source_files(SourceConfig(paths=[str(tmp_path)]))}

    assert read_column_names(files["csv"], ",") == ["item", "the, label"]
    assert read_column_names(files["jsonl"], ",") == ["item", "label"]
    assert read_column_names(files["parquet"], ",") == ["item", "label"]


def test_a_csv_file_of_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item,label\n")

    batches = read_file(tmp_path / "a.csv")

    assert list_rows(batches) == {}
    assert list_faults(batches) == []


def test_the_header_may_have_line_breaks_and_come_after_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'"item\nid","the ""label"""\r\na,1\r\nb\r\n')
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbf\r\n\nitem,label\na,1\nb\n")
    names = {"a.csv": ["item\nid", 'the "label"'], "b.csv": ["item", "label"]}

    for name, expected in names.items():
        (file,) = list_source_files(SourceConfig(paths=[str(tmp_path / name)]))
        batches = read_file(tmp_path / name)
        assert read_column_names(file, ",") == expected
        assert batches[0].table.column_names == expected
        assert list_rows(batches) == {0: ("a", "1")}
        assert list_faults(batches) == [Fault(1, 1, "invalid_row", "expected 2 columns, found 1")]


@pytest.mark.parametrize("content", [b"", b"\n\r\n", b"\xef\xbb\xbf", b"item,label", b"item,label\r\n"])
def test_a_csv_file_without_rows_is_no_corrupt_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    (part,) = plan_parts(list_source_files(SourceConfig(paths=[str(tmp_path)])))

    check_columns(part, ColumnsConfig(item_id="item", text="label", label="label"))
    batches = list(read_part(part, ["item"]))

    assert (list_rows(batches), list_faults(batches)) == ({}, [])


def test_tabs_separate_the_columns_of_tsv_files(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("item\tlabel\na,b\t1\n")

    assert list_rows(read_file(tmp_path / "a.tsv")) == {0: ("a,b", "1")}


def test_batch_sizes_do_not_change_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"item": f"i{n}", "label": str(n % 5)} for n in range(1000)]
    (tmp_path / "a.csv").write_text("item,label\n" + "".join(f"{r['item']},{r['label']}\n" for r in rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=300)
    expected = {n: tuple(row.values()) for n, row in enumerate(rows)}
    for size in (65_536, 64):
        monkeypatch.setattr(batches_room, "BATCH_ROWS", size)
        for name in ("a.csv", "a.jsonl", "a.parquet"):
            assert list_rows(read_file(tmp_path / name)) == expected
