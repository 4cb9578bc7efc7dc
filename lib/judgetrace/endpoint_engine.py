"""The engine that asks a server by OpenAI's protocol: proprietary models, or vLLM's own server.

Knows two dialects. "openai" is what all such servers understand: chat, and the most probable tokens. "vllm" adds what
vLLM's server understands: an answer that goes on from given text, or is one of given texts, and the probabilities of
chosen tokens. Text to go on from is sent as tokens, which the server made, and not as a message to continue: many
chat templates drop thinking from messages, and so the tokens are the local engine's.

Tokens are counted by the server, reasoning included. A cancelled draw counts none, since answers are not streamed; a
server may bill what it made until then.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from judgetrace.endpoint_answers import (
    MalformedAnswerError,
    count_tokens,
    estimate_prompt,
    read_chat,
    read_chosen_log_probabilities,
    read_model_length,
    read_text,
    read_tokens,
)
from judgetrace.endpoint_client import EndpointClient, RequestRefusedError
from judgetrace.endpoint_config import CONSTRAINED_CONFLICT, TOP_K_CONFLICT, EndpointConfig
from judgetrace.engine import (
    AccessRefusedError,
    Completion,
    EngineDeadError,
    EngineSpec,
    LevelScores,
    Prompt,
    PromptRefusedError,
    Request,
    RequestFailedError,
    apply_environment,
)
from judgetrace.level_tree import Branching, LevelTree, find_within_tag
from judgetrace.parsing import RATING_CLOSE, RATING_OPEN
from judgetrace.top_tokens import (
    NUM_TOP_TOKENS,
    LevelsAlikeError,
    LevelsNotSeenError,
    find_rating_token,
    score_by_top_tokens,
)

Result = TypeVar("Result")

PROBE_TOKENS = 16
FORBIDDEN_PAUSES_S = (0.0, 1.0, 3.0)
"""Before each try of a request that is forbidden while others are answered: one replica of a server may be at fault."""
_OUT_OF_ROOM = "output limit was reached"
"""What OpenAI says where so few tokens don't do for reasoning: key and model are right."""
SCORE_TOKENS = 16
KEPT_CONVERSATIONS = 1024
SEVERAL_SAMPLES = "use the mean of several sampled ratings instead of probabilities, or a scale of single digits"


