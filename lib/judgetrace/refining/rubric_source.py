"""What a rubric is written from: critiques near the centres of their clusters, levels in turn. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from judgetrace.refining.candidate_config import ClusterConfig
from judgetrace.refining.clusters import cluster_vectors
from judgetrace.refining.critiques import CRITIQUES, ChosenTrace, Critique, CritiqueReply, tabulate_critiques
from judgetrace.refining.losses import CritiqueCount, explain_lost_levels
from judgetrace.refining.refine_prompts import Part
from judgetrace.schema import UnitKey

Replies = Mapping[tuple[str, UnitKey], CritiqueReply]
"""By level and unit of the trace that was asked about."""


@dataclass(frozen=True)
class RubricSource:
    """What the rubric of a seed is written from, or why it can't be."""

    parts: Sequence[Part] = ()
    critiques: pa.Table = field(default_factory=CRITIQUES.empty_table)
    counts: tuple[CritiqueCount, ...] = ()
    error: str | None = None

    @property
    def num_calls(self) -> int:
        """Calls by which critiques were asked for."""
        return sum(count.num_asked for count in self.counts)


def make_rubric_source(
    traces: Sequence[ChosenTrace],
    replies: Replies,
    vectors: Mapping[str, np.ndarray],
    levels: Iterable[str],
    *,
    config: ClusterConfig,
    seed: int,
) -> RubricSource:
    """Pick from the critiques of a seed's traces, given the vector of each sentence; count the traces without any."""
    replies_of = [(trace, replies[trace.level, trace.unit]) for trace in traces]
    critiques = [Critique(text, trace) for trace, reply in replies_of for text in reply.sentences]
    parts, table = pick_critiques(critiques, vectors, levels, config=config, seed=seed)
    counts = count_replies(traces, replies)
    error = explain_lost_levels(counts, [(trace.level, reply.problem) for trace, reply in replies_of if reply.problem])
    return RubricSource(parts, table, counts, None if error is None else f"rubric: {error}")


def pick_critiques(
    critiques: Sequence[Critique],
    vectors: Mapping[str, np.ndarray],
    levels: Iterable[str],
    *,
    config: ClusterConfig,
    seed: int,
) -> tuple[list[Part], pa.Table]:
    """Cluster each level's critiques; returns those nearest the centroids, levels in turn, and the table of all."""
    picked: list[list[Part]] = []
    tables = [CRITIQUES.empty_table()]
    for level in levels:
        own = [critique for critique in critiques if critique.source.level == level]
        if not own:
            continue
        clusters = cluster_vectors(np.array([vectors[c.sentence] for c in own]), config, seed)
        used = clusters.pick_nearest(config.nearest, [c.sentence.casefold() for c in own])
        about = zip(clusters.labels.tolist(), clusters.distances.tolist(), used.tolist(), strict=True)
        tables.append(tabulate_critiques(seed, own, about))
        order = np.lexsort((clusters.distances, clusters.labels))
        picked.append([Part(level, own[at].sentence) for at in order if used[at]])
    longest = max(map(len, picked), default=0)
    parts = [some[at] for at in range(longest) for some in picked if at < len(some)]
    return parts, pa.concat_tables(tables)


def count_replies(traces: Iterable[ChosenTrace], replies: Replies) -> tuple[CritiqueCount, ...]:
    """Count the traces of each level, and those that gave no critique; levels in the order of their first trace."""
    asked: Counter[str] = Counter()
    silent: Counter[str] = Counter()
    for trace in traces:
        asked[trace.level] += 1
        silent[trace.level] += not replies[trace.level, trace.unit].sentences
    return tuple(CritiqueCount(level, number, silent[level]) for level, number in asked.items())
