"""The engine that runs a model with vLLM, on GPUs or CPUs.

vLLM's own engine core runs in a process of its own; this class lives in the worker, on the worker's event loop. On a
CPU the core computes itself: vLLM would give that to a third process, which takes 15 s more to start.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from judgetrace.cpu_threads import choose_threads, count_cpus
from judgetrace.engine import (
    Completion,
    EngineConfig,
    EngineDeadError,
    EngineSpec,
    LevelScores,
    ModelConfig,
    Prompt,
    PromptRefusedError,
    Request,
    apply_environment,
)
from judgetrace.level_tree import Branching, LevelTree
from judgetrace.model_context import read_context
from judgetrace.model_store import fetch_model, is_folder
from judgetrace.process_exit import count_memory_kills, were_killed_from_outside
from judgetrace.reaper import reaping_new_children
from judgetrace.tokenization import (
    encode_texts,
    grow_level_tree,
    list_hidden_ids,
    list_mark_ids,
    list_special_tokens,
    render_chats,
)

_ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Named in full: what vLLM calls "uni" it takes for "mp" on a CPU, since it would not know how many threads to use."""
_BINDS_THREADS = "VLLM_CPU_OMP_THREADS_BIND"
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM allows as max_lora_rank."""
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Ray sets OMP_NUM_THREADS for its workers; "" removes it. On a CPU it is set anew.
    "OMP_NUM_THREADS": "",
    # FlashInfer's sampler is compiled at the start by nvcc, which no image of ours has, and serves no seeded request.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}


class VllmEngine:
    """One vLLM engine. Make it on the event loop that will call `generate`."""

    def __init__(self, spec: EngineSpec):
        engine = spec.engine
        _set_environment(spec.model, engine)
        model = fetch_model(spec.model)
        from vllm import SamplingParams
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError as VllmEngineDeadError

        self._sampling_params, self._structured = SamplingParams, StructuredOutputsParams
        self._final_only, self._delta = RequestOutputKind.FINAL_ONLY, RequestOutputKind.DELTA
        self._dead_error = VllmEngineDeadError
        cpu_dtype = find_cpu_dtype() if _runs_on_cpu() else None
        if cpu_dtype is not None:
            threads = choose_threads(count_cpus(), engine.num_cpus, engine.max_replicas, spec.beside)
            apply_environment({"OMP_NUM_THREADS": str(threads)} | engine.env)
        # On GPUs nothing but vLLM reads the model's config: it knows some that transformers does not.
        limit = 0 if cpu_dtype is None else _position_limit(model, engine)
        arguments = engine_arguments(model, engine, cpu_dtype, limit, binds_threads=_BINDS_THREADS in os.environ)
        self._memory_kills_before = count_memory_kills()
        with reaping_new_children():
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._cores = _find_cores(self._llm)
        self._killed_from_outside: bool | None = None
        self.num_beats: int | None = 0
        self._count_beats()
        self.max_model_tokens = int(self._llm.model_config.max_model_len)
        self._tokenizer = self._llm.get_tokenizer()
        self._chat_template_args = dict(spec.chat_template_args)
        self.special_tokens = list_special_tokens(self._tokenizer)
        self._parser = _make_parser(spec.reasoning_parser, self._tokenizer)
        self._hidden_ids = list_hidden_ids(self._tokenizer)
        hidden_marks = self._hidden_ids & list_mark_ids(self._tokenizer, spec.marks)
        self._shows_special = self._parser is not None or bool(hidden_marks)
        self._adapter = _load_adapter(model)
        self._level_trees: dict[tuple[str, ...], LevelTree] = {}

    def make_prompts(self, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[Prompt]:
        """Tokenize conversations with the model's chat template, answer begun."""
        return make_prompts(self._tokenizer, conversations, self._chat_template_args)

    def continue_prompt(self, prompt: Prompt, text: str) -> Prompt:
        """Append bare text, without special tokens around it."""
        ids = [*prompt.token_ids, *self._encode(text)]
        return Prompt(len(ids), ids)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    async def generate(self, request: Request) -> Completion:
        """Sample one completion with its own seed."""
        streams = request.on_tokens is not None
        params = self._sampling_params(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            max_tokens=request.max_tokens,
            seed=request.seed,
            stop=list(request.stop) or None,
            # Without stop strings it would keep the special token that ends an answer.
            include_stop_str_in_output=bool(request.stop),
            structured_outputs=self._structured(choice=list(request.choices)) if request.choices else None,
            output_kind=self._delta if streams else self._final_only,
            skip_special_tokens=not self._shows_special or bool(request.choices),
        )
        text, num_tokens, finish_reason = "", 0, None
        async for output in self._complete(request.request_id, request.prompt.token_ids, params):
            piece = output.outputs[0]
            text, num_tokens = text + piece.text, num_tokens + len(piece.token_ids)
            finish_reason = piece.finish_reason or finish_reason
            if request.on_tokens is not None:
                request.on_tokens(num_tokens)
        text = text.removesuffix(self._name_end(piece))
        reasoning, content = (None, None) if self._parser is None else self._parser.extract_reasoning(text, None)
        return Completion(
            text=text,
            finish_reason="length" if finish_reason == "length" else "stop",
            output_tokens=num_tokens,
            reasoning=reasoning,
            content=content,
        )

    def _name_end(self, output: Any) -> str:
        """Name the special token that ended an answer, which is no part of it; "" where none did."""
        if output.finish_reason != "stop" or isinstance(output.stop_reason, str) or not output.token_ids:
            return ""
        last = output.token_ids[-1]
        return str(self._tokenizer.decode([last])) if last in self._hidden_ids else ""

    async def _complete(self, request_id: str, token_ids: Sequence[int], params: Any) -> AsyncIterator[Any]:
        """Yield vLLM's outputs; its errors become ours."""
        try:
            async for output in self._llm.generate(
                {"prompt_token_ids": list(token_ids)}, params, request_id, lora_request=self._adapter
            ):
                yield output
        except self._dead_error as error:
            raise EngineDeadError(str(error), self._was_killed_from_outside()) from error
        except ValueError as error:
            raise PromptRefusedError(str(error)[:500]) from error

    def _count_beats(self) -> None:
        """Count what the engine core sends: a message for every step that gave some request a token."""
        receive = self._llm.engine_core.get_output_async

        async def receive_and_count() -> Any:
            outputs = await receive()
            self.num_beats = (self.num_beats or 0) + 1
            return outputs

        # Its own output handler looks the method up at every step; nothing else is told of tokens of requests whose
        # output is asked for only at their end.
        self._llm.engine_core.get_output_async = receive_and_count

    def _was_killed_from_outside(self) -> bool:
        """Whether it was, once it is dead; asked by every request that was in flight, found out once."""
        if self._killed_from_outside is None:
            for core in self._cores:
                core.join(timeout=1.0)
            kills = count_memory_kills() - self._memory_kills_before
            self._killed_from_outside = were_killed_from_outside((core.exitcode for core in self._cores), kills)
        return self._killed_from_outside

    async def score_levels(self, request_id: str, prompt: Prompt, levels: Sequence[str]) -> LevelScores:
        """Score levels by the tree of their tokens: a request of one token for each branching; the prompt is cached."""
        tree = self._level_tree(tuple(levels))
        scored = await asyncio.gather(
            *(self._score_next(f"{request_id}\x1f{n}", prompt, node) for n, node in enumerate(tree.branchings))
        )
        log_probabilities = tree.add_up(dict(zip(tree.branchings, scored, strict=True)))
        return LevelScores(log_probabilities, None, len(scored))

    def _level_tree(self, levels: tuple[str, ...]) -> LevelTree:
        if levels not in self._level_trees:
            self._level_trees[levels] = grow_level_tree(self._encode, levels)
        return self._level_trees[levels]

    async def _score_next(self, request_id: str, prompt: Prompt, node: Branching) -> dict[int, float]:
        """Return the log-probability of each token that may come next at a branching of the tree."""
        params = self._sampling_params(
            temperature=0.0, max_tokens=1, logprob_token_ids=list(node.tokens), output_kind=self._final_only
        )
        async for output in self._complete(request_id, [*prompt.token_ids, *node.path], params):
            found = output.outputs[0].logprobs[0]
        return {token: float(found[token].logprob) for token in node.tokens}

    def close(self) -> None:
        """End the engine and its process."""
        self._llm.shutdown()


