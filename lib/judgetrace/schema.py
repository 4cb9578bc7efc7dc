"""The tables of judgetrace: every column, what it holds, and what null means.

An empty table has the same columns as a full one. Knows no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

UNIT_KEY = ("item_id", "dimension", "target_source")
"""What names a unit: the smallest thing that has one target label and ends in one terminal row."""

UnitKey = tuple[str, str, str]


def unit_key(row: Mapping[str, Any]) -> UnitKey:
    """Return what names the unit of a row."""
    return (row["item_id"], row["dimension"], row["target_source"])


LATER_COLUMNS = frozenset({"proposal", "hinted"})
"""Columns that files of earlier versions lack."""


def fit_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Bring a table written by an earlier version to a schema: LATER_COLUMNS that it lacks are null, further ones go.

    Raises KeyError where another column is missing, pa.ArrowInvalid where one can't be cast.
    """
    for field in (field for field in schema if field.name in LATER_COLUMNS - set(table.column_names)):
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table.select(schema.names).cast(schema)


FIRST_PROPOSAL = "first"
"""The proposal of a run that has no name of its own for it."""
TARGET_AGGREGATE = "aggregate"
"""The `target_source` of a unit whose label was aggregated over annotators."""

ANNOTATIONS = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),  # "" where the corpus has one dimension without a name
        ("annotator_id", pa.string()),  # "" where the corpus names no annotators
        ("label", pa.string()),  # a level of the dimension's scale, as the scale writes it
    ]
)
"""One row a human label."""

ITEMS = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("target_source", pa.string()),  # "aggregate" or an annotator's id
        ("target_label", pa.string()),
        ("accepted_labels", pa.list_(pa.string())),  # target_label first; two where a half point counts as either
        ("annotator_labels", pa.list_(pa.string())),  # every annotator's label, in the order of annotator ids
        ("label_sd", pa.float64()),  # sample SD (ddof=1); null for a single label or a nominal scale
        ("group", pa.string()),  # what splits must not divide; the item id where the corpus has no groups
        ("split", pa.string()),  # train, validation or test
        ("fields", pa.string()),  # JSON object: field name -> text that the rater sees
        ("extra", pa.string()),  # JSON object: the source's other columns, carried along
    ]
)
"""One row a unit."""

QUARANTINE = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),  # counted from 0 in the file; null where a whole file or row group can't be read
        ("num_rows", pa.int64()),  # rows this entry stands for; 1 but for unreadable row groups and unclosed quotes
        ("reason", pa.string()),
        ("detail", pa.string()),  # what was found, shortened
    ]
)
"""One row an input row that can't be used."""

DROPPED = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("reason", pa.string()),  # sd_above_limit, tied, several_annotators
        ("annotator_labels", pa.list_(pa.string())),
        ("label_sd", pa.float64()),
        ("group", pa.string()),  # this and the following as in ITEMS: a rater can be asked all the same
        ("split", pa.string()),
        ("fields", pa.string()),
        ("extra", pa.string()),
    ]
)
"""One row an (item, dimension) that the aggregation rule leaves without a target label."""

DRAW = pa.struct(
    [
        ("index", pa.int32()),  # 0-based
        ("seed", pa.int64()),
        ("reason", pa.string()),  # accepted, disagrees, rated, unparsed, truncated, failed, cancelled
        ("rating", pa.string()),  # null where none was parsed
        ("accepted_by", pa.string()),  # by which rule it was accepted; null otherwise
        ("expected", pa.float64()),  # expectation over the levels, in the scale's numbers; null unless they were scored
        (
            "level_probabilities",
            pa.list_(pa.float64()),
        ),  # of each level, before they are made to sum to 1; null likewise
        ("constrained", pa.bool_()),  # the rating was sampled under a constraint to the scale
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("text", pa.string()),  # the whole output; null where the config does not keep it
        ("trace", pa.string()),  # the thinking; null as for text
        ("error", pa.string()),  # why it failed, or why an unparsed one has no rating where an endpoint says; else null
    ]
)

