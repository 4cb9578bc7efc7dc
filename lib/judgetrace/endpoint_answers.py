"""Read what an OpenAI-compatible server answers: completions, reasoning, token counts. Pure; knows no HTTP.

Answers are decoded JSON. One that lacks what it must have raises MalformedAnswerError: it was cut, or is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from judgetrace.engine import Completion, Prompt
from judgetrace.parsing import THINK_CLOSE

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4
LOWEST_LOG_PROBABILITY = -9000.0
"""vLLM writes -9999 for -inf, which JSON can't."""
_FAILED = {"error", "abort"}


class MalformedAnswerError(ValueError):
    """The answer is not one: another try may give one."""


def estimate_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """Estimate a conversation's tokens by its length; only the server can count them."""
    characters = sum(len(message["content"]) for message in messages)
    return math.ceil(characters / CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE * len(messages)


def estimate_prompt(messages: Sequence[Mapping[str, str]], begun: str = "") -> Prompt:
    """Make a prompt that its server will tokenize."""
    kept = tuple(messages)
    num_tokens = estimate_tokens(kept) + math.ceil(len(begun) / CHARACTERS_PER_TOKEN)
    return Prompt(num_tokens, (), kept, begun, is_estimated=True)


def read_chat(answer: Any, stops: Sequence[str] = (), splits_reasoning: bool = False) -> Completion:
    """Read a chat completion.

    stops             strings that should have ended the answer, where the server was not told: it is cut behind them
    splits_reasoning  the server is known to split reasoning from the answer, so one without reasoning is all answer

    `text` writes reasoning that came in a field of its own between <think> and </think>, as models write it inline;
    there is no </think> where the reasoning did not end. What refuses an answer, or stopped it, is in `error`: the
    prompt was taken, and another sample may be answered. Raises MalformedAnswerError.
    """
    choice = _first_choice(answer)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise MalformedAnswerError("an answer without a message")
    content, was_cut = cut_behind_stop(_join_text(message.get("content")), stops)
    reasoning = message.get("reasoning") or message.get("reasoning_content")
    finish_reason = _read_finish_reason(choice, was_cut)
    text = content
    if isinstance(reasoning, str):
        ended = bool(content) or finish_reason == "stop"
        text = f"<think>\n{reasoning}" + (f"\n{THINK_CLOSE}\n{content}" if ended else "")
        return _complete(answer, text, finish_reason, reasoning, content if ended else None)
    return _complete(answer, text, finish_reason, None, content if splits_reasoning else None)


def _find_refusal(choice: Mapping[str, Any]) -> str | None:
    message = choice.get("message")
    if isinstance(message, dict) and message.get("refusal"):
        return f"the model refuses to answer: {message['refusal']}"[:500]
    return "the content filter stopped the answer" if choice.get("finish_reason") == "content_filter" else None


def read_text(answer: Any) -> Completion:
    """Read the completion of a bare prompt, with `error` as read_chat does. Raises MalformedAnswerError."""
    choice = _first_choice(answer)
    if not isinstance(choice.get("text"), str):
        raise MalformedAnswerError("an answer without a text")
    return _complete(answer, choice["text"], _read_finish_reason(choice, False), None, None)


def cut_behind_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Cut a text behind the stop string that ends first; says whether there was one."""
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    return (text[: min(ends)], True) if ends else (text, False)


def count_tokens(answer: Any) -> tuple[int | None, int | None]:
    """Read how many prompt and output tokens the server counted; None where it does not say."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    counts = usage if isinstance(usage, dict) else {}
    prompt, output = counts.get("prompt_tokens"), counts.get("completion_tokens")
    return (prompt if isinstance(prompt, int) else None, output if isinstance(output, int) else None)


def read_chosen_log_probabilities(answer: Any, tokens: Sequence[int]) -> dict[int, float]:
    """Read the log-probabilities of chosen tokens (ids) as the next token of a bare prompt.

    Raises MalformedAnswerError, and LookupError where the server told those of other tokens.
    """
    try:
        told = _first_choice(answer)["logprobs"]["top_logprobs"][0]
    except (KeyError, TypeError, IndexError) as error:
        raise MalformedAnswerError("an answer without log-probabilities") from error
    found = {token: told.get(f"token_id:{token}") for token in tokens}
    if None in found.values():
        raise LookupError("the server does not tell the log-probabilities of chosen tokens")
    return {token: float(p) if p > LOWEST_LOG_PROBABILITY else -math.inf for token, p in found.items()}


def read_tokens(answer: Any) -> list[int]:
    """Read the token ids that vLLM's /tokenize gives. Raises MalformedAnswerError."""
    tokens = answer.get("tokens") if isinstance(answer, dict) else None
    if not isinstance(tokens, list):
        raise MalformedAnswerError("an answer without tokens")
    return [int(token) for token in tokens]


def read_model_length(answer: Any, model: str) -> int | None:
    """Read from vLLM's /models how many tokens a model takes, prompt and output together; an adapter takes its base's.

    None where the server does not say. Raises MalformedAnswerError.
    """
    listed = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise MalformedAnswerError("an answer without models")
    cards = {card.get("id"): card for card in listed if isinstance(card, dict)}
    card = cards.get(model, {})
    length = card.get("max_model_len") or cards.get(card.get("parent"), {}).get("max_model_len")
    return length if isinstance(length, int) else None


def _first_choice(answer: Any) -> dict[str, Any]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise MalformedAnswerError(f"an answer without choices: {str(answer)[:200]}")
    return choices[0]


def _read_finish_reason(choice: Mapping[str, Any], was_cut: bool) -> Literal["stop", "length"]:
    reason = choice.get("finish_reason")
    if reason in _FAILED:
        raise MalformedAnswerError(f"the server broke the answer off: finish_reason {reason}")
    return "length" if reason == "length" and not was_cut else "stop"


def _join_text(content: Any) -> str:
    """Join a content that some servers give in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _complete(
    answer: Any, text: str, finish_reason: Literal["stop", "length"], reasoning: str | None, content: str | None
) -> Completion:
    prompt_tokens, output_tokens = count_tokens(answer)
    if output_tokens is None:
        output_tokens = math.ceil(len(text) / CHARACTERS_PER_TOKEN)
    refusal = _find_refusal(_first_choice(answer))
    return Completion(text, finish_reason, output_tokens, reasoning, content, prompt_tokens, refusal)
