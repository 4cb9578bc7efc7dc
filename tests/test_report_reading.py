"""How much of traces and rationales is held while a page is made: no more than it may need."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from judgetrace.reporting.embedding import CHUNK_RECORDS, pack_records
from judgetrace.reporting.trace_reading import (
    SPARE,
    Selection,
    list_trace_files,
    map_ahead,
    read_rationales,
    read_records,
    select_items,
)
from judgetrace.storage import Folder
from tests.report_runs import make_row, make_table, write_trace_run

NUM_FILES, IN_FILE, LENGTH = 16, 500, 1_000


def write_random_texts(folder: Path) -> str:
    """Write units whose texts hardly pack: some 6 bits a character, in a page 8 of them."""
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"
    tables = [
        make_table(
            [
                make_row(f"i{file}-{n}", {"text": "".join(draw.choices(letters, k=LENGTH))}, "3", ["3"])
                for n in range(IN_FILE)
            ]
        )
        for file in range(NUM_FILES)
    ]
    write_trace_run(Folder(str(folder)), tables)
    return str(folder)


def test_texts_that_no_page_could_hold_are_dropped_while_others_are_read_and_the_page_stays_the_same(
    tmp_path: Path,
) -> None:
    files = list_trace_files([("run", write_random_texts(tmp_path))])
    selection = select_items(files, 10**6, 0)
    # Two chunks of 250 units with 1 kB each fit, and a third doesn't.
    max_megabytes = 2.5 * CHUNK_RECORDS * LENGTH / 1e6

    whole = read_records(files, selection, {}, 10**6)
    few = read_records(files, selection, {}, 10**6, max_megabytes)

    packed = pack_records(whole, set(), max_megabytes)
    assert packed.num_records == 2 * CHUNK_RECORDS
    assert pack_records(few, set(), max_megabytes) == packed
    assert len(whole) == NUM_FILES * IN_FILE
    # SPARE times a page's bytes are at most 5,000 units: so many are held, and of those after them a few.
    assert packed.num_records < len(few) < SPARE * 2.5 * CHUNK_RECORDS


def test_files_are_read_ahead_only_a_few_at_a_time() -> None:
    started: list[int] = []

    def read(number: int) -> int:
        started.append(number)
        return number

    with ThreadPoolExecutor(4) as pool:
        results = map_ahead(pool, read, range(100))
        assert next(results) == 0
        assert len(started) <= 5
        assert list(results) == list(range(1, 100))


def test_reasons_of_items_that_are_not_selected_are_not_kept() -> None:
    selection = Selection(0, 2**64 - 1, 10)
    items = [f"i{n}" for n in range(10)]
    # The hash of the fifth item, in the order of hashes, selects five.
    ordered = sorted(items, key=lambda item: selection.up_to(item).limit)
    columns = {"item_id": "id", "dimension": None, "annotator_id": "who", "label": None, "text": "why"}
    table = pa.table({"id": items, "who": ["ann"] * 10, "why": [f"since {item}" for item in items]})

    found = read_rationales(iter([table]), columns, selection.up_to(ordered[4]))

    assert found == {(item, None): [("ann", "", f"since {item}")] for item in ordered[:5]}
