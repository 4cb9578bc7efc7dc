"""Have a run's candidates written: what of its config and inputs goes to whom."""

from __future__ import annotations

from collections.abc import Callable

from judgetrace.refining.candidate_run import CandidateSections, CandidateTask, Generated, make_candidates
from judgetrace.refining.critiques import join_fields
from judgetrace.refining.driver_watch import DriverWatch
from judgetrace.refining.inputs import RefineInputs
from judgetrace.run_folder import Fence, RunFolder

Generate = Callable[[RefineInputs, RunFolder, Fence, DriverWatch], Generated]


def list_sections(inputs: RefineInputs) -> CandidateSections:
    """List the sections of the config that candidates are written by."""
    config = inputs.config
    return CandidateSections(config.selection, config.generator, config.candidates, config.embedding, config.lint)


def make_task(inputs: RefineInputs) -> CandidateTask:
    """Collect what is refined, and from which traces."""
    others = inputs.list_other_names()
    return CandidateTask(
        inputs.guideline,
        inputs.dimension,
        others,
        inputs.scale,
        inputs.config.traces,
        given=inputs.given,
        held=tuple(join_fields(row["fields"]) for rows in inputs.items.rows.values() for row in rows),
    )


def generate_candidates(inputs: RefineInputs, run: RunFolder, fence: Fence, watch: DriverWatch) -> Generated:
    """Have all candidates written. Needs a connected Ray."""
    return make_candidates(
        make_task(inputs),
        list_sections(inputs),
        run.folder,
        watch,
        fence.check,
        wait_s=inputs.config.cluster.wait_s,
        commit_every_s=inputs.config.ledger.commit_every_s,
        drain_s=inputs.config.ledger.drain_s,
    )