class EndpointEngine:
    """One server. Make it anywhere; all its coroutines run on one event loop."""

    def __init__(self, spec: EngineSpec):
        """Prove key and model with one small request.

        Raises ValueError for a config that can't be served, RuntimeError where the server does not answer as it should;
        both name address, model and the key's variable, never the key.
        """
        self._config = spec.endpoint or EndpointConfig()
        self.special_tokens: Sequence[str] = self._config.special_tokens
        self.num_beats: int | None = None
        self._spec, self._is_vllm = spec, self._config.dialect == "vllm"
        self._check(spec)
        apply_environment(spec.engine.env)
        self._client = EndpointClient(self._config, spec.model.path, spec.engine.slots)
        self.max_model_tokens: int | None = None
        self._max_tokens_name = _run_apart(self._prove())
        self._conversations: dict[tuple[tuple[str, str], ...], list[int]] = {}
        self._level_trees: dict[tuple[str, ...], LevelTree] = {}
        self._growing = asyncio.Lock()
        self._has_answered = False

    def _check(self, spec: EngineSpec) -> None:
        conflict = self._config.find_conflict(
            spec.engine.env,
            engine_args=spec.engine.args,
            template_args=spec.chat_template_args,
            constrained=False,
            top_k=0,
        )
        if conflict:
            raise ValueError(conflict)

    async def _prove(self) -> str:
        """Ask for a few tokens; returns what the server calls their limit."""
        client = EndpointClient(self._config, self._spec.model.path, 1)
        try:
            name = await self._find_max_tokens_name(client)
            if self._is_vllm:
                await self._prove_vllm(client)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(f"the endpoint {client.place} can't be used: {error}") from None
        finally:
            await client.close()
        return name

    async def _find_max_tokens_name(self, client: EndpointClient) -> str:
        own = self._config.max_tokens_name
        names = [own] if own else ["max_completion_tokens", "max_tokens"]
        for name in names:
            try:
                await client.post("/chat/completions", self._probe(name), read_chat)
            except RequestRefusedError as error:
                if name in str(error) and name != names[-1]:
                    continue
                if _OUT_OF_ROOM not in str(error):
                    raise
            return name
        raise AssertionError("the last name was returned or raised")

    def _probe(self, max_tokens_name: str) -> dict[str, Any]:
        sampled = {"temperature": 1.0, "top_p": 1.0, "seed": 0}
        return self._body(sampled, max_tokens_name, PROBE_TOKENS) | {"messages": [{"role": "user", "content": "Hi"}]}

    async def _prove_vllm(self, client: EndpointClient) -> None:
        try:
            await client.post(_tokenize_url(client), self._text_to_tokenize("a"), read_tokens)
        except (RuntimeError, ValueError) as error:
            hint = "is endpoint.dialect = 'vllm' right?"
            raise RuntimeError(f"the server can't tokenize as vLLM's does ({error}); {hint}") from None
        try:
            self.max_model_tokens = await client.get("/models", partial(read_model_length, model=self._model))
        except (RequestRefusedError, EngineDeadError):
            # A proxy may pass on no more than what generates: then the server alone knows, and refuses.
            return

    def make_prompts(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[Prompt]:
        """Keep the conversations; their numbers of tokens are estimated by their length."""
        return [estimate_prompt(messages) for messages in conversations]

    def continue_prompt(self, prompt: Prompt, text: str) -> Prompt:
        """Let the answer begin, or go on, with `text`; only vLLM's server can go on from there."""
        return estimate_prompt(prompt.messages, prompt.begun + text)

    async def generate(self, request: Request) -> Completion:
        """Sample a completion.

        The openai dialect sends no stop strings: servers leave them out of the text and don't say that they met one.
        The answer is cut behind the first. Raises EngineDeadError, PromptRefusedError, RequestRefusedError,
        OutOfTriesError.
        """
        prompt = request.prompt
        sampled = self._sample(request)
        if self._is_vllm and prompt.begun:
            tokens = await self._tokenize_prompt(prompt)
            body = {"model": self._model, "prompt": tokens, **sampled, "max_tokens": request.max_tokens}
            return await self._post("/completions", body, read_text)
        body = self._body(sampled, self._max_tokens_name, request.max_tokens) | self._conversation(prompt)
        stops = () if self._is_vllm else request.stop
        read = partial(read_chat, stops=stops, splits_reasoning=self._spec.reasoning_parser is not None)
        try:
            answer = await self._post("/chat/completions", body, read)
        except RequestRefusedError as error:
            if not self._has_answered:
                raise
            # The same parameters were taken with other prompts: it is this one that the server will never answer.
            raise PromptRefusedError(str(error)) from error
        self._has_answered = True
        return answer

    async def _post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Completion]) -> Completion:
        refusal: AccessRefusedError
        for pause_s in FORBIDDEN_PAUSES_S:
            await asyncio.sleep(pause_s)
            try:
                return await self._client.post(path, body, read)
            except AccessRefusedError as error:
                if not await self._is_served():
                    raise
                refusal = error
        # Others are answered, and this one never: it is its text that a gateway, or the server, does not let through.
        raise PromptRefusedError(str(refusal)) from refusal

    async def _is_served(self) -> bool:
        """Whether the server answers a small request now."""
        try:
            await self._client.post("/chat/completions", self._probe(self._max_tokens_name), read_chat)
        except RequestRefusedError as error:
            return _OUT_OF_ROOM in str(error)
        except (EngineDeadError, RequestFailedError):
            return False
        return True

    def _sample(self, request: Request) -> dict[str, Any]:
        """Collect the parameters of sampling in the server's dialect."""
        sampled: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
        if not self._is_vllm:
            if request.choices or request.prompt.begun:
                raise RequestRefusedError(CONSTRAINED_CONFLICT)
            if request.top_k:
                raise RequestRefusedError(TOP_K_CONFLICT)
            return sampled
        sampled["top_k"] = request.top_k
        if request.stop:
            sampled |= {"stop": list(request.stop), "include_stop_str_in_output": True}
        if request.choices:
            sampled["structured_outputs"] = {"choice": list(request.choices)}
        return sampled

    @property
    def _model(self) -> str:
        return self._spec.model.path

    def _body(self, sampled: Mapping[str, Any], max_tokens_name: str, max_tokens: int) -> dict[str, Any]:
        kept = {name: value for name, value in sampled.items() if name not in self._config.omit}
        return {"model": self._model, **kept, max_tokens_name: max_tokens, **self._config.extra_body}

    def _conversation(self, prompt: Prompt) -> dict[str, Any]:
        template = dict(self._spec.chat_template_args)
        return {"messages": list(prompt.messages)} | ({"chat_template_kwargs": template} if template else {})

    async def _tokenize_prompt(self, prompt: Prompt) -> list[int]:
        """Have the server tokenize a conversation, with its chat template, and what its answer begins with."""
        key = tuple((message["role"], message["content"]) for message in prompt.messages)
        if key not in self._conversations:
            body = {"model": self._model, "add_generation_prompt": True, **self._conversation(prompt)}
            self._conversations[key] = await self._client.post(_tokenize_url(self._client), body, read_tokens)
            if len(self._conversations) > KEPT_CONVERSATIONS:
                del self._conversations[next(iter(self._conversations))]
        return [*self._conversations[key], *(await self._encode(prompt.begun) if prompt.begun else ())]

    async def _encode(self, text: str) -> list[int]:
        return await self._client.post(_tokenize_url(self._client), self._text_to_tokenize(text), read_tokens)

    def _text_to_tokenize(self, text: str) -> dict[str, Any]:
        return {"model": self._model, "prompt": text, "add_special_tokens": False}

    async def score_levels(self, request_id: str, prompt: Prompt, levels: Sequence[str]) -> LevelScores:
        """Score levels: in the vllm dialect as the local engine does, exactly; else by the 20 most probable tokens.

        The openai dialect has the model write what the answer begins with: a rating tag at most. Where an answer shows
        no level, all have the log-probability -inf; what no answer can show is refused.
        Raises EngineDeadError, PromptRefusedError, RequestRefusedError, OutOfTriesError.
        """
        if self._is_vllm:
            return await self._score_by_tree(prompt, tuple(levels))
        if prompt.begun.strip() not in {"", RATING_OPEN}:
            raise RequestRefusedError(f"{CONSTRAINED_CONFLICT}; to rate after thinking, {SEVERAL_SAMPLES}")
        sampled = {"temperature": 1.0, "top_p": 1.0, "logprobs": True, "top_logprobs": NUM_TOP_TOKENS}
        body = self._body(sampled, self._max_tokens_name, SCORE_TOKENS) | {"messages": list(prompt.messages)}
        return await self._client.post("/chat/completions", body, partial(_read_levels, prompt=prompt, levels=levels))

    async def _score_by_tree(self, prompt: Prompt, levels: tuple[str, ...]) -> LevelScores:
        tree, tokens = await asyncio.gather(self._level_tree(levels), self._tokenize_prompt(prompt))
        scored = await asyncio.gather(*(self._score_next(tokens, node) for node in tree.branchings))
        log_probabilities = tree.add_up({node: found for node, (found, _) in zip(tree.branchings, scored, strict=True)})
        return LevelScores(log_probabilities, sum(count for _, count in scored), len(scored))

    async def _level_tree(self, levels: tuple[str, ...]) -> LevelTree:
        async with self._growing:
            # All units want the same tree at the start: one of them asks the server for it.
            if levels not in self._level_trees:
                self._level_trees[levels] = await self._grow_tree(levels)
        return self._level_trees[levels]

    async def _grow_tree(self, levels: tuple[str, ...]) -> LevelTree:
        bare = [level + closing for level in levels for closing in ("", RATING_CLOSE)]
        texts = [RATING_OPEN, *bare, *(RATING_OPEN + text for text in bare)]
        tokens = dict(zip(texts, await asyncio.gather(*map(self._encode, texts)), strict=True))
        return LevelTree.grow(
            [(_within_tag(tokens, level), _within_tag(tokens, level + RATING_CLOSE)) for level in levels]
        )

    async def _score_next(self, tokens: Sequence[int], node: Branching) -> tuple[dict[int, float], int]:
        """Return the log-probability of each token that may come next, and the prompt tokens that it took."""
        body = {
            "model": self._model,
            "prompt": [*tokens, *node.path],
            "temperature": 0.0,
            "max_tokens": 1,
            "logprobs": 1,
            "logprob_token_ids": list(node.tokens),
            "return_tokens_as_token_ids": True,
        }
        try:
            return await self._client.post(
                "/completions",
                body,
                lambda answer: (read_chosen_log_probabilities(answer, node.tokens), count_tokens(answer)[0] or 0),
            )
        except LookupError as error:
            raise RequestRefusedError(f"{error}: it needs vLLM 0.32 or later; else {SEVERAL_SAMPLES}") from None

    def close(self) -> None:
        """Close the connections."""
        self._client.close_soon()


