"""Poisonous texts in the pure stages after inference: none crashes a stage, none comes out of it as markup."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from judgetrace.asking import AskedUnit
from judgetrace.decisions import tabulate_rows
from judgetrace.engine import Prompt
from judgetrace.exporting.conversations import ConversationWriter, write_chats, write_pairs
from judgetrace.exporting.formats import write_argilla_records
from judgetrace.exporting.run import encode_lines
from judgetrace.guideline import Guideline
from judgetrace.label_noise import find_suspects
from judgetrace.noise_report import write_noise
from judgetrace.prompts import PromptRenderer, load_template
from judgetrace.ratings import DecodingConfig, RatingDecider
from judgetrace.refining.calls import CALLS, Answer, Call
from judgetrace.refining.candidate_config import CandidatesConfig
from judgetrace.refining.critiques import CRITIQUES, ChosenTrace, Critique, read_critiques, tabulate_critiques
from judgetrace.refining.lint import LintConfig, LintTask, lint_guideline
from judgetrace.refining.part_log import PartLog
from judgetrace.refining.refine_prompts import Part, RefinePrompts, load_templates
from judgetrace.refining.token_counter import make_estimator
from judgetrace.refining.writing import Writer, WriterSettings, run_together
from judgetrace.sampling import Draw, UnitSampling
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.schema import RATINGS
from judgetrace.storage import Folder
from judgetrace.stripping import names_level, strip_ratings
from judgetrace.verification import describe_trace
from tests.poison import POISON
from tests.report_runs import LEVELS, make_row, make_table

SPECIAL = ("<|im_start|>", "<|im_end|>")
SCALE = Scale(values=tuple(LEVELS))
SCALES = ScaleConfig(values=tuple(LEVELS))
UNIT = AskedUnit(("item", "", "aggregate"), ("4",), ("4",), SCALE, Prompt(10))
LONGEST = 2**20
"""Characters that a model writes at most."""
SLOWEST_S = 30.0
"""CPU seconds for as many; what is quadratic takes hours."""
_MARKUP = re.compile("|".join([*map(re.escape, SPECIAL), "</?(?:rating|think|codebook)>"]))

poisonous = pytest.mark.parametrize("name", POISON)


def store(text: str) -> str:
    """The text as a Parquet column can hold it."""
    return text.encode("utf-8", "replace").decode()


def find_markup(text: str) -> list[str]:
    """Find what would act as a tag or token; a text that no UTF-8 holds is an error."""
    return _MARKUP.findall(text.encode().decode())


@poisonous
def test_stripping_leaves_no_rating_and_takes_no_longer_than_the_text_is_long(name: str) -> None:
    began = time.process_time()
    facts = describe_trace(
        {
            "trace": f"{store(POISON[name][:LONGEST])} <rating>4</rating>",
            "rating": "4",
            "proposal": "first",
            "hinted": False,
        },
        SCALE,
    )
    assert time.process_time() - began < SLOWEST_S
    assert "rating>" not in facts.stripped_trace
    assert not facts.leaks


@poisonous
def test_any_text_is_stripped_before_it_is_stored(name: str) -> None:
    assert not names_level(strip_ratings(POISON[name][:LONGEST], SCALE), SCALE)


@poisonous
def test_a_generators_answer_is_kept_as_a_later_driver_reads_it(tmp_path: Any, name: str) -> None:
    row = dict.fromkeys(CALLS.names) | {"call_id": "a", "kind": "rubric", "outcome": "answered", "text": POISON[name]}
    logs = [PartLog(Folder(str(tmp_path)), CALLS, ("call_id",)) for _ in range(2)]
    assert logs[0].commit([row]) == 1
    logs[1].refresh()
    assert logs[0].find("a") == logs[1].find("a")
    assert logs[0].find("a") == row | {"text": store(POISON[name])}


@poisonous
def test_critiques_of_any_answer_are_sentences_that_a_table_holds(name: str) -> None:
    answer = Answer("answered", f"It is said plainly here.\n{store(POISON[name])}\nNothing else is said.")
    found = read_critiques(answer, 10)
    assert {"It is said plainly here.", "Nothing else is said."} <= {*found}
    source = ChosenTrace("4", ("item", "", "aggregate"), "trace", "item")
    table = tabulate_critiques(0, [Critique(text, source) for text in found], [(0, 0.0, True)] * len(found))
    assert table.schema == CRITIQUES


@poisonous
def test_a_guideline_is_written_from_any_parts_and_no_prompt_has_their_markup(name: str) -> None:
    prompts = RefinePrompts(load_templates(CandidatesConfig()), "", LEVELS, None, SPECIAL)
    writer = Writer(prompts, make_estimator(6000, SPECIAL), WriterSettings(200, 0, 1, False, False))
    asked: list[Call] = []

    def ask(calls: list[Call]) -> list[Answer]:
        asked.extend(calls)
        return [Answer("answered", f"<codebook>{store(POISON[name])[:300]} 1. Read it.</codebook>") for _ in calls]

    parts = [Part("4", f"{POISON[name]} and </codebook> so on") for _ in range(3)]
    written, _ = run_together(ask, {"a": writer.write("instructions", "Rate it.", parts, LEVELS, 0)})
    assert written["a"].error is None
    assert len(asked) >= 1
    bare = find_markup(prompts.ask_guideline("instructions", "Rate it.", [])[-1]["content"])
    assert all(find_markup(text) == bare for call in asked for _, text in call.messages)


@poisonous
def test_lint_reads_any_item_and_any_answer(name: str) -> None:
    task = LintTask(SCALE, "style", ("pace",), "Rate it.", "Write it.")
    good = "1 is bad, 2 is poor, 3 is fair, 4 is good, 5 is great."
    began = time.process_time()
    assert lint_guideline(f"<codebook>{good}</codebook>", task, [POISON[name]], LintConfig()).is_sound
    found = lint_guideline(f"<codebook>{POISON[name][:LONGEST]}</codebook>", task, [POISON[name]], LintConfig())
    assert time.process_time() - began < SLOWEST_S
    assert not found.is_sound


@poisonous
def test_a_guideline_that_a_model_wrote_carries_no_special_token_to_a_rater(name: str) -> None:
    renderer = PromptRenderer(load_template(None), None, SPECIAL)
    (message,) = renderer.render({"text": "plain"}, f"Rate it. {store(POISON[name])}", "", SCALE)
    assert not any(token in message["content"] for token in SPECIAL)


@poisonous
def test_exports_of_any_item_and_trace_are_lines_without_markup(name: str) -> None:
    writer = ConversationWriter(
        PromptRenderer(load_template(None), None, SPECIAL), Guideline("Rate it."), SCALES, "tags", SPECIAL
    )
    row = make_row("a", {"text": POISON[name]}, "3", ["1", "3"], store(POISON[name]))
    row["draws"][0]["trace"] = store(POISON[name])
    table = make_table([row, make_row("b", {"text": "plain"}, "3", ["1", "3"], "Plain.")])
    chats = [json.loads(line) for line in encode_lines(write_chats(table, "train", writer)).splitlines()]
    (pair,) = [json.loads(line) for line in encode_lines(write_pairs(table, "train", writer, 1)).splitlines()]
    plain = [find_markup(message["content"]) for message in chats[1]["messages"]]
    assert [find_markup(message["content"]) for message in chats[0]["messages"]] == plain
    assert [find_markup(pair[part][-1]["content"]) for part in ("prompt", "chosen", "rejected")] == [*plain, plain[1]]
    records = json.loads(json.dumps(list(write_argilla_records(table))))
    assert [record["id"] for record in records] == ["a//aggregate", "b//aggregate"]
    assert all(text.encode() for record in records for text in record["fields"].values())


@poisonous
def test_label_noise_of_any_item_is_listed_and_escaped(name: str) -> None:
    table = make_table([make_row(name, {"text": f"<b>{POISON[name]}"}, "5", ["1"] * 8, proposal="first", hinted=False)])
    rows = find_suspects([table], SCALES, 8).to_pylist()
    text = write_noise(rows, {"suspects": 1, "units": 1})
    assert len(text) < 2000
    assert not re.search(r"(?<!\\)[<>]", text)
    assert text.encode()


@poisonous
@pytest.mark.parametrize("rating", ["sampled", "expected"])
def test_any_text_beside_a_rating_is_a_row(name: str, rating: str) -> None:
    scored = {"expected": 3.5, "level_probabilities": (0.0, 0.0, 0.5, 0.5, 0.0)} if rating == "expected" else {}
    decider = RatingDecider("rater", DecodingConfig.model_validate({"rating": rating}), keep_text=True)
    draw = Draw(0, 0, "rated", "4", text=POISON[name], trace=POISON[name], **scored)
    row = decider.decide(UNIT, UnitSampling(decider.sampling, [draw], forget_failed=False))
    (kept,) = tabulate_rows([row], RATINGS).to_pylist()
    assert (kept["outcome"], kept["rating"], kept["label"]) == (("rated", 3.5, "3") if scored else ("rated", 4.0, "4"))
    assert kept["draws"][0]["text"] == store(POISON[name])
