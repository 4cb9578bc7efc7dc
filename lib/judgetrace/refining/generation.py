"""Make the candidates of a run: the generator's pool and the log of its calls, around what writes guidelines."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
from rich.console import Console

from judgetrace.refining.candidate import Candidate
from judgetrace.refining.driver_watch import DriverWatch
from judgetrace.refining.inputs import RefineInputs
from judgetrace.run_folder import Fence, RunFolder

Generate = Callable[[Console, RefineInputs, RunFolder, Fence, DriverWatch], tuple[list[Candidate], pa.Table]]


def generate_candidates(
    console: Console, inputs: RefineInputs, run: RunFolder, fence: Fence, watch: DriverWatch
) -> tuple[list[Candidate], pa.Table]:
    """Make all candidates, the original first, and the table of critiques."""
    raise NotImplementedError
