"""Write candidate guidelines on Ray: the driver's side, from trace runs to candidates. Resumes from the run's logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from judgetrace.console import say
from judgetrace.fingerprints import check_model
from judgetrace.guideline import Guideline
from judgetrace.refining.caller import CALL_KEY, Caller
from judgetrace.refining.calls import CALLS
from judgetrace.refining.candidate_config import (
    EMBEDDER,
    GENERATOR,
    CandidatesConfig,
    EmbeddingConfig,
    GeneratorConfig,
    SelectionConfig,
)
from judgetrace.refining.candidates import Candidate, CandidateWriter, cut_guideline
from judgetrace.refining.driver_watch import DriverWatch
from judgetrace.refining.embeddings import EMBEDDING_KEY, EMBEDDINGS, embed_texts
from judgetrace.refining.engine_pool import EnginePool
from judgetrace.refining.generator_worker import GeneratorWorker
from judgetrace.refining.lint import LintConfig, LintTask
from judgetrace.refining.part_log import PartLog, Row
from judgetrace.refining.refine_prompts import RefinePrompts, load_templates
from judgetrace.refining.token_counter import load_counter
from judgetrace.refining.trace_choice import SelectionRule, TraceSupply, choose_traces
from judgetrace.scale import Scale
from judgetrace.storage import Folder
from judgetrace.tasks import run_tasks


@dataclass(frozen=True)
class CandidateSections:
    """The sections of the config that candidates are written by."""

    selection: SelectionConfig
    generator: GeneratorConfig
    candidates: CandidatesConfig
    embedding: EmbeddingConfig
    lint: LintConfig


@dataclass(frozen=True)
class CandidateTask:
    """Which guideline is refined, from which traces."""

    guideline: Guideline
    dimension: str
    other_dimensions: tuple[str, ...]
    scale: Scale
    traces: tuple[str, ...]
    """Run folders of infer_traces."""
    given: Mapping[str, str] = field(default_factory=dict)
    """What guidelines of the user's own tell of the dimension, by candidate."""
    held: tuple[str, ...] = ()
    """Texts of the items that candidates are scored on: a guideline of the user's own must not hold them."""


@dataclass(frozen=True)
class Generated:
    """What came of writing candidates: they, the original first; critiques.CRITIQUES; what they are written from."""

    candidates: list[Candidate]
    critiques: pa.Table
    traces: TraceSupply


def make_rule(task: CandidateTask, sections: CandidateSections) -> SelectionRule:
    """Say which traces candidates are written from."""
    config = sections.selection
    return SelectionRule(
        task.dimension,
        task.scale,
        config.per_level,
        sections.candidates.seeds,
        config.split,
        config.verification,
        config.verified,
        config.max_hinted_share,
    )


def make_writer(task: CandidateTask, sections: CandidateSections) -> CandidateWriter:
    """Make the writer of a task. Raises UserError for what can't be used, ValueError for a missing section."""
    counter = load_counter(sections.generator)
    parts = cut_guideline(task.guideline, task.dimension)
    prompts = RefinePrompts(
        load_templates(sections.candidates),
        task.dimension,
        task.scale.values,
        sections.generator.system,
        counter.special_tokens,
    )
    lint = LintTask(task.scale, task.dimension, task.other_dimensions, parts.text, prompts.render_bare())
    return CandidateWriter(
        parts,
        lint,
        prompts,
        counter,
        selection=sections.selection,
        generator=sections.generator,
        candidates=sections.candidates,
        lint=sections.lint,
        given=task.given,
        held=task.held,
    )


def make_candidates(
    task: CandidateTask,
    sections: CandidateSections,
    run: Folder,
    watch: DriverWatch,
    check: Callable[[], None] | None = None,
    *,
    wait_s: float,
    commit_every_s: float,
    drain_s: float,
) -> Generated:
    """Write all candidates.

    Needs a connected Ray. `check` is called before each write into the run folder; `watch` knows GENERATOR and
    EMBEDDER. What the run's calls/ and embeddings/ hold is not asked again. Raises StoppedEarlyError where the run is
    to end, UserError for what can't be used.
    """
    writer = make_writer(task, sections)
    generator = sections.generator
    chosen = choose_traces(task.traces, make_rule(task, sections), partial(run_tasks, wait_s=wait_s))
    supply = chosen.count_supply()
    for line in supply.describe():
        say(f"traces: {line}")
    calls = _open_log(run / "calls", CALLS, CALL_KEY, check)
    vectors = _open_log(run / "embeddings", EMBEDDINGS, EMBEDDING_KEY, check)
    contract = generator.contract(check_model(generator.model, generator.endpoint))
    resolved = generator
    if generator.endpoint is not None:
        # Workers must not see another address than the contract has.
        resolved = generator.model_copy(update={"endpoint": generator.endpoint.resolve()})

    def note_embedded(rows: Sequence[Row]) -> None:
        watch.note_embedded(EMBEDDER, rows)
        watch.check()

    with EnginePool(GENERATOR, GeneratorWorker, (resolved,), generator.engine, wait_s) as pool:
        caller = Caller(pool, calls, watch, contract, commit_every_s=commit_every_s, drain_s=drain_s)
        embed = partial(embed_texts, config=sections.embedding, log=vectors, note=note_embedded, wait_s=wait_s)
        return Generated(*writer.write(chosen, caller.ask, embed), supply)


def _open_log(folder: Folder, schema: pa.Schema, key: Sequence[str], check: Callable[[], None] | None) -> PartLog:
    log = PartLog(folder, schema, key, check)
    log.refresh()
    return log
