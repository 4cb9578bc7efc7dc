"""What a training run reads before it starts: corpus, traces, base, DeepSpeed's config; refuses what can't be used.

Imports neither Ray nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from judgetrace.config import UserError
from judgetrace.corpus import name_shard
from judgetrace.fingerprints import fingerprint_model, hash_text
from judgetrace.guideline import parse_guideline
from judgetrace.ledger import current_shard_files
from judgetrace.model_context import read_context
from judgetrace.run_inputs import RunInputs
from judgetrace.storage import Folder
from judgetrace.teachable import check_verification
from judgetrace.tokenization import render_chats
from judgetrace.trace_shards import list_trace_shards
from judgetrace.traces import check_trace_corpus
from judgetrace.training.config import TrainRaterConfig
from judgetrace.training.deepspeed_config import read_deepspeed_config, zero_stage
from judgetrace.training.encoding import NOT_RENDERED, EncodingSpec, ExampleEncoder, load_tokenizer
from judgetrace.training.order import EpochOrder
from judgetrace.training.reading import ExampleSurvey, ReadingSpec
from judgetrace.training.validation_items import choose_items


@dataclass(frozen=True)
class TrainPlan:
    """How long a run is, in optimizer steps."""

    steps_per_epoch: int
    num_steps: int
    """At most; early stopping may end it before."""


class TrainInputs:
    """All inputs of a run. Raises UserError for what can't be used."""

    def __init__(self, config: TrainRaterConfig):
        self.config = config
        self.corpus = RunInputs(config.corpus, config.guideline, config.prompt.template)
        self.deepspeed = read_deepspeed_config(config.deepspeed)
        self.fingerprint = fingerprint_model(config.model)
        self.tokenizer = load_tokenizer(config.model.path, config.model.revision)
        self._check_base()
        self._check_context()
        self._check_form()
        self.shards = list_trace_shards(config.traces)
        if not self.shards:
            raise UserError(
                f"traces = {list(config.traces)}: no traces/shard-*.parquet there\n"
                "expected: run folders of infer_traces, finished or ended early"
            )
        check_trace_corpus("traces", config.traces, self.corpus.corpus_id)
        self._check_scales()
        check_verification("data.verification", config.data.verification)

    def _check_base(self) -> None:
        """Make the base, without its weights, with its adapter, as every worker will."""
        from judgetrace.training.models import outline_model

        config = self.config
        try:
            outline_model(config.model, config.adapter)
        except UserError:
            raise
        except Exception as error:
            modules = "" if config.adapter is None else f" with lora.target_modules = {config.adapter.target_modules}"
            raise UserError(
                f"model.path = {config.model.path}{modules}: can't be trained: {type(error).__name__}: {error}\n"
                "expected: a causal language model that transformers knows, and names of its layers"
            ) from error

    def _check_context(self) -> None:
        """Raise UserError for sequences that are longer than the base's positions go."""
        wanted, context = self.config.data.max_tokens, read_context(self.config.model)
        if context is not None and wanted > context:
            raise UserError(
                f"data.max_tokens = {wanted}: {self.config.model.path} takes {context} tokens, by the "
                f"max_position_embeddings of its config\nexpected: at most {context}; longer examples are left out, "
                "and counted"
            )

    def _check_form(self) -> None:
        """Raise UserError for plain thinking where the chat template has opened a tag that it would never close."""
        opened, _ = self.config.thinking.marks
        turns = [[{"role": "user", "content": "?"}]]
        (prompt,) = render_chats(self.tokenizer, turns, self.config.prompt.chat_template_args)
        if self.encoding.form == "plain" and prompt.rstrip().endswith(opened):
            raise UserError(
                f"thinking.format = 'plain': the chat template of {self.config.model.path} ends a prompt with {opened}:"
                " the rating would be learned as a part of the thinking\nexpected: thinking.format = 'tags', as this "
                "base writes; or prompt.chat_template_args with which its template opens no thinking"
            )

    def _check_scales(self) -> None:
        nominal = self.corpus.scale.list_nominal()
        if nominal and self.config.training.ordinal_loss:
            raise UserError(f"training.ordinal_loss: the scale of {nominal[:5]} is nominal and has no expected rating")

    @property
    def reading(self) -> ReadingSpec:
        """How examples are read."""
        data = self.config.data
        return ReadingSpec(
            data.target,
            data.split,
            self.config.training.seed,
            verification=data.verification,
            verified=data.verified,
            max_hinted_share=data.max_hinted_share,
        )

    @property
    def encoding(self) -> EncodingSpec:
        """How examples become tokens."""
        config, corpus = self.config, self.corpus
        return EncodingSpec(
            model=config.model,
            prompt=config.prompt,
            template=corpus.template,
            guideline=corpus.guideline,
            by_section=corpus.by_section,
            scale=corpus.scale,
            form=config.thinking.format if config.thinks or config.data.target == "label_first" else "none",
            thinks=config.thinks,
            rating_first=config.data.target == "label_first",
            max_tokens=config.data.max_tokens,
            tags=config.thinking.marks,
        )

    @property
    def order(self) -> EpochOrder:
        """How epochs are dealt."""
        config = self.config
        return EpochOrder(config.training.batch, config.num_lanes, config.training.seed, config.data.balance)

    def contract(self) -> dict[str, Any]:
        """Collect what the run's checkpoints depend on."""
        shards = json.dumps([[shard.run, shard.name] for shard in self.shards])
        return self.config.contract(
            **{
                "corpus": self.corpus.corpus_id,
                "guideline": hash_text(self.corpus.guideline),
                "prompt.template": hash_text(self.corpus.template),
                "model.fingerprint": self.fingerprint,
                "traces.shards": hash_text(shards),
                "verification.shards": self._hash_verification(),
                "deepspeed.stage": zero_stage(self.deepspeed),
            }
        )

    def _hash_verification(self) -> str | None:
        """Fingerprint the files that verdicts about traces are read from; None where there are none."""
        runs = self.config.data.verification
        files = [[run, *sorted(current_shard_files(Folder(run) / "verifications").values())] for run in runs]
        return hash_text(json.dumps(files)) if files else None

    def validation_items(self) -> list[dict[str, Any]]:
        """Choose the items that the rater is held against while it learns; none where validation is off."""
        config, corpus = self.config, self.corpus
        if config.data.split == "validation" or not config.validation.max_items:
            return []
        guideline = parse_guideline(corpus.guideline, corpus.by_section)
        return choose_items(
            corpus.corpus,
            [name_shard(number) for number, _ in corpus.shards],
            guideline,
            "validation",
            max_items=config.validation.max_items,
            seed=config.training.seed,
        )

    def count_unasked(self, items: Sequence[Mapping[str, Any]]) -> int:
        """Count the items that have no prompt."""
        encoder = ExampleEncoder(self.encoding, self.tokenizer)
        return sum(not encoder.has_prompt(row) for row in items)

    def plan(self, survey: ExampleSurvey) -> TrainPlan:
        """Plan the run's length. Raises UserError where there is not enough to learn from."""
        training = self.config.training
        check_survey(survey, self.config.data.target, training.batch)
        per_epoch = self.order.count_steps(survey.index())
        if not per_epoch:
            raise UserError(
                f"data.balance leaves fewer examples than training.batch {training.batch}: as many of every label as "
                "of the rarest\nLower training.batch, or set data.balance = false."
            )
        most = max(1, round(training.max_epochs * per_epoch))
        return TrainPlan(per_epoch, min(most, training.max_steps or most))


