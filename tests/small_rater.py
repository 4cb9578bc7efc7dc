"""A small tokenizer and a small random model for tests: real ones of transformers, made in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from judgetrace.engine import ModelConfig
from judgetrace.prompts import PromptConfig, load_template
from judgetrace.scale import ScaleConfig
from judgetrace.training.encoding import EncodingSpec

TURN_END = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING_TEMPLATE = CHAT_TEMPLATE.replace(
    "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}"
)
GUIDELINE = "Rate how good the text is. -4 is bad, 4 is good."
_TEXTS = [
    "Rate this item. <rating>4</rating> <rating>-4</rating> <think>because the text is good</think>",
    "Reason about how the guideline applies to this item. Then rate it with exactly one of: -4, -3, 10.",
] * 3


def make_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Make a byte-level BPE tokenizer of 400 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", TURN_END]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    bare.train_from_iterator(_TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, eos_token=TURN_END, extra_special_tokens=["<|im_start|>"], pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_blank_first_tokenizer() -> Any:
    """Make a tokenizer that puts a blank before every text, as those of SentencePiece models do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = "\u2581\n" + "".join(map(chr, range(33, 127)))
    vocabulary = {token: n for n, token in enumerate(["<unk>", TURN_END, "<|im_start|>", *characters])}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    bare.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bare, eos_token=TURN_END, unk_token="<unk>", extra_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(vocabulary: int = 400, seed: int = 0) -> Any:
    """Make a random Llama of two layers of width 16, ready to compute losses."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def make_spec(path: Path | str = "unused", **more: Any) -> EncodingSpec:
    """Make the spec of an encoding: levels -4, 1 and 10, thinking in plain."""
    fields: dict[str, Any] = {
        "model": ModelConfig(path=str(path)),
        "prompt": PromptConfig(),
        "template": load_template(None),
        "guideline": GUIDELINE,
        "by_section": False,
        "scale": ScaleConfig(values=("-4", "1", "10")),
        "form": "plain",
        "thinks": True,
        "rating_first": False,
        "max_tokens": 4096,
    }
    return EncodingSpec(**(fields | more))
