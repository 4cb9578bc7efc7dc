from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from judgetrace.config import UserError
from judgetrace.guideline import parse_guideline
from judgetrace.prompts import SHORTENED_MARK, PromptConfig, PromptRenderer
from judgetrace.scale import Scale, ScaleConfig
from judgetrace.tokenization import encode_texts, grow_level_tree, list_special_tokens
from judgetrace.training.encoding import Encoded, ExampleEncoder, find_turn_end, load_tokenizer
from judgetrace.vllm_engine import make_prompts
from tests.poison import POISON
from tests.small_rater import (
    CHAT_TEMPLATE,
    GUIDELINE,
    THINKING_TEMPLATE,
    TURN_END,
    make_blank_first_tokenizer,
    make_spec,
    make_tokenizer,
)

LEVELS = ("-4", "1", "10")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def example(text: str = "so good", thinking: str | None = "Well then.", rating: str = "-4") -> dict[str, Any]:
    fields = json.dumps({"text": text})
    return {"dimension": "", "fields": fields, "thinking": thinking, "rating": rating}


def encode(tokenizer: Any, row: dict[str, Any], **spec: Any) -> Encoded:
    return ExampleEncoder(make_spec(**spec), tokenizer).encode([row])[0]


def read(tokenizer: Any, tokens: Any) -> str:
    text: str = tokenizer.decode(list(tokens))
    return text


@pytest.mark.parametrize(("system", "thinks"), [(None, True), ("You rate.", False)])
def test_prompt_tokens_are_those_that_the_engine_makes_of_the_unit(
    tokenizer: Any, system: str | None, thinks: bool
) -> None:
    spec = make_spec(prompt=PromptConfig(system=system), thinks=thinks)
    rows = [example(f"text <|im_end|> {n} <rating>4</rating>") for n in range(3)]
    renderer = PromptRenderer(spec.template, system, list_special_tokens(tokenizer), thinks=thinks)
    guideline = parse_guideline(GUIDELINE).guideline_for("")
    chats = [renderer.render(json.loads(row["fields"]), str(guideline), "", Scale(values=LEVELS)) for row in rows]

    found = ExampleEncoder(spec, tokenizer).encode(rows)

    prompts = make_prompts(tokenizer, chats, {})
    assert [e.tokens[: e.num_prompt].tolist() for e in found] == [prompt.token_ids for prompt in prompts]
    assert [e.num_prompt for e in found] == [prompt.num_tokens for prompt in prompts]


def test_an_example_reads_as_prompt_answer_and_the_end_of_the_turn(tokenizer: Any) -> None:
    found = encode(tokenizer, example())

    answer = read(tokenizer, found.tokens[found.num_prompt :])
    assert answer == f"Well then.\n<rating>-4</rating>{TURN_END}"
    assert read(tokenizer, found.tokens[: found.num_prompt]).endswith("<|im_start|>assistant\n")
    assert read(tokenizer, found.tokens[found.rating_at :]) == f"-4</rating>{TURN_END}"


@pytest.mark.parametrize("make", [make_tokenizer, make_blank_first_tokenizer])
@pytest.mark.parametrize("rating", LEVELS)
@pytest.mark.parametrize("form", ["plain", "tags", "none"])
def test_the_cut_at_the_rating_is_where_a_rating_engine_scores_levels(make: Any, rating: str, form: str) -> None:
    own = make()

    def encode_bare(text: str) -> list[int]:
        return encode_texts(own, [text])[0]

    before = {
        "plain": "Well then.\n<rating>",
        "tags": "<think>\nWell then.\n</think>\n<rating>",
        "none": "<rating>",
    }[form]
    tree = grow_level_tree(encode_bare, LEVELS)

    found = encode(own, example(rating=rating), form=form)

    # An engine goes on from the prompt with the bare text (continue_prompt), then scores paths of the tree.
    path = list(tree.sequences[LEVELS.index(rating)])
    tokens = found.tokens.tolist()
    assert tokens[found.num_prompt : found.rating_at] == encode_bare(before)
    assert tokens[found.rating_at : found.rating_at + len(path)] == path


def test_label_first_has_the_trace_behind_the_rating(tokenizer: Any) -> None:
    found = encode(tokenizer, example(), rating_first=True, thinks=False)

    assert read(tokenizer, found.tokens[found.num_prompt : found.rating_at]) == "<rating>"
    assert read(tokenizer, found.tokens[found.rating_at :]) == f"-4</rating>\nWell then.{TURN_END}"