def _find_cores(llm: Any) -> list[Any]:
    """Find vLLM's engine core processes (multiprocessing.Process); none where it runs in this one or in Ray actors."""
    manager = getattr(getattr(llm.engine_core, "resources", None), "engine_manager", None)
    return list(getattr(manager, "processes", ()))


def make_prompts(
    tokenizer: Any, conversations: Sequence[Sequence[Mapping[str, str]]], chat_template_args: Mapping[str, object]
) -> list[Prompt]:
    """Render conversations with a tokenizer's chat template and tokenize them in one call, which uses all cores."""
    texts = render_chats(tokenizer, conversations, chat_template_args)
    return [Prompt(len(ids), ids) for ids in encode_texts(tokenizer, texts)]


def engine_arguments(
    model: ModelConfig, engine: EngineConfig, cpu_dtype: str | None, position_limit: int, *, binds_threads: bool = False
) -> dict[str, Any]:
    """Compute vLLM's arguments: the config's own `args` win over everything. `cpu_dtype` is None on GPUs.

    On a CPU: eager (compiling takes minutes), and prefills in one piece, since a seeded request with a chunked prefill
    ends the CPU engine of vllm-cpu 0.32.0. Its cache keeps whole blocks alone, of 128 tokens by default: a rating that
    goes on from its thinking would have most of it computed again (7.4 s for 64 of the demo's; with 32 tokens, which
    is the fewest, 3.0 s). A model that is not split is computed by the engine core itself, unless
    VLLM_CPU_OMP_THREADS_BIND is set (`binds_threads`), which only another process heeds.
    """
    arguments: dict[str, Any] = {
        "model": model.path,
        "revision": model.revision,
        "max_num_seqs": engine.slots,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "pipeline_parallel_size": engine.pipeline_parallel_size,
        "disable_log_stats": True,
    }
    if cpu_dtype is not None:
        longest = int(engine.args.get("max_model_len") or position_limit)
        arguments |= {
            "enforce_eager": True,
            "dtype": cpu_dtype,
            "enable_chunked_prefill": False,
            "block_size": 32,
            "max_num_batched_tokens": max(longest, 2048),
        }
        sizes = arguments | engine.args
        if sizes["tensor_parallel_size"] * sizes["pipeline_parallel_size"] == 1 and not binds_threads:
            arguments["distributed_executor_backend"] = _ONE_PROCESS
    if model.adapter is not None:
        rank = int(json.loads((Path(model.adapter) / "adapter_config.json").read_text())["r"])
        arguments |= {"enable_lora": True, "max_lora_rank": next(r for r in _LORA_RANKS if r >= rank)}
    return arguments | engine.args


