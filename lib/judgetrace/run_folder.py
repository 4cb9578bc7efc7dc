"""The files of a run besides its rows: who drives it, what it was started with, how far it is, that it is complete.

contract.json               what all rows of the run were sampled with; written once
drivers/driver-00003.json   the third driver took over; who comes later outranks who came before
drivers/state-00003.json    its latest word: running, stopped (why), complete
manifest.json               written last: the run is complete
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from judgetrace.config import UserError
from judgetrace.storage import Folder, encode_json

SILENT_AFTER_S = 60.0
"""A running driver that has said nothing for so long is taken for dead."""


def name_runs(urls: Sequence[str]) -> list[str]:
    """Name runs by the last part of their URLs, by more of it where two share that."""
    parts = [url.rstrip("/").split("/") for url in urls]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


class FencedError(UserError):
    """A newer driver has taken the run over; this process must not write any more."""

    exit_status = 3


class ContractError(UserError):
    """A run folder holds rows that were sampled otherwise."""


class RunFolder:
    """The control files of one run."""

    def __init__(self, folder: Folder):
        self.folder = folder

    def check_store(self) -> None:
        """Check that the store lets only the first of two writers of a file through. Raises UserError.

        Some S3 servers ignore If-None-Match; on them two drivers of one run would overwrite each other's decisions.
        """
        name = f"drivers/probe-{uuid.uuid4().hex}"
        first, second = (self.folder.put_if_absent(name, content) for content in (b"first", b"second"))
        self.folder.delete([name])
        if not first or second:
            raise UserError(
                f"run = {self.folder.url}: the store let a second writer overwrite a file that must be written once\n"
                "expected: a local disk, or an object store that honours If-None-Match on PUT (AWS S3, MinIO, Ceph do)"
            )

    def claim(self, now: float, about: Mapping[str, Any] | None = None) -> int:
        """Take the run over as its newest driver; returns the driver's number. Older drivers are fenced by it.

        `about` is kept with it, for those who look at the run from outside.
        """
        while True:
            number = self.newest_driver() + 1
            who = {"host": socket.gethostname(), "pid": os.getpid(), "started_at": now, **(about or {})}
            # Two drivers that say the same would both take themselves for the one that wrote it.
            who["claim"] = uuid.uuid4().hex
            if self.folder.put_if_absent(f"drivers/driver-{number:05d}.json", encode_json(who)):
                return number

    def newest_driver(self) -> int:
        """Return the number of the newest driver, -1 where there is none."""
        names = [n for n in (self.folder / "drivers").list_files(".json") if n.startswith("driver-")]
        return int(names[-1].removeprefix("driver-").removesuffix(".json")) if names else -1

    def check_newest(self, driver: int) -> None:
        """Raise FencedError where a newer driver has taken over."""
        if self.newest_driver() > driver:
            raise FencedError(
                f"{self.folder.url}: driver {driver} was replaced by a newer one, which goes on with the run; this one "
                "stops without writing. Nothing is lost: what was committed is kept."
            )

    def check_contract(self, contract: Mapping[str, Any]) -> None:
        """Write what the run's rows are sampled with, or hold it against what was written.

        Raises ContractError naming every field that changed.
        """
        if not self.folder.put_if_absent("contract.json", encode_json(contract)):
            self.check_earlier_contract(contract)

    def check_earlier_contract(self, contract: Mapping[str, Any]) -> None:
        """Hold what rows would be sampled with against what was written, if anything was; writes nothing.

        Raises ContractError naming every field that changed.
        """
        if not self.folder.exists("contract.json"):
            return
        earlier = self.folder.read_json("contract.json")
        changed = sorted(key for key in {*earlier, *contract} if earlier.get(key) != contract.get(key))
        if changed:
            lines = [f"  {key}: was {earlier.get(key)!r}, is now {contract.get(key)!r}" for key in changed]
            raise ContractError(
                f"{self.folder.url} holds rows that were sampled otherwise; they must not mix:\n"
                + "\n".join(lines)
                + "\nRestore what changed, or give another `run` folder."
            )

    def read_driver(self, number: int) -> dict[str, Any]:
        """Read who a driver is and with which config it was started."""
        driver: dict[str, Any] = self.folder.read_json(f"drivers/driver-{number:05d}.json")
        return driver

    def write_state(self, driver: int, state: Mapping[str, Any]) -> None:
        """Write a driver's latest word."""
        self.folder.write_json(f"drivers/state-{driver:05d}.json", state)

    def read_states(self) -> dict[int, dict[str, Any]]:
        """Read the latest word of every driver."""
        names = [n for n in (self.folder / "drivers").list_files(".json") if n.startswith("state-")]
        return {int(name[6:11]): self.folder.read_json(f"drivers/{name}") for name in names}

    def has_manifest(self) -> bool:
        """Whether the run is complete."""
        return self.folder.exists("manifest.json")


class Fence:
    """Lets a worker write only while its own driver is the newest. Looks at most every `every_s` seconds."""

    def __init__(self, run: RunFolder, driver: int, every_s: float = 5.0):
        self._run, self._driver, self._every_s = run, driver, every_s
        self._looked_at = float("-inf")
        self._fenced: FencedError | None = None

    def check(self) -> None:
        """Raise FencedError once a newer driver has taken over."""
        if self._fenced is None and time.monotonic() - self._looked_at >= self._every_s:
            try:
                self._run.check_newest(self._driver)
            except FencedError as error:
                self._fenced = error
            self._looked_at = time.monotonic()
        if self._fenced is not None:
            raise self._fenced