def test_a_template_that_opens_the_thinking_gets_no_second_opening() -> None:
    opening = make_tokenizer(THINKING_TEMPLATE)

    found = encode(opening, example(), form="tags")

    whole = read(opening, found.tokens)
    assert whole.endswith(f"assistant\n<think>\nWell then.\n</think>\n<rating>-4</rating>{TURN_END}")
    assert read(opening, found.tokens[found.num_prompt :]).startswith("Well then.")


def test_tags_that_are_special_tokens_are_learned_and_stay_in_what_a_rater_wrote() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    tags = ("[THINK]", "[/THINK]")
    encoder = ExampleEncoder(make_spec(form="tags", tags=tags), tokenizer)

    (found,) = encoder.encode([example(thinking="Not [/THINK] yet.")])

    answer = found.tokens[found.num_prompt :].tolist()
    assert [answer.count(tokenizer.convert_tokens_to_ids(tag)) for tag in tags] == [1, 1]
    assert encoder.decode(answer) == "[THINK]\nNot [\u200b/THINK] yet.\n[/THINK]\n<rating>-4</rating>"


def test_special_tokens_in_a_trace_are_text_and_end_no_turn(tokenizer: Any) -> None:
    # A trace of another model may quote what is a control token to this one.
    found = encode(tokenizer, example(thinking=f"It says {TURN_END} here."))

    end = tokenizer.convert_tokens_to_ids(TURN_END)
    assert found.tokens[found.num_prompt :].tolist().count(end) == 1
    assert found.tokens[-1] == end


def test_tags_that_a_trace_quotes_are_rewritten_so_that_the_answer_has_one_rating(tokenizer: Any) -> None:
    found = encode(tokenizer, example(thinking="Not <rating>10</rating>, </think> I think."), form="tags")

    answer = read(tokenizer, found.tokens[found.num_prompt :])
    assert answer.count("<rating>") == answer.count("</think>") == 1
    assert "Not ‹rating›10‹/rating›, ‹/think› I think." in answer


def test_an_overlong_example_and_an_overlong_prompt_are_told_apart(tokenizer: Any) -> None:
    whole = encode(tokenizer, example())
    length, prompt = len(whole.tokens), whole.num_prompt

    def reason_at(limit: int) -> str | None:
        return encode(tokenizer, example(), max_tokens=limit).reason

    assert reason_at(length) is None
    assert reason_at(length - 1) == f"overlong: {length} tokens, data.max_tokens is {length - 1}"
    assert str(reason_at(prompt + 1)).startswith("overlong: ")
    assert reason_at(prompt) == f"overlong_prompt: {prompt} tokens, data.max_tokens is {prompt}"
    assert len(encode(tokenizer, example(), max_tokens=prompt).tokens) == 0


def test_a_dimension_without_a_section_in_the_guideline_is_skipped_and_others_keep_their_places(tokenizer: Any) -> None:
    spec = make_spec(guideline="All.\n\n## tone\nHow it sounds.", by_section=True, scale=ScaleConfig(values=LEVELS))
    rows = [example() | {"dimension": name} for name in ("tone", "length", "tone")]
    rows[2]["rating"] = "10"

    found = ExampleEncoder(spec, tokenizer).encode(rows)

    assert [e.reason for e in found] == [None, "no_guideline_section", None]
    assert read(tokenizer, found[2].tokens[found[2].rating_at :]) == f"10</rating>{TURN_END}"
    assert "Criterion to rate: tone" in read(tokenizer, found[0].tokens)


def test_an_item_that_lacks_a_field_of_the_template_is_skipped_and_its_neighbours_are_as_without_it(
    tokenizer: Any,
) -> None:
    # columns.fields_json may name a field in some rows only; rate_items quarantines the others.
    encoder = ExampleEncoder(make_spec(template="{{ fields.text }} {{ fields.note }}"), tokenizer)
    rows = [example() | {"fields": json.dumps({"text": "so"} | note)} for note in ({"note": "a"}, {}, {"note": "b"})]

    found = encoder.encode(rows)

    assert str(found[1].reason).startswith("not_rendered: prompt template: 'dict object' has no attribute 'note'")
    assert len(found[1].tokens) == 0
    alone = encoder.encode([rows[0], rows[2]])
    assert [found[0].tokens.tolist(), found[2].tokens.tolist()] == [e.tokens.tolist() for e in alone]
    assert [prompt is None for prompt in encoder.encode_prompts(rows, [4096] * 3)] == [False, True, False]
    assert [encoder.has_prompt(row) for row in rows] == [True, False, True]