def check_survey(survey: ExampleSurvey, target: str, batch: int) -> None:
    """Raise UserError where there is not enough to learn from."""
    check_first_draws(survey, target)
    usable = survey.usable.num_rows
    found = survey.describe_left_out() if survey.reasons else "no units at all"
    if not usable:
        raise UserError(
            f"data.target = '{target}': no unit of the split teaches anything: {found}\n"
            f"expected: accepted traces\n{_advise(survey.reasons.keys())}"
        )
    ratings: dict[str, set[str]] = {}
    for dimension, rating in survey.labels:
        ratings.setdefault(dimension, set()).add(rating)
    if all(len(found_ratings) == 1 for found_ratings in ratings.values()):
        only = {dimension or "(no dimension)": sorted(values)[0] for dimension, values in list(ratings.items())[:5]}
        raise UserError(
            f"all {usable:,} examples have the same rating: {only}\nA rater can't learn a scale from one level; look "
            "at the acceptance by label in the report of infer_traces."
        )
    if usable < batch:
        raise UserError(
            f"training.batch {batch} is more than the {usable:,} usable examples (left out: {found})\n"
            "Lower training.batch, or infer more traces."
        )


def check_first_draws(survey: ExampleSurvey, target: str) -> None:
    """Raise UserError where first draws have lost their texts: those that are left are the accepted ones."""
    lost = survey.reasons["text_not_kept"]
    if target == "first_draw" and lost:
        raise UserError(
            f"data.target = 'first_draw': {lost:,} of {lost + survey.usable.num_rows:,} first draws have no text\n"
            "expected: all, whether or not they match; of rejected draws infer_traces keeps none by default\n"
            "Infer traces with ledger.keep_rejected_text = true, in another run folder."
        )


def _advise(reasons: Collection[str]) -> str:
    advice = {
        "not_accepted": "Infer more traces; look at the report of infer_traces for why draws were not accepted.",
        "no_thinking": "These ratings were given without any thinking; look at [thinking] of infer_traces.",
        "first_draw_unrated": "Look at the report of infer_traces for why draws gave no rating.",
        "no_partner": "Infer more traces: no two items of a shard have the same rating.",
        "overlong_prompt": "The prompt alone is longer than data.max_tokens: raise it, or shorten the guideline.",
        "overlong": "Raise data.max_tokens.",
        NOT_RENDERED: "Mend prompt.template; a field that not every item has wants {% if fields.NAME is defined %} "
        "around it.",
        "not_verified": "Run verify_traces over these runs and name its run in data.verification.",
        "hinted_unverified": "Hinted traces need verify_traces: name its run in data.verification.",
        "not_recovered": "A second model could not tell the rating from these traces; look at its verifications.",
        "hinted_over_share": "Raise data.max_hinted_share.",
        "no_guideline_section": "The guideline has no section for these dimensions.",
    }
    if not reasons:
        return "Look at data.split, and at the splits in the corpus's manifest."
    return "\n".join(text for reason, text in advice.items() if reason in reasons)