def _within_tag(tokens: Mapping[str, list[int]], text: str) -> list[int]:
    return find_within_tag(tokens[RATING_OPEN], tokens[RATING_OPEN + text], tokens[text])


def _read_levels(answer: Any, *, prompt: Prompt, levels: Sequence[str]) -> LevelScores:
    read, unseen = read_chat(answer), (-math.inf,) * len(levels)
    counted = prompt.num_tokens if read.prompt_tokens is None else read.prompt_tokens
    if read.error is not None:
        return LevelScores(unseen, counted, read.output_tokens, read.error)
    tokens = (answer["choices"][0].get("logprobs") or {}).get("content")
    # An answer may be empty; one that is cut while it is empty is the thinking of a model that always thinks.
    if tokens is None or (not tokens and read.finish_reason == "length"):
        raise RequestRefusedError(f"the server tells no log-probabilities; {SEVERAL_SAMPLES}")
    log_probabilities, error = unseen, None
    try:
        log_probabilities = score_by_top_tokens(find_rating_token(tokens, prompt.begun), levels)
    except LevelsAlikeError as alike:
        raise RequestRefusedError(f"{alike}; {SEVERAL_SAMPLES}") from None
    except LevelsNotSeenError as other:
        # A sample without a rating, paid for: to ask again would cost the same again, and show the same.
        error = f"{other}; {SEVERAL_SAMPLES}"[:500]
    except (KeyError, TypeError) as malformed:
        raise MalformedAnswerError(f"log-probabilities without {malformed}") from malformed
    _, output_tokens = count_tokens(answer)
    return LevelScores(log_probabilities, counted, len(tokens) if output_tokens is None else output_tokens, error)


def _tokenize_url(client: EndpointClient) -> str:
    """Where vLLM tokenizes: beside the versioned part of the API."""
    return client.base_url.removesuffix("/v1") + "/tokenize"


def _run_apart(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on a thread of its own: the caller may stand on a running event loop."""
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="endpoint")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
