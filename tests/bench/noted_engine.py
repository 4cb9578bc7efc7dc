"""A scripted engine that notes which process it runs in, and who of those still runs."""

from __future__ import annotations

import os
from pathlib import Path

from judgetrace.engine import EngineSpec
from tests.scripted_engine import ScriptedEngine


class NotedEngine(ScriptedEngine):
    """A scripted engine that puts a file, named after its process, into the folder `engine.args.started`."""

    def __init__(self, spec: EngineSpec):
        super().__init__(spec)
        (Path(self._script["started"]) / str(os.getpid())).touch()


def list_engines(started: Path) -> list[int]:
    """List the processes of living engines."""
    import psutil

    living = []
    for pid in sorted(int(file.name) for file in started.iterdir()):
        try:
            # Another process may have got its number by now.
            if (psutil.Process(pid).cmdline() or [""])[0].startswith("ray::"):
                living.append(pid)
        except psutil.NoSuchProcess:
            (started / str(pid)).unlink()
    return living
