"""Write candidate guidelines from traces: procedures, rubrics, and both together, for several seeds; lint each.

Pure but for what it is handed: a function that answers calls, and one that embeds sentences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from judgetrace.guideline import Guideline, normalise_heading
from judgetrace.refining.calls import Answer, Call
from judgetrace.refining.candidate_config import CandidatesConfig, GeneratorConfig, SelectionConfig
from judgetrace.refining.critiques import CRITIQUES, ChosenTrace, make_critique_call, read_reply
from judgetrace.refining.lint import LintConfig, LintTask, lint_text
from judgetrace.refining.losses import Losses
from judgetrace.refining.refine_prompts import Part, RefinePrompts
from judgetrace.refining.rubric_source import RubricSource, make_rubric_source
from judgetrace.refining.token_counter import TokenCounter
from judgetrace.refining.trace_choice import ChosenTraces
from judgetrace.refining.writing import Rounds, Writer, WriterSettings, Written, run_together

PROCEDURE_HEADING = "### How to rate, step by step"
_PROCEDURE = re.compile(rf"^{re.escape(PROCEDURE_HEADING)}[ \t]*$.*?(?=^#{{1,3}}[ \t]|\Z)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,3}(?=[ \t])", re.MULTILINE)
ORIGINAL, GIVEN = "original", "given"
Ask = Callable[[str, Sequence[Call]], list[Answer]]
"""Answers the calls of a stage, in their order."""
Embed = Callable[[Sequence[str]], np.ndarray]
"""Turns sentences [N] into vectors [N, D]."""


@dataclass(frozen=True)
class Candidate:
    """A guideline that may replace the original. Only one without problems and error is raced."""

    name: str
    kind: str  # original, given, instructions, rubric, both
    seed: int | None
    text: str
    """All that the rater of the dimension is told; "" where there is none."""
    problems: tuple[str, ...] = ()
    error: str | None = None
    num_calls: int = 0
    """Calls of the generator that it was made from; those that other candidates are made from, too, are counted."""
    losses: Losses | None = None
    """None where nothing was written: for the original, and one that was given."""

    @property
    def is_sound(self) -> bool:
        """Whether it may be shown to raters."""
        return not self.problems and self.error is None and bool(self.text)


@dataclass(frozen=True)
class GuidelineParts:
    """What the rater of a dimension is told: what stays as it is, what may be rewritten, an earlier procedure."""

    frame: str
    rubric: str
    procedure: str = ""

    @property
    def text(self) -> str:
        """The whole."""
        steps = f"{PROCEDURE_HEADING}\n\n{self.procedure}" if self.procedure else ""
        return "\n\n".join(part for part in (self.frame, self.rubric, steps) if part)


def cut_guideline(guideline: Guideline, dimension: str) -> GuidelineParts:
    """Cut a guideline. By section, its preamble and the section's heading stay. Raises ValueError without a section."""
    shown = guideline.guideline_for(dimension)
    if shown is None:
        raise ValueError(f"the guideline has no section for the dimension {dimension!r}")
    frame, body = "", shown.strip()
    if guideline.by_section:
        heading, _, body = guideline.sections[normalise_heading(dimension)].partition("\n")
        frame = "\n\n".join(part for part in (guideline.preamble, heading.strip()) if part)
    found = _PROCEDURE.search(body)
    if found is None:
        return GuidelineParts(frame, body.strip())
    rubric = body[: found.start()].rstrip() + "\n\n" + body[found.end() :].lstrip()
    return GuidelineParts(frame, rubric.strip(), found.group().removeprefix(PROCEDURE_HEADING).strip())


