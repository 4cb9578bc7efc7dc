"""What refine_guideline reads before it starts: the corpus and its guideline, one dimension of it, the items."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from judgetrace.config import UserError
from judgetrace.corpus import name_shard, read_finished
from judgetrace.fingerprints import check_model, hash_text
from judgetrace.guideline import Guideline, parse_guideline
from judgetrace.prompts import load_template
from judgetrace.refining.candidate_config import name_given
from judgetrace.refining.candidates import cut_guideline
from judgetrace.refining.config import RefineGuidelineConfig, check_raters
from judgetrace.refining.held_items import HeldItems, Part, merge_items, pick_items
from judgetrace.refining.lint import choose_other_names
from judgetrace.run_inputs import SHARDS_READ_AT_ONCE, RunInputs
from judgetrace.scale import Scale
from judgetrace.storage import read_text
from judgetrace.teachable import check_verification
from judgetrace.traces import check_trace_corpus

MIN_GROUPS = 10


class RefineInputs:
    """A prepared corpus and the dimension that is refined. Raises UserError for what can't be used."""

    def __init__(self, config: RefineGuidelineConfig):
        self.config = config
        self.corpus = RunInputs(config.corpus, config.guideline, None)
        self.dimensions = self._list_dimensions()
        self.dimension = self._choose_dimension()
        self.guideline = self._read_guideline()
        shown = self.guideline.guideline_for(self.dimension)
        if shown is None:
            raise UserError(
                f"guideline: no section for the dimension {self.dimension!r}; it has {list(self.guideline.sections)}"
            )
        self.shown = shown
        """What the guideline tells the rater of the dimension."""
        self.scale = self._find_scale()
        check_raters(config, self.scale)
        check_trace_corpus("traces", config.traces, self.corpus.corpus_id)
        check_verification("selection.verification", config.selection.verification)
        self.score_kind = config.score_kind(self.scale)
        self.given = self._read_given()
        """What guidelines of the user's own tell the rater of the dimension, by candidate."""
        self.templates = [load_template(rater.prompt.template) for rater in config.raters]
        self.model_fingerprints = [check_model(rater.model, rater.endpoint) for rater in config.raters]
        self._check_distinct()

    def _list_dimensions(self) -> list[str]:
        """List the dimensions that have units."""
        manifests = read_finished(self.corpus.corpus)
        return sorted({name for manifest in manifests for name in manifest["counts"]["labels"]})

    def _choose_dimension(self) -> str:
        wanted, known = self.config.dimension, self.dimensions
        if wanted is None:
            if len(known) > 1:
                raise UserError(
                    f"dimension: corpus = {self.config.corpus} has {len(known)}: {known[:20]}\n"
                    "expected: dimension = one of them; a run refines the guideline of one"
                )
            return known[0]
        if wanted not in known:
            raise UserError(f"dimension = {wanted!r}: the corpus has {known[:20]}")
        return wanted

    def _read_guideline(self) -> Guideline:
        try:
            return parse_guideline(self.corpus.guideline, self.corpus.by_section)
        except ValueError as error:
            raise UserError(f"guideline: {error}") from error

    def _read_given(self) -> dict[str, str]:
        return {name_given(path): self._cut_given(path) for path in self.config.candidates.paths}

    def _cut_given(self, path: str) -> str:
        text = read_text("candidates.paths", path)
        try:
            return cut_guideline(parse_guideline(text, self.corpus.by_section), self.dimension).text
        except ValueError as error:
            raise UserError(
                f"candidates.paths = {path}: {error}\nexpected: a guideline in the form of the original"
            ) from error

    def _find_scale(self) -> Scale:
        scale = self.corpus.scale.of(self.dimension)
        assert scale is not None, f"prepare_corpus lets no unit of dimension {self.dimension!r} through"
        return scale

    def _check_distinct(self) -> None:
        raters = self.config.raters
        found = {self.rater_fingerprint(place): rater.rater for place, rater in enumerate(raters)}
        if len(found) < len(raters):
            names = [rater.rater for rater in raters]
            raise UserError(
                f"raters: {names[:5]} are {len(found)} in truth: some differ in nothing but their name\n"
                "expected: raters of different families, or another decoding.seed for a second one of the same model"
            )

    @cached_property
    def items(self) -> HeldItems:
        """The items that candidates are held against; reads all shards of the corpus."""
        rule = self.config.item_rule(self.dimension)

        def pick(shard: int) -> HeldItems:
            return pick_items(self.corpus.corpus.read_table(f"items/{name_shard(shard)}"), rule)

        with ThreadPoolExecutor(SHARDS_READ_AT_ONCE) as pool:
            return merge_items(pool.map(pick, [number for number, _ in self.corpus.shards]), rule)

    def list_other_names(self) -> tuple[str, ...]:
        """List what a guideline of this dimension must not name: other dimensions and sections, and those given.

        A corpus may have been prepared of one dimension alone, while its guideline has sections for all.
        """
        known = (*self.dimensions, *self.corpus.scale.dimensions, *self.guideline.sections)
        return choose_other_names(self.dimension, (*known, *self.config.lint.other_names))

    def list_shortages(self) -> Iterator[str]:
        """List what there is too little of, each as a sentence."""
        if len(self.config.raters) < 2:
            yield "One rater: what makes it rate better may not help others; take two or more, of different families."
        if not self.list_other_names():
            yield (
                "Whether a candidate keeps to this dimension was not checked: neither corpus nor guideline names "
                "another one, nor does lint.other_names."
            )
        names: dict[Part, str] = {"race": "the racing half", "confirm": "the confirming half", "test": "the test split"}
        wanted = {"race": self.config.race.first_look, "confirm": self.config.confirm.min_groups, "test": MIN_GROUPS}
        for part, name in names.items():
            found = self.items.count_groups(part)
            if found < wanted[part] and not (part == "test" and not self.config.test.enabled):
                outcome = " The original can't be replaced." if part == "confirm" else ""
                yield (
                    f"Few items: {name} has {len(self.items.rows[part]):,} items in {found:,} groups, expected at "
                    f"least {wanted[part]:,} groups.{outcome}"
                )

    def rater_texts(self, place: int) -> dict[str, str]:
        """Return the texts that a rater's ratings depend on, by their names in a contract."""
        return {"prompt.template": self.templates[place], "model.fingerprint": self.model_fingerprints[place]}

    def rater_fingerprint(self, place: int) -> str:
        """Fingerprint all that a rater's ratings of a unit depend on, but the guideline."""
        about = {"corpus": self.corpus.corpus_id, "dimension": self.dimension}
        return self.config.raters[place].fingerprint(
            **self.rater_texts(place), **about, scale=self.scale.model_dump_json()
        )

    def contract(self) -> dict[str, Any]:
        """Collect what must not change between the calls of a run: what is refined, and what it is measured with.

        Calls and ratings are known by all that they depend on, so rules of race, confirmation and lint may change.
        """
        config = self.config
        found = {
            "job": "refine_guideline",
            "corpus": self.corpus.corpus_id,
            "dimension": self.dimension,
            "guideline": hash_text(self.corpus.guideline),
            "guideline.by_section": str(self.corpus.by_section),
            # The halves: what took part in the choice must not come to confirm it.
            "seed": config.seed,
        }
        for place, rater in enumerate(config.raters):
            own = rater.contract(**self.rater_texts(place))
            found |= {f"raters.{rater.rater}.{key}": value for key, value in own.items()}
        return found
