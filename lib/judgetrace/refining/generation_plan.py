"""Plan the calls of a run's generator without making any: the same functions write from answers that are made up.

Made-up answers are as long as allowed and give as many critiques as are kept, so that the plan is an upper bound, but
for answers that have to be asked for again.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from judgetrace.config import UserError
from judgetrace.refining.calls import Answer, Call
from judgetrace.refining.candidate_run import make_writer
from judgetrace.refining.generation import list_sections, make_task
from judgetrace.refining.inputs import RefineInputs
from judgetrace.refining.lint import CLOSE, OPEN
from judgetrace.refining.token_counter import load_counter
from judgetrace.refining.trace_choice import (
    ChosenTraces,
    SelectionRule,
    TraceSurvey,
    list_trace_files,
    read_traces,
    survey_file,
)

FILES_READ_AT_ONCE = 16
VECTOR_SIZE = 8
_FILLER = re.compile(r"(?:\bword ?){4,}")


@dataclass
class GenerationPlan:
    """Calls by kind, the tokens of all, and the first call of each kind."""

    num_calls: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    output_tokens: int = 0
    """At most."""
    first: dict[str, Call] = field(default_factory=dict)


def plan_generation(inputs: RefineInputs) -> GenerationPlan:
    """Plan the calls; reads the traces that guidelines would be written from. Raises UserError where there is none."""
    writer, counter = make_writer(make_task(inputs), list_sections(inputs)), load_counter(inputs.config.generator)
    plan = GenerationPlan()

    def ask(_: str, calls: Sequence[Call]) -> list[Answer]:
        for call in calls:
            plan.num_calls[call.kind] += 1
            plan.prompt_tokens += counter.count_chat(call.conversation())
            plan.output_tokens += call.max_tokens
            plan.first.setdefault(call.kind, call)
        return [_make_up(call, inputs.config.candidates.max_critiques) for call in calls]

    writer.write(_choose_traces(inputs), ask, _embed)
    return plan


def show_prompt(call: Call) -> Iterator[str]:
    """Show the messages of a call, the filling of made-up answers shortened."""
    for role, content in call.messages:
        yield f"--- {role}\n{_FILLER.sub('[...]', content)}"


def _choose_traces(inputs: RefineInputs) -> ChosenTraces:
    """Choose traces as the run would, in this process."""
    config = inputs.config
    files = list_trace_files(config.traces)
    rule = SelectionRule(
        inputs.dimension,
        inputs.scale,
        config.selection.per_level,
        config.candidates.seeds,
        config.selection.split,
    )
    survey = TraceSurvey(rule)
    with ThreadPoolExecutor(FILES_READ_AT_ONCE) as pool:
        for number, found in enumerate(pool.map(lambda file: survey_file(file, rule), files)):
            survey.add(number, found)
        wanted = survey.wanted()
        if not wanted:
            raise UserError(
                f"traces = {list(config.traces)}: no accepted trace of dimension {inputs.dimension!r} in the split "
                f"{rule.split!r}"
            )
        read = list(pool.map(lambda pair: read_traces(files[pair[0]], pair[1]), wanted.items()))
    return ChosenTraces(survey.selections, {(t.level, t.unit): t for some in read for t in some})


def _make_up(call: Call, num_critiques: int) -> Answer:
    if call.kind == "critiques":
        name = hashlib.blake2b(repr(call.messages).encode(), digest_size=6).hexdigest()
        length = max(4, call.max_tokens // num_critiques)
        return Answer("answered", "\n".join(f"Reason {name} {n}: " + "word " * length for n in range(num_critiques)))
    return Answer("answered", f"{OPEN}{'word ' * call.max_tokens}{CLOSE}")


def _embed(sentences: Sequence[str]) -> np.ndarray:
    """Give each sentence a direction of its own."""
    digests = [hashlib.blake2b(text.encode(), digest_size=VECTOR_SIZE).digest() for text in sentences]
    vectors = np.array([list(digest) for digest in digests], dtype=float) - 127.5
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
