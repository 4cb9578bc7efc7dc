"""Kills engine processes and nodes of a cluster again and again, at random moments; new nodes join in their stead."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.noted_engine import list_engines
from tests.test_job_node_faults import Nodes

BOTH_EVERY = 3
"""Each such loss of nodes takes all that there are at once."""


@dataclass
class Killed:
    """What was done to the cluster."""

    engines: int = 0
    nodes: int = 0
    losses: int = 0
    """Moments at which one node, or all of them, went."""


@dataclass
class Killer:
    """`step` does what is due. `started` is a folder with a file for each engine, named after its process."""

    nodes: Nodes
    started: Path
    num_nodes: int
    engine_every_s: float
    node_every_s: float
    chance: random.Random
    killed: Killed = field(default_factory=Killed)

    def __post_init__(self) -> None:
        self._alive = [self.nodes.add() for _ in range(self.num_nodes)]
        self._engine_at = self._next(self.engine_every_s)
        self._node_at = self._next(self.node_every_s)

    def step(self) -> None:
        """Kill an engine or nodes, if it is time."""
        if time.monotonic() > self._engine_at:
            self._kill_engine()
            self._engine_at = self._next(self.engine_every_s)
        if time.monotonic() > self._node_at:
            self._replace_nodes()
            self._node_at = self._next(self.node_every_s)

    def _next(self, every_s: float) -> float:
        return time.monotonic() + every_s * self.chance.uniform(0.5, 1.5)

    def _kill_engine(self) -> None:
        living = list_engines(self.started)
        if living:
            os.kill(self.chance.choice(living), signal.SIGKILL)
            self.killed.engines += 1

    def _replace_nodes(self) -> None:
        doomed: list[Any] = self._alive if self.killed.losses % BOTH_EVERY == 0 else self._alive[:1]
        self.nodes.kill(*doomed)
        self.killed.nodes += len(doomed)
        self.killed.losses += 1
        self._alive = [node for node in self._alive if node not in doomed] + [self.nodes.add() for _ in doomed]