class CandidateWriter:
    """Writes all candidates of one guideline."""

    def __init__(
        self,
        parts: GuidelineParts,
        task: LintTask,
        prompts: RefinePrompts,
        counter: TokenCounter,
        *,
        selection: SelectionConfig,
        generator: GeneratorConfig,
        candidates: CandidatesConfig,
        lint: LintConfig,
        given: Mapping[str, str] | None = None,
        held: Sequence[str] = (),
    ):
        self._parts, self._task, self._prompts, self._counter = parts, task, prompts, counter
        self._selection, self._generator, self._config, self._lint = selection, generator, candidates, lint
        self._levels, self._given, self._held = task.scale.values, given or {}, held
        settings = WriterSettings(
            generator.guideline_tokens,
            generator.thinking_tokens,
            candidates.answer_tries,
            generator.open_tag,
            candidates.allow_outside,
        )
        self._writer = Writer(prompts, counter, settings)

    def write(self, chosen: ChosenTraces, ask: Ask, embed: Embed) -> tuple[list[Candidate], pa.Table]:
        """Write candidates, after the original and those given; returns them and critiques (critiques.CRITIQUES)."""
        kinds, seeds = set(self._config.kinds), self._config.seeds
        works: dict[str, Rounds[Written]] = {}
        sources = self._collect_critiques(chosen, ask, embed) if kinds & {"rubric", "both"} else {}
        for seed, source in sources.items():
            works[f"rubric-{seed}"] = self._write_rubric(source, seed)
        if kinds & {"instructions", "both"}:
            for seed in seeds:
                works[f"instructions-{seed}"] = self._write_instructions(chosen, seed)
        written, num_calls = run_together(lambda calls: ask("write guidelines", calls), works)
        num_calls.update({f"rubric-{seed}": source.num_calls for seed, source in sources.items()})
        candidates = [Candidate(ORIGINAL, ORIGINAL, None, self._parts.text), *self._take_given(chosen)]
        for kind in self._config.kinds:
            candidates += [
                self._make(kind, seed, written=written, num_calls=num_calls, chosen=chosen, sources=sources)
                for seed in seeds
            ]
        tables = [source.critiques for source in sources.values()]
        return mark_repeated(candidates), pa.concat_tables([CRITIQUES.empty_table(), *tables])

    def _take_given(self, chosen: ChosenTraces) -> list[Candidate]:
        """Lint what the user gave, against the items that it is scored on and those that others are written from."""
        per_level = self._selection.per_level
        traces = (trace for seed in self._config.seeds for trace in chosen.list_traces(seed, per_level))
        items = [*self._held, *(trace.item for trace in traces)]
        return [
            Candidate(name, GIVEN, None, text, tuple(map(str, lint_text(text, self._task, items, self._lint))))
            for name, text in self._given.items()
        ]

    def _collect_critiques(self, chosen: ChosenTraces, ask: Ask, embed: Embed) -> dict[int, RubricSource]:
        """Ask for the critiques of all seeds' traces, and pick those that each seed's rubric is written from."""
        by_seed = {seed: chosen.list_traces(seed, self._selection.rubric_per_level) for seed in self._config.seeds}
        sources = {(trace.level, trace.unit): trace for traces in by_seed.values() for trace in traces}
        try:
            calls = [self._make_critique_call(trace) for trace in sources.values()]
        except ValueError as error:
            return dict.fromkeys(by_seed, RubricSource(error=str(error)))
        answers = zip(sources, ask("critiques", calls), strict=True)
        replies = {key: read_reply(answer, self._config.max_critiques) for key, answer in answers}
        sentences = list(dict.fromkeys(sentence for reply in replies.values() for sentence in reply.sentences))
        vectors = dict(zip(sentences, embed(sentences), strict=True)) if sentences else {}
        clusters = self._config.clusters
        return {
            seed: make_rubric_source(traces, replies, vectors, self._levels, config=clusters, seed=seed)
            for seed, traces in by_seed.items()
        }

    def _make_critique_call(self, trace: ChosenTrace) -> Call:
        return make_critique_call(
            trace,
            self._parts.text,
            self._prompts,
            self._counter,
            critique_tokens=self._generator.critique_tokens,
            thinking_tokens=self._generator.thinking_tokens,
        )

    def _write_rubric(self, source: RubricSource, seed: int) -> Rounds[Written]:
        if source.error is not None:
            return Written(None, source.error)
        return (yield from self._writer.write("rubric", self._parts.rubric, source.parts, self._levels, seed))

    def _write_instructions(self, chosen: ChosenTraces, seed: int) -> Rounds[Written]:
        traces = chosen.list_traces(seed, self._selection.instructions_per_level)
        parts = [Part(trace.level, trace.trace) for trace in traces if trace.trace.strip()]
        shown = GuidelineParts(self._parts.frame, self._parts.rubric).text
        return (yield from self._writer.write("instructions", shown, parts, self._levels, seed))

    def _make(
        self,
        kind: str,
        seed: int,
        *,
        written: Mapping[str, Written],
        num_calls: Mapping[str, int],
        chosen: ChosenTraces,
        sources: Mapping[int, RubricSource],
    ) -> Candidate:
        """Put what was written in its place, and lint the whole."""
        name, calls = f"{kind}-{seed}", sum(num_calls.get(part, 0) for part in list_parts(kind, seed))
        own = [written[part] for part in list_parts(kind, seed)]
        counts = () if kind == "instructions" else sources[seed].counts
        losses = Losses(sum(part.num_drafts for part in own), sum(part.num_lost for part in own), counts)
        errors = [part.error for part in own if part.error]
        if errors:
            return Candidate(name, kind, seed, "", error="; ".join(errors), num_calls=calls, losses=losses)
        rubric = procedure = None
        if kind != "instructions":
            rubric = _lower_headings(written[f"rubric-{seed}"].text or "", "###")
        if kind != "rubric":
            procedure = _lower_headings(written[f"instructions-{seed}"].text or "", "####")
        kept = self._parts
        text = GuidelineParts(
            kept.frame,
            kept.rubric if rubric is None else rubric,
            kept.procedure if procedure is None else procedure,
        ).text
        items = [trace.item for trace in chosen.list_traces(seed, self._selection.per_level)]
        findings = lint_text(text, self._task, items, self._lint, rubric=rubric, procedure=procedure)
        return Candidate(name, kind, seed, text, tuple(map(str, findings)), num_calls=calls, losses=losses)


def list_parts(kind: str, seed: int) -> list[str]:
    """List what is written for a candidate."""
    return [f"{part}-{seed}" for part in ("rubric", "instructions") if kind in {part, "both"}]


def _lower_headings(text: str, mark: str) -> str:
    """Lower headings to `mark`, so that none of them ends the section that the text is put into."""
    return _HEADING.sub(mark, text)


def mark_repeated(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Mark candidates whose text an earlier one has: to score them would tell nothing new."""
    first: dict[str, str] = {}
    for candidate in candidates:
        if candidate.is_sound:
            first.setdefault(candidate.text, candidate.name)
    return [
        replace(candidate, problems=(f"repeated: the same text as {first[candidate.text]}",))
        if candidate.is_sound and first[candidate.text] != candidate.name
        else candidate
        for candidate in candidates
    ]
