"""Plan the calls of a run's generator without making any: the same functions write from answers that are made up.

Made-up answers are as long as allowed and give as many critiques as are kept, so that the plan is an upper bound, but
for answers that have to be asked for again.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from judgetrace.refining.calls import Answer, Call
from judgetrace.refining.candidate_run import make_rule, make_writer
from judgetrace.refining.critiques import MOST_WORDS
from judgetrace.refining.generation import list_sections, make_task
from judgetrace.refining.inputs import RefineInputs
from judgetrace.refining.lint import CLOSE, OPEN
from judgetrace.refining.token_counter import load_counter
from judgetrace.refining.trace_choice import TraceSupply, choose_traces

FILES_READ_AT_ONCE = 16
VECTOR_SIZE = 8
_FILLER = re.compile(r"(?:\bword ?){4,}")


@dataclass
class GenerationPlan:
    """Calls by kind, the tokens of all, and the first call of each kind."""

    traces: TraceSupply
    num_calls: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    output_tokens: int = 0
    """At most."""
    first: dict[str, Call] = field(default_factory=dict)


def plan_generation(inputs: RefineInputs) -> GenerationPlan:
    """Plan the calls; reads the traces that guidelines would be written from. Raises UserError where there is none."""
    task, sections = make_task(inputs), list_sections(inputs)
    writer, counter = make_writer(task, sections), load_counter(inputs.config.generator)
    chosen = choose_traces(inputs.config.traces, make_rule(task, sections), _run_here)
    plan = GenerationPlan(chosen.count_supply())

    def ask(_: str, calls: Sequence[Call]) -> list[Answer]:
        for call in calls:
            plan.num_calls[call.kind] += 1
            plan.prompt_tokens += counter.count_chat(call.conversation())
            plan.output_tokens += call.max_tokens
            plan.first.setdefault(call.kind, call)
        return [_make_up(call, inputs.config.candidates.max_critiques) for call in calls]

    writer.write(chosen, ask, _embed)
    return plan


def show_prompt(call: Call) -> Iterator[str]:
    """Show the messages of a call, the filling of made-up answers shortened."""
    for role, content in call.messages:
        yield f"--- {role}\n{_FILLER.sub('[...]', content)}"


def _run_here(_: str, run: Callable[[int, Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
    """Run tasks in this process, which needs no Ray."""
    with ThreadPoolExecutor(FILES_READ_AT_ONCE) as pool:
        yield from pool.map(run, range(len(tasks)), tasks)


def _make_up(call: Call, num_critiques: int) -> Answer:
    if call.kind == "critiques":
        name = hashlib.blake2b(repr(call.messages).encode(), digest_size=6).hexdigest()
        # A longer line is no critique, and then the calls that its rubric takes would not be counted.
        length = min(MOST_WORDS // 2, max(4, call.max_tokens // num_critiques))
        return Answer("answered", "\n".join(f"Reason {name} {n}: " + "word " * length for n in range(num_critiques)))
    return Answer("answered", f"{OPEN}{'word ' * call.max_tokens}{CLOSE}")


def _embed(sentences: Sequence[str]) -> np.ndarray:
    """Give each sentence a direction of its own."""
    digests = [hashlib.blake2b(text.encode(), digest_size=VECTOR_SIZE).digest() for text in sentences]
    vectors = np.array([list(digest) for digest in digests], dtype=float) - 127.5
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
