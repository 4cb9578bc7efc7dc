"""One start of a job's command line, in a session of its own, that can be killed as a machine's end would kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench import harness

SURVIVE_S = 10.0
"""How long what belongs to a killed job may take to notice."""


class JobProcess:
    """A job with a Ray folder of its own, `temp_dir`: its path must be short, since Ray's sockets lie in it."""

    def __init__(self, job: str, config: Path, log: Path, temp_dir: Path):
        self._log, self._temp_dir = log, temp_dir
        command = [sys.executable, "-m", f"jobs.{job}", str(config), f"--cluster.temp_dir={temp_dir}"]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=harness.ROOT,
                env=harness.job_environment(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> None:
        """Wait for its end. Raises where it does not exit with 0."""
        status = self._process.wait()
        if status:
            raise RuntimeError(f"the job ended with status {status}; see {self._log}:\n{self._log.read_text()[-3000:]}")

    def kill(self) -> tuple[str, ...]:
        """SIGKILL the process group; returns, and ends, what of the job survives it."""
        import psutil

        family = psutil.Process(self._process.pid).children(recursive=True)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _, alive = psutil.wait_procs(family, timeout=SURVIVE_S)
        alive += [p for p in self._strays() if p not in alive]
        names = []
        for process in alive:
            try:
                names.append(" ".join(process.cmdline())[:120])
                process.kill()
            except psutil.NoSuchProcess:
                continue
        return tuple(names)

    def _strays(self) -> list[Any]:
        """Find processes that name this job's Ray folder."""
        import psutil

        mark = f"{self._temp_dir}/"
        return [p for p in psutil.process_iter(["cmdline"]) if any(mark in part for part in p.info["cmdline"] or ())]