def _load_adapter(model: ModelConfig) -> Any:
    """Name the adapter to vLLM; None where there is none."""
    if model.adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, str(Path(model.adapter).resolve()))


def _set_environment(model: ModelConfig, engine: EngineConfig) -> None:
    settings = dict(_ENVIRONMENT)
    if is_folder(model.path):
        settings["HF_HUB_OFFLINE"] = "1"
    apply_environment(settings | engine.env)


def _runs_on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def choose_cpu_dtype(capabilities: Mapping[str, object]) -> str:
    """Choose what a CPU computes in: bfloat16 only where it has instructions for it.

    Without them oneDNN emulates it: on AVX2 alone a prefill takes six times as long as in float32 (5,120 tokens of the
    demo's model on two Zen 3 cores: 65 s against 11 s). `capabilities` are those of torch.cpu.get_capabilities().
    """
    has_bfloat16 = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return "bfloat16" if has_bfloat16 else "float32"


def find_cpu_dtype() -> str:
    """Find what this CPU computes in."""
    import torch

    return choose_cpu_dtype(torch.cpu.get_capabilities())


def _position_limit(model: ModelConfig, engine: EngineConfig) -> int:
    trusts = bool(engine.args.get("trust_remote_code", False))
    return read_context(model, trusts_remote_code=trusts) or 2048


def _make_parser(name: str | None, tokenizer: Any) -> Any:
    if name is None:
        return None
    from vllm.reasoning import ReasoningParserManager

    return ReasoningParserManager.get_reasoning_parser(name)(tokenizer)
