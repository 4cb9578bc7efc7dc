"""What must hold of a run whatever befell it: the one oracle of all tests of faults.

- Every unit of the corpus ends in exactly one terminal row: none lost, none twice, none from elsewhere.
- No (unit, draw) is recorded twice.
- An accepted trace's rating is its unit's label, by the lowest index that was accepted.
- Totals equal the input: the tallies in the files' footers, and the manifest's, are those of the rows.
- Where the engine is scripted, every unit ends as in a run that nothing befell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from judgetrace.accounting import Tally, add_tallies, tally_traces
from judgetrace.ledger import current_shard_files, read_tally
from judgetrace.schema import UnitKey, unit_key
from judgetrace.storage import Folder
from tests.trace_tables import read_published

TERMINAL_OUTCOMES = {"accepted", "exhausted", "over_quota", "quarantined", "failed"}


def check_run(
    run: str,
    corpus: str,
    undisturbed: set[tuple[Any, ...]] | None = None,
    quarantined: Collection[str] = (),
    is_complete: bool = True,
) -> list[dict[str, Any]]:
    """Check a run of infer_traces that has ended; returns its rows.

    `undisturbed` is `accepted_set` of an undisturbed run's rows, with the scripted engine. `quarantined` are the item
    ids that must end so, and no others may; they are left out of the comparison. A run that is not complete
    (`--limit`, a budget, a drain) may lack rows and has no manifest; everything else holds of it too.
    """
    rows = read_published(Folder(run))
    check_rows(rows)
    check_totals(rows, run, corpus, is_complete)
    found = {row["item_id"] for row in rows if row["outcome"] == "quarantined"}
    assert found == set(quarantined), f"quarantined: {sorted(found ^ set(quarantined))[:5]} differ"
    if undisturbed is not None:
        ours = accepted_set([row for row in rows if row["item_id"] not in quarantined])
        theirs = {entry for entry in undisturbed if entry[0] not in quarantined}
        assert not ours - theirs, f"{len(ours - theirs)} units ended otherwise: {sorted(map(str, ours - theirs))[:5]}"
        assert ours == theirs or not is_complete, f"{len(theirs - ours)} of the undisturbed run's units differ"
    return rows


def check_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Check what each row says for itself, and that no two are of one unit."""
    repeated = [key for key, count in Counter(map(unit_key, rows)).items() if count > 1]
    assert not repeated, f"{len(repeated)} units have several rows: {repeated[:5]}"
    for row in rows:
        key = unit_key(row)
        assert row["outcome"] in TERMINAL_OUTCOMES, (key, row["outcome"])
        indices = [draw["index"] for draw in row["draws"]]
        assert len(set(indices)) == len(indices), (key, indices)
        assert not indices or row["outcome"] != "over_quota", (key, indices)
        if row["outcome"] == "accepted":
            # Two labels where the target lies half-way between them, and the corpus lets either count.
            assert row["rating"] in row["accepted_labels"], key
            assert (row["accepted_by"] == "exact") == (row["rating"] == row["target_label"]), key
            assert row["trace"], key
            hits = [draw["index"] for draw in row["draws"] if draw["reason"] == "accepted"]
            assert row["draw_index"] == min(hits), key
            (hit,) = (draw for draw in row["draws"] if draw["index"] == row["draw_index"])
            assert hit["rating"] == row["rating"], key
            assert set(range(row["draw_index"])) <= set(indices), key


def check_totals(rows: Sequence[dict[str, Any]], run: str, corpus: str, is_complete: bool = True) -> None:
    """Check that the rows are those of the corpus, and that all that was counted of them is true."""
    labels = corpus_labels(corpus)
    keys, expected = set(map(unit_key, rows)), set(labels)
    assert not keys - expected, f"not in the corpus: {sorted(keys - expected)[:5]}"
    assert keys == expected or not is_complete, f"{len(expected - keys)} lost: {sorted(expected - keys)[:5]}"
    for row in rows:
        assert (row["target_label"], row["accepted_labels"]) == labels[unit_key(row)], unit_key(row)
    folder = Folder(run) / "traces"
    names = sorted(current_shard_files(folder).values())
    for name in names:
        assert read_tally(folder, name) == tally_traces(folder.read_table(name)), f"{name}: footer and rows differ"
    tally = add_tallies(read_tally(folder, name) for name in names)
    assert tally.outcomes() == Counter(row["outcome"] for row in rows)
    assert Folder(run).exists("manifest.json") == is_complete
    if is_complete:
        check_manifest(run, tally)


def check_manifest(run: str, tally: Tally) -> None:
    """Check that the manifest tells what was counted of all rows."""
    manifest = Folder(run).read_json("manifest.json")
    assert manifest["units"] == manifest["decided"] == tally.num_units, (manifest["units"], manifest["decided"])
    assert Counter(manifest["outcomes"]) == tally.outcomes(), manifest["outcomes"]
    assert Tally.from_json(manifest["tally"]) == tally


def corpus_labels(corpus: str) -> dict[UnitKey, tuple[str | None, list[str]]]:
    """Return the target label and the accepted labels of every unit of a prepared corpus, by its key."""
    items = Folder(corpus) / "items"
    units = [unit for name in items.list_files(".parquet") for unit in items.read_table(name).to_pylist()]
    labels = {unit_key(unit): (unit["target_label"], unit["accepted_labels"]) for unit in units}
    assert len(labels) == len(units), "the corpus itself has units twice"
    return labels


def accepted_set(rows: Sequence[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """What a run came to, whatever way it took: each unit's outcome, and its accepted draw. The item id comes first."""
    return {(*unit_key(row), row["outcome"], row["draw_index"], row["rating"], row["trace"]) for row in rows}
