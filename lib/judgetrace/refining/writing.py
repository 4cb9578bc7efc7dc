"""Write a text from many parts by calls that fit the context: a tree of calls, a level of it at a time.

Functions here are generators: they yield calls, are sent the answers, and return what was written. So many of them
advance together, and each level of all of them is one round of calls. Knows no engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from judgetrace.prompts import shorten_fields
from judgetrace.refining.calls import Answer, Call, derive_seed
from judgetrace.refining.lint import CLOSE, OPEN, extract_guideline
from judgetrace.refining.losses import explain_answer, explain_lost_drafts
from judgetrace.refining.refine_prompts import Part, RefinePrompts
from judgetrace.refining.token_counter import TokenCounter
from judgetrace.refining.tree import ReduceLimits, ReducePlan, plan_reduce

MARGIN_TOKENS = 24
"""Texts together may have some tokens more than each alone."""
PART_TOKENS = 6
"""Line breaks around a part, and what tokens merge or split at its ends."""
LEAST_OUTPUT_TOKENS = 32
_TRY_AGAIN = "; raise candidates.answer_tries"

Result = TypeVar("Result")
Rounds = Generator[list[Call], list[Answer], Result]
"""Yields the calls of a round, is sent their answers, returns a result."""


@dataclass(frozen=True)
class WriterSettings:
    """How a writer asks."""

    max_tokens: int
    thinking_tokens: int
    tries: int
    open_tag: bool
    allow_outside: bool


@dataclass(frozen=True)
class Written:
    """What came of a tree of calls: a text, or why there is none."""

    text: str | None
    error: str | None = None
    num_drafts: int = 0
    """Texts that were to be written from parts."""
    num_lost: int = 0
    """Those of them that are missing from the text: without a usable answer, or in a merge without one."""


def run_together(
    ask: Callable[[list[Call]], list[Answer]], works: Mapping[str, Rounds[Result]]
) -> tuple[dict[str, Result], Counter[str]]:
    """Run works side by side: the calls of a round of all are asked at once. Returns results and calls by name."""
    results: dict[str, Result] = {}
    num_calls: Counter[str] = Counter()
    sent: dict[str, list[Answer] | None] = dict.fromkeys(works)
    while sent:
        wanted: dict[str, list[Call]] = {}
        for name, answers in sent.items():
            try:
                wanted[name] = next(works[name]) if answers is None else works[name].send(answers)
            except StopIteration as end:
                results[name] = end.value
        num_calls.update({name: len(calls) for name, calls in wanted.items()})
        answered = iter(ask([call for calls in wanted.values() for call in calls]) if wanted else ())
        sent = {name: [next(answered) for _ in calls] for name, calls in wanted.items()}
    return {name: results[name] for name in works}, num_calls


class Writer:
    """Writes guidelines from parts about one guideline, within one context."""

    def __init__(self, prompts: RefinePrompts, counter: TokenCounter, settings: WriterSettings):
        self._prompts, self._counter, self._settings = prompts, counter, settings

    def find_limits(
        self, kind: Literal["instructions", "rubric"], guideline: str, levels: Sequence[str]
    ) -> ReduceLimits:
        """Find what a call can hold. Raises ValueError where the context is too short for any."""
        fixed = max(self._counter.count_chat(self._ask(kind, guideline, [], merges)) for merges in (False, True))
        fixed += self._settings.thinking_tokens + MARGIN_TOKENS + (len(OPEN) if self._settings.open_tag else 0)
        longest = max(levels, key=len)
        # A heading of the templates is at most as long as this one.
        separator = self._counter.count(f"- [version 10] rated {longest}:\n\n") + PART_TOKENS
        # Two results and a third have to fit.
        output = min(self._settings.max_tokens, (self._counter.context - fixed - 2 * separator) // 3)
        if output < LEAST_OUTPUT_TOKENS:
            raise ValueError(
                f"the context of {self._counter.context} tokens is too short: the prompt alone takes {fixed}, and two "
                f"results of at least {LEAST_OUTPUT_TOKENS} tokens and a third must fit beside it"
            )
        return ReduceLimits(self._counter.context, fixed, output, separator)

    def write(
        self,
        kind: Literal["instructions", "rubric"],
        guideline: str,
        parts: Sequence[Part],
        levels: Sequence[str],
        seed: int,
    ) -> Rounds[Written]:
        """Write from parts; drafts of neighbouring parts are merged until one is left."""
        if not parts:
            return Written(None, f"{kind}: there is nothing to write from")
        try:
            limits = self.find_limits(kind, guideline, levels)
            fitting = [self._shorten(part, limits.room - limits.separator) for part in parts]
            plan = plan_reduce([self._count(part.text) for part in fitting], limits)
        except ValueError as error:
            return Written(None, f"{kind}: {error}")
        return (yield from self._climb(kind, guideline, fitting, plan, output=limits.output, seed=seed))

    def _climb(
        self, kind: str, guideline: str, parts: Sequence[Part], plan: ReducePlan, *, output: int, seed: int
    ) -> Rounds[Written]:
        """Make the calls of a plan, from the parts to the last text."""
        texts: list[Part | None] = list(parts)
        num_drafts, num_lost, problem = len(plan.levels[0]), 0, ""
        # How many drafts each text is of; only a list of drafts and their merges has some.
        sizes = [0] * len(parts)
        for number, groups in enumerate(plan.levels):
            kept = [[found for at in group if (found := texts[at]) is not None] for group in groups]
            sizes = [sum(sizes[at] for at in group) if number else 1 for group in groups]
            asked = {n: group for n, group in enumerate(kept) if group and (number == 0 or len(group) > 1)}
            texts = [group[0] if len(group) == 1 else None for group in kept]
            drafts = yield from self._draft(
                kind, guideline, list(asked.values()), level=number, output=output, seed=seed
            )
            for n, (draft, fault) in zip(asked, drafts, strict=True):
                texts[n], problem = None if draft is None else Part("", draft), fault or problem
            sizes = [0 if text is None else size for text, size in zip(texts, sizes, strict=True)]
            num_lost = num_drafts - sum(sizes)
            reason = explain_lost_drafts(num_drafts, num_lost, problem)
            if reason is not None:
                return Written(None, f"{kind}: {reason}", num_drafts, num_lost)
        last = texts[0]
        assert last is not None, "a text without any draft has its reason"
        return Written(last.text, None, num_drafts, num_lost)

    def _draft(
        self, kind: str, guideline: str, groups: Sequence[Sequence[Part]], *, level: int, output: int, seed: int
    ) -> Rounds[list[tuple[str | None, str | None]]]:
        """Have a text written for each group, asking again for those without a usable answer; (text, problem) each."""
        found: list[tuple[str | None, str | None]] = [(None, None)] * len(groups)
        for attempt in range(self._settings.tries):
            left = [n for n, (text, _) in enumerate(found) if text is None]
            if not left:
                break
            answers = yield [
                self._make_call(
                    kind,
                    guideline,
                    groups[n],
                    merges=level > 0,
                    output=output,
                    seed=derive_seed(seed, kind, level, n, attempt),
                )
                for n in left
            ]
            for n, answer in zip(left, answers, strict=True):
                found[n] = self.read(answer, "guideline_tokens" if output == self._settings.max_tokens else "context")
        return found

    def _make_call(
        self, kind: str, guideline: str, group: Sequence[Part], *, merges: bool, output: int, seed: int
    ) -> Call:
        messages = tuple((m["role"], m["content"]) for m in self._ask(kind, guideline, group, merges))
        opens = self._settings.open_tag
        max_tokens = output + self._settings.thinking_tokens
        return Call("merge" if merges else kind, messages, seed, max_tokens, OPEN if opens else "", (CLOSE,) * opens)

    def _ask(self, kind: str, guideline: str, group: Sequence[Part], merges: bool) -> list[dict[str, str]]:
        if merges:
            return self._prompts.ask_guideline("merge", guideline, group, kind)
        return self._prompts.ask_guideline("instructions" if kind == "instructions" else "rubric", guideline, group)

    def read(
        self, answer: Answer, limit: Literal["guideline_tokens", "context"] = "guideline_tokens"
    ) -> tuple[str | None, str | None]:
        """Read the text between the tags of an answer: (text, None), or (None, why there is none).

        `limit` is the setting of the generator that an answer's length follows from.
        """
        if answer.outcome != "answered" or not answer.text:
            return None, explain_answer(answer, f"generator.{limit}") + _TRY_AGAIN * (answer.outcome == "answered")
        closes = self._settings.open_tag and CLOSE not in answer.text.lower()
        text, findings = extract_guideline(answer.text + CLOSE if closes else answer.text)
        faults = [str(f) for f in findings if not (f.reason == "text_outside" and self._drops)]
        return (text, None) if text is not None and not faults else (None, "; ".join(faults) + _TRY_AGAIN)

    @property
    def _drops(self) -> bool:
        return self._settings.allow_outside

    def _count(self, text: str) -> int:
        return self._counter.count(self._prompts.clean(text))

    def _shorten(self, part: Part, room: int) -> Part:
        """Shorten a part that alone would not fit a call; head and tail stay."""
        if self._count(part.text) <= room:
            return part
        shorter = shorten_fields({"text": part.text}, lambda fields: self._count(fields["text"]), room)
        if shorter is None:
            raise ValueError(f"there is room for {room} tokens of a trace only; take a longer context")
        return Part(part.level, shorter["text"])
