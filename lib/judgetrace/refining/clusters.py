"""Cluster sentences by their vectors, and pick those that stand for each cluster. Pure; imports scikit-learn when used.

k-means on vectors of length 1, so that the squared distance is twice the cosine distance. The number of clusters is the
one of the greatest mean silhouette: Rousseeuw (1987), "Silhouettes: a graphical aid to the interpretation and
validation of cluster analysis".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from judgetrace.refining.candidate_config import ClusterConfig

MOST_SCORED = 2000
"""A silhouette is of so many vectors at most: it takes all their distances."""
STARTS = 10


@dataclass(frozen=True)
class Clusters:
    """Which cluster each vector is in [N], counted from the largest; how far it is from its centroid [N]."""

    labels: np.ndarray
    distances: np.ndarray

    def pick_nearest(self, number: int, same: list[str]) -> np.ndarray:
        """Pick the `number` vectors nearest the centroid of each cluster [N, bool].

        `same` names what each stands for: none is picked twice. Of equally near ones the first counts.
        """
        picked = np.zeros(len(self.labels), dtype=bool)
        seen: set[str] = set()
        taken: dict[int, int] = {}
        for at in np.lexsort((np.arange(len(self.labels)), self.distances, self.labels)):
            label = int(self.labels[at])
            if taken.get(label, 0) < number and same[at] not in seen:
                picked[at] = True
                taken[label] = taken.get(label, 0) + 1
                seen.add(same[at])
        return picked


def cluster_vectors(vectors: np.ndarray, config: ClusterConfig, seed: int) -> Clusters:
    """Cluster vectors [N, D] into a number of clusters that config's rule chooses; any N, also 0."""
    unit = _scale_to_unit(vectors)
    best, best_score = np.zeros(len(unit), dtype=int), 0.0
    num_different = len(np.unique(unit.round(6), axis=0)) if len(unit) else 0
    for number in range(2, min(config.max_clusters, num_different - 1) + 1):
        labels = _run_k_means(unit, number, seed)
        score = _score_silhouette(unit, labels, seed)
        # Sums of floats differ in the last digits from machine to machine: no more clusters for nothing.
        if score > best_score + 1e-6:
            best, best_score = labels, score
    return _measure(unit, best)


def _scale_to_unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), dtype=np.float64)


def _run_k_means(unit: np.ndarray, number: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(number, n_init=STARTS, random_state=seed % 2**32).fit(unit).labels_)


def _score_silhouette(unit: np.ndarray, labels: np.ndarray, seed: int) -> float:
    from sklearn.metrics import silhouette_score

    size = MOST_SCORED if len(unit) > MOST_SCORED else None
    return float(silhouette_score(unit, labels, metric="euclidean", sample_size=size, random_state=seed % 2**32))


def _measure(unit: np.ndarray, labels: np.ndarray) -> Clusters:
    """Measure distances, with clusters numbered from the largest; equally large ones by their first vector."""
    found, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = found[np.lexsort((first, -sizes))]
    ranks = {int(label): rank for rank, label in enumerate(order)}
    renumbered = np.array([ranks[int(label)] for label in labels], dtype=np.int32)
    distances = np.zeros(len(unit))
    for rank in range(len(order)):
        members = renumbered == rank
        distances[members] = np.linalg.norm(unit[members] - unit[members].mean(axis=0), axis=1)
    return Clusters(renumbered, distances)