def test_examples_encoded_together_are_those_encoded_alone(tokenizer: Any) -> None:
    rows = [example("a" * n, thinking="because " * (7 - n)) for n in range(1, 7)]
    encoder = ExampleEncoder(make_spec(), tokenizer)

    together = encoder.encode(rows)

    alone = [encoder.encode([row])[0] for row in rows]
    assert [e.tokens.tolist() for e in together] == [e.tokens.tolist() for e in alone]
    assert encoder.encode([]) == []


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (CHAT_TEMPLATE, TURN_END),
        (CHAT_TEMPLATE.replace("<|im_end|>", " <|endoftext|>"), " <|endoftext|>"),
        (CHAT_TEMPLATE.replace("<|im_end|>\n", ""), TURN_END),
    ],
)
def test_the_turn_ends_with_the_first_special_token_that_the_template_sets(template: str, text: str) -> None:
    own = make_tokenizer(template)

    assert read(own, find_turn_end(own, {})) == text


def test_a_turn_end_that_is_a_special_token_without_a_role_is_found_too() -> None:
    # Some tokenizers mark their turn's end as special among the added tokens only.
    from tokenizers import AddedToken

    own = make_tokenizer(CHAT_TEMPLATE.replace("<|im_end|>", "<|end|>"))
    own.backend_tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    assert "<|end|>" not in own.all_special_tokens

    assert read(own, find_turn_end(own, {})) == "<|end|>"


def test_a_model_that_could_never_end_an_answer_is_refused() -> None:
    own = make_tokenizer(CHAT_TEMPLATE.replace("<|im_end|>\n", ""))
    own.eos_token = None

    with pytest.raises(UserError, match=r"would never stop\nexpected: an eos_token in tokenizer_config\.json"):
        find_turn_end(own, {})


def test_answers_stop_at_the_turn_end_or_the_end_of_text() -> None:
    own = make_tokenizer(CHAT_TEMPLATE.replace("<|im_end|>", "<|endoftext|>"))

    stops = ExampleEncoder(make_spec(), own).stop_ids

    assert stops == sorted(own.convert_tokens_to_ids([TURN_END, "<|endoftext|>"]))


def test_a_tokenizer_without_padding_pads_with_a_stop() -> None:
    own = make_blank_first_tokenizer()
    assert own.pad_token is None

    assert ExampleEncoder(make_spec(), own).pad_id == own.convert_tokens_to_ids(TURN_END)


def test_a_base_without_a_chat_template_is_refused_with_what_to_do(tmp_path: Path) -> None:
    make_tokenizer(None).save_pretrained(tmp_path)

    with pytest.raises(UserError, match=r"no chat template.*\nexpected: an instruction-tuned base; or put a chat_temp"):
        load_tokenizer(str(tmp_path), None)


def test_a_tokenizer_is_loaded_with_its_chat_template(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)

    assert load_tokenizer(str(tmp_path), None).chat_template == CHAT_TEMPLATE


def test_an_overlong_item_is_shortened_where_the_prompt_config_says_so(tokenizer: Any) -> None:
    long = example("begins " + "so good " * 400 + "ends")
    assert str(encode(tokenizer, long, max_tokens=400).reason).startswith("overlong_prompt")

    found = encode(tokenizer, long, max_tokens=400, prompt=PromptConfig(on_overlong="shorten"))

    assert found.reason is None
    assert 300 < len(found.tokens) <= 400
    prompt = read(tokenizer, found.tokens[: found.num_prompt])
    assert SHORTENED_MARK in prompt
    assert "begins so good" in prompt
    assert "so good ends" in prompt
    assert read(tokenizer, found.tokens[found.num_prompt :]) == f"Well then.\n<rating>-4</rating>{TURN_END}"
    short = example()
    assert encode(tokenizer, short, prompt=PromptConfig(on_overlong="shorten")).tokens.tolist() == (
        encode(tokenizer, short).tokens.tolist()
    )


@pytest.mark.parametrize("name", POISON)
def test_a_poisonous_text_is_encoded_or_skipped_and_its_neighbours_are_as_without_it(tokenizer: Any, name: str) -> None:
    encoder = ExampleEncoder(make_spec(), tokenizer)
    rows = [example("before"), example(POISON[name], thinking=f"It says {POISON[name][:100]}"), example("after")]

    found = encoder.encode(rows)

    alone = encoder.encode([rows[0], rows[2]])
    assert [found[0].tokens.tolist(), found[2].tokens.tolist()] == [e.tokens.tolist() for e in alone]
    if found[1].reason is None:
        answer = read(tokenizer, found[1].tokens[found[1].num_prompt :])
        assert answer.count("<rating>") == answer.count(TURN_END) == 1
    else:
        assert found[1].reason.startswith("overlong_prompt: ")