DECISIONS = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("target_source", pa.string()),
        # accepted, exhausted, over_quota (its level had enough: not drawn), quarantined, failed; undecided only inside
        # a ledger
        ("outcome", pa.string()),
        ("proposal", pa.string()),  # the run's name for its way of sampling; null in files of before it: "first"
        ("hinted", pa.bool_()),  # the prompt told the target label; null likewise: false
        ("trace", pa.string()),  # the thinking of the first accepted draw
        ("rating", pa.string()),  # its rating
        ("draw_index", pa.int32()),  # its index
        ("accepted_by", pa.string()),  # exact, half_point, tolerance, any_annotator; null unless accepted
        ("num_needed", pa.int32()),  # draws that the outcome depends on; those with a higher index were sampled in vain
        ("error", pa.string()),  # why quarantined or failed
        ("shortened", pa.bool_()),  # the item was shortened to fit the model
        ("draws", pa.list_(DRAW)),  # all draws, by index
    ]
)
"""One row a decision of `infer_traces` about a unit; what ledger parts hold."""

TRACES = pa.schema([*ITEMS, *(field for field in DECISIONS if field.name not in UNIT_KEY)])
"""One row a unit: the item, its target label and the decision."""

RATINGS = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("target_source", pa.string()),  # of the unit that was asked; an item is rated once for each dimension
        ("rater_id", pa.string()),
        ("label", pa.string()),  # the level given, or the nearest one to `rating`; null where there is none
        (
            "rating",
            pa.float64(),
        ),  # in the scale's numbers: a level's, a mean or an expectation; null for nominal scales
        # One sample asked for: SD of the level distribution where it was scored, else null. Several: SD of the numbers
        # (ddof=1), or by majority and on nominal scales the share of other labels; null where one alone gave a rating.
        ("spread", pa.float64()),
        ("num_ratings", pa.int32()),  # draws that gave a rating
        ("outcome", pa.string()),  # rated, unrated, quarantined, failed; undecided only inside a ledger
        ("error", pa.string()),  # why not rated: unparsed, truncated, or what failed
        ("shortened", pa.bool_()),  # the item was shortened to fit the model
        ("draws", pa.list_(DRAW)),  # all draws, by index
    ]
)
"""One row a decision of `rate_items` about an item and dimension; what ledger parts hold."""

RATER_ANNOTATIONS = pa.schema([*RATINGS, *(ITEMS.field(name) for name in ("target_label", "group", "split"))])
"""One row an item and dimension: a rater's label. `target_label` is null where targets are kept per annotator."""

VERDICTS = pa.schema(
    [
        ("item_id", pa.string()),
        ("dimension", pa.string()),
        ("target_source", pa.string()),
        ("proposal", pa.string()),  # as in TRACES
        ("hinted", pa.bool_()),
        ("rating", pa.string()),  # the trace's own
        ("trace_hash", pa.string()),  # of the trace as it was accepted; verification.hash_trace
        ("stripped_trace", pa.string()),  # what the second model read
        ("leaks", pa.bool_()),  # it still names a level: that a rating is recovered from it says little
        ("mentions_hint", pa.bool_()),  # the trace says that its label was given
        ("recovered_label", pa.string()),  # null where the second model named none
        ("recovers", pa.bool_()),  # it is exactly `rating`
        ("outcome", pa.string()),  # recovered, missed, unrated, quarantined, failed; undecided only inside a ledger
        ("error", pa.string()),  # why missed without being asked, unrated, quarantined or failed
        ("shortened", pa.bool_()),  # the item was shortened to fit the model
        ("draws", pa.list_(DRAW)),  # the second model's one answer; none where nothing was left to ask about
    ]
)
"""One row a decision of `verify_traces` about an accepted unit; what ledger parts hold."""

VERIFICATIONS = pa.schema([*VERDICTS, *(ITEMS.field(name) for name in ("target_label", "group", "split"))])
"""One row an accepted unit of a run of infer_traces."""
