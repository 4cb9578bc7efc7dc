"""The stages of a study and what each reads of others: a graph made of the study's config. Pure.

prepare -> infer -> verify -> train -> rate (untuned, tuned, controls) -> refine -> rate with the refined guideline ->
agreement -> table -> report. Controls and raters are one line each of CONTROLS or of the study's own file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from judgetrace.config import UserError
from judgetrace.study.config import StudyConfig
from judgetrace.study.kinds import KINDS
from judgetrace.study.refs import Ref, list_refs
from judgetrace.study.sections import find, merge, nest
from judgetrace.study.taught_form import layer_form, makes_adapter, thinks

CONTROLS: dict[str, dict[str, Any]] = {
    "label": {"data": {"target": "label"}},
    "label_first": {"data": {"target": "label_first"}},
    "unrejected": {"data": {"target": "first_draw"}},
    "shuffled": {"data": {"target": "shuffled_traces"}},
}
"""Arms of training besides `tuned`, by what differs."""
RECALIBRATED = "recalibrated"
UNTUNED, TUNED = "untuned", "tuned"
RATER_SECTIONS = ("model", "engine", "endpoint", "prompt", "thinking", "decoding")
"""What a rater of refine_guideline has in common with one of rate_items."""
GENERATOR_SECTIONS = ("model", "engine")
"""What the generator of refine_guideline takes of the shared sections."""
REPORT_LISTS = {"traces": "infer", "training": "train", "ratings": "rate", "verification": "verify"}
"""Keys of render_report that take runs, and which kinds of stages these are."""


@dataclass(frozen=True)
class Stage:
    """A stage: one call of a job."""

    name: str
    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    """As given; without what is wired."""
    wires: Mapping[str, Any] = field(default_factory=dict)
    """Dotted key of the config -> a value that holds references to other stages."""
    needs: tuple[str, ...] = ()
    """The stages without which it can't run."""
    takes: tuple[str, ...] = ()
    """Further stages whose results it takes where there are any."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What readers of the study's files want to know: rater, guideline, role, arm, dimension (where it rates one)."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The stages that it reads, in order."""
        return (*self.needs, *self.takes)


@dataclass(frozen=True)
class Rater:
    """A rater of the study. `arm` is the stage that tunes it; None for a model as it is."""

    name: str
    arm: str | None = None
    is_control: bool = False


def build_stages(study: StudyConfig) -> list[Stage]:
    """Build the stages in the order in which they run. Raises UserError for names that can't be understood."""
    return list(_Builder(study).build())


def split_section(
    section: Mapping[str, Any], where: str, lists: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Take the keys that name stages off a section; `lists` are their defaults. Raises UserError for no list."""
    own, named = dict(section), {}
    for key, default in lists.items():
        given = own.pop(key, list(default))
        given = [given] if isinstance(given, str) else given
        if not isinstance(given, list) or not all(isinstance(name, str) and _is_name(name) for name in given):
            raise UserError(f"{where}.{key} = {given!r}: expected a list of names (letters, digits, - and _)")
        if len(set(given)) < len(given):
            raise UserError(f"{where}.{key} = {given!r}: names a stage twice")
        named[key] = given
    return own, named


def _is_name(text: str) -> bool:
    return text.isascii() and text.replace("_", "").replace("-", "").isalnum()


class _Builder:
    def __init__(self, study: StudyConfig):
        self._study = study
        self._infer, runs = split_section(study.infer or {}, "infer", {"runs": ["infer"]})
        self._runs = runs["runs"] if study.infer is not None else []
        self._train, given = split_section(study.train or {}, "train", {"controls": [], "proposals": self._runs})
        self._controls = given["controls"] if study.train is not None else []
        self._taught = self._check_proposals("train.proposals", given["proposals"])
        self._rate, others = split_section(study.rate, "rate", {"others": []})
        self._raters = self._list_raters(others["others"])
        plain = [rater.name for rater in self._raters if not rater.is_control]
        self._rate, refined = split_section(self._rate, "rate", {"refined": plain})
        self._refined = self._check_raters("rate.refined", refined["refined"])
        given = {"raters": self._refined, "proposals": self._runs}
        self._refine, given = split_section(study.refine or {}, "refine", given)
        self._scorers = self._check_raters("refine.raters", given["raters"])
        self._read = self._check_proposals("refine.proposals", given["proposals"])
        self._stages: dict[str, Stage] = {}

    def _list_raters(self, others: Sequence[str]) -> list[Rater]:
        arms = (
            [TUNED, *(name for name in self._controls if name != RECALIBRATED)] if self._study.train is not None else []
        )
        unknown = [name for name in arms[1:] if name not in CONTROLS and not isinstance(self._train.get(name), dict)]
        if unknown:
            raise UserError(
                f"train.controls: {unknown} are no known controls, and have no section [train.NAME]\n"
                f"known: {', '.join([*CONTROLS, RECALIBRATED])}"
            )
        taken = [name for name in others if name in (UNTUNED, *arms, RECALIBRATED)]
        if taken:
            raise UserError(f"rate.others: {taken} are names of the study's own raters; give others")
        tuned = [Rater(name, f"train.{name}", name != TUNED) for name in arms]
        return [Rater(UNTUNED), *tuned, *(Rater(name) for name in others)]

    def _check_raters(self, where: str, names: Sequence[str]) -> list[str]:
        known = [rater.name for rater in self._raters]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(f"{where}: {unknown} are no raters of this study\nknown: {', '.join(known)}")
        return list(names)

    def _check_proposals(self, where: str, names: Sequence[str]) -> list[str]:
        unknown = [name for name in names if name not in self._runs]
        if unknown:
            raise UserError(f"{where}: {unknown} are none of infer.runs\nknown: {', '.join(self._runs)}")
        return list(names)

    def _list_runs(self, kind: str, proposals: Sequence[str]) -> list[Ref]:
        """List the stages of a kind, infer or verify, that have to do with some proposals."""
        names = [kind if self._runs == ["infer"] else f"{kind}.{run}" for run in proposals]
        return [Ref(name) for name in names if name in self._stages]

    def build(self) -> Iterator[Stage]:
        """Yield the stages in order."""
        yield self._make("prepare", "prepare", {"corpus": Ref("prepare")}, [self._study.prepare])
        yield from self._build_infer()
        if self._study.verify is not None:
            yield from self._build_verify(self._study.verify)
        yield from self._build_train()
        for rater in self._raters:
            yield self._build_rate(rater, refined=False)
        if RECALIBRATED in self._controls:
            yield self._build_recalibrate()
        if self._study.refine is not None:
            yield self._build_refine()
            for rater in self._raters:
                if rater.name in self._refined:
                    yield self._build_rate(rater, refined=True)
        yield from self._build_agreement()
        if self._study.report is not None:
            yield self._build_report(self._study.report)

    def _build_infer(self) -> Iterator[Stage]:
        common, own = self._split_names("infer", self._infer, self._runs)
        preset = {"ledger": {"keep_rejected_text": True}} if "unrejected" in self._controls else {}
        names = ["infer"] if self._runs == ["infer"] else [f"infer.{run}" for run in self._runs]
        for number, (run, name) in enumerate(zip(self._runs, names, strict=True)):
            wires: dict[str, Any] = {"corpus": Ref("prepare"), "run": Ref(name)}
            layers = [preset, common, own[run]]
            if number:
                wires["after"] = [Ref(earlier) for earlier in names[:number]]
                layers.insert(0, {"proposal": run})
            yield self._make(name, "infer", wires, layers)
            for earlier in names[:number]:
                self._refuse_pilot(earlier, f"the proposal {run!r}")

    def _build_verify(self, section: Mapping[str, Any]) -> Iterator[Stage]:
        common, own = self._split_names("verify", section, self._runs)
        for stage in [stage for stage in self._stages.values() if stage.kind == "infer"]:
            name = stage.name.replace("infer", "verify", 1)
            wires = {"corpus": Ref("prepare"), "traces": Ref(stage.name), "run": Ref(name)}
            run = stage.name.removeprefix("infer.")
            self._refuse_pilot(stage.name, "[verify]")
            yield self._make(name, "verify", wires, [common, own[run]])

    def _refuse_pilot(self, stage: str, reader: str) -> None:
        """Raise UserError where a stage would read a run that will never be complete."""
        limit = self._stages[stage].config.get("limit")
        if limit is not None:
            raise UserError(
                f"{stage}.limit = {limit!r}: a pilot is no complete run, and {reader} takes complete ones alone\n"
                f"drop the limit (prepare.limit makes the whole corpus smaller), or {reader}"
            )

    def _build_train(self) -> Iterator[Stage]:
        arms = [rater for rater in self._raters if rater.arm is not None]
        common, own = self._split_names("train", self._train, [rater.name for rater in arms])
        traces, verified = self._list_runs("infer", self._taught), self._list_runs("verify", self._taught)
        if arms and not traces:
            raise UserError("train: there are no traces to learn; give the study a section [infer]")
        for rater in arms:
            assert rater.arm is not None
            wires: dict[str, Any] = {"corpus": Ref("prepare"), "traces": traces, "run": Ref(rater.arm)}
            if verified:
                wires["data.verification"] = verified
            layers = [common, CONTROLS.get(rater.name, {}), own[rater.name]]
            yield self._make(rater.arm, "train", wires, layers, arm=rater.name)

    def _build_rate(self, rater: Rater, refined: bool) -> Stage:
        name = f"rate.{rater.name}" + (".refined" if refined else "")
        wires: dict[str, Any] = {"corpus": Ref("prepare"), "run": Ref(name)}
        dimension = self._refine.get("dimension") if refined else None
        if refined:
            wires["guideline"] = Ref("refine", "guideline.md")
        return self._make(
            name,
            "rate",
            wires | self._wire_model(rater),
            [
                *self._layer_rater(rater, refined),
                {"rater_id": rater.name + ("-refined" if refined else "")},
                {"dimensions": [dimension]} if dimension else {},
            ],
            rater=rater.name + ("-refined" if refined else ""),
            guideline="refined" if refined else "original",
            role="control" if rater.is_control else "rater",
            **({"dimension": dimension} if dimension else {}),
        )

    def _layer_rater(self, rater: Rater, refined: bool) -> list[Mapping[str, Any]]:
        """Layer what is said of a rater: the shared sections but the cluster come before."""
        common, own = self._split_names("rate", self._rate, [known.name for known in self._raters])
        is_recalibrated = rater.name == UNTUNED and not refined and RECALIBRATED in self._controls
        splits = ["validation", "test"] if is_recalibrated else ["test"]
        rated = {"splits": splits, "dropped": True}
        if rater.arm is None:
            return [rated, common, own[rater.name]]
        training = self._stages[rater.arm].config
        # No part of the form: where [rate] says what becomes of items that are too long, that holds.
        overlong = nest("prompt.on_overlong", find(training, "prompt.on_overlong"))
        taught = self._layer_taught(rater, own[TUNED], refined)
        return [rated, overlong, common, *taught, own[rater.name]]

    def _layer_taught(self, rater: Rater, of_tuned: Mapping[str, Any], refined: bool) -> list[Mapping[str, Any]]:
        """Layer how a tuned rater was taught, and `of_tuned`, which is said of all that think."""
        training, tuned = (self._stages[f"train.{name}"].config for name in (rater.name, TUNED))
        form = layer_form(training, refined=refined)
        if rater.name == TUNED or not thinks(training):
            return [*form]
        # What is said of the form itself fits those that were taught the same one.
        is_same = form == layer_form(tuned, refined=refined)
        return [*form, of_tuned] if is_same else [of_tuned, *form]

    def _wire_model(self, rater: Rater) -> dict[str, Any]:
        if rater.arm is None:
            return {}
        key = "model.adapter" if makes_adapter(self._stages[rater.arm].config) else "model.path"
        return {key: Ref(rater.arm, "rater")}

    def _build_recalibrate(self) -> Stage:
        wires = {"corpus": Ref("prepare"), "ratings": Ref(f"rate.{UNTUNED}"), "run": Ref("recalibrate")}
        self._refuse_pilot(f"rate.{UNTUNED}", f"the control {RECALIBRATED!r}")
        about = {"rater": RECALIBRATED, "guideline": "original", "role": "control"}
        layers = [{"rater_id": RECALIBRATED, "splits": ["test"]}, self._study.recalibrate]
        return self._make("recalibrate", "recalibrate", wires, layers, **about)

    def _build_refine(self) -> Stage:
        traces = self._list_runs("infer", self._read)
        if not traces:
            raise UserError("refine: there are no traces to read; give the study a section [infer]")
        if len(self._scorers) < 2 and not self._refine.get("allow_one_rater"):
            raise UserError(
                f"refine.raters: {self._scorers}: a guideline that helps one rater may not help others\nexpected: two "
                "or more; give the study a section [train], name further raters as rate.others with a section "
                "[rate.NAME] each, or set refine.allow_one_rater = true"
            )
        refine = dict(self._refine)
        if "guideline" in refine:
            raise UserError(
                f"refine.guideline = {refine['guideline']!r}: a study refines the guideline that its raters rate by "
                "first, the corpus's own: else a change would be owed to two guidelines\ngive it as guideline.path of "
                "[guideline], and drop this key"
            )
        common, own = self._split_names("refine.rater", refine.pop("rater", {}), self._scorers)
        raters = []
        for name in self._scorers:
            rater = next(rater for rater in self._raters if rater.name == name)
            config = self._stages[f"rate.{name}"].config
            asked = merge({key: config[key] for key in RATER_SECTIONS if key in config}, common, own[name])
            for key, ref in self._wire_model(rater).items():
                section, _, field_name = key.partition(".")
                asked[section] = {**asked.get(section, {}), field_name: ref}
            raters.append({"rater_id": name, **asked})
        wires: dict[str, Any] = {"corpus": Ref("prepare"), "traces": traces, "run": Ref("refine"), "raters": raters}
        if verified := self._list_runs("verify", self._read):
            wires["selection.verification"] = verified
        generator = {key: getattr(self._study, key) for key in GENERATOR_SECTIONS if getattr(self._study, key)}
        # The study itself measures the test split.
        layers = [{"test": {"enabled": False}}, {"generator": generator} if generator else {}, refine]
        return self._make("refine", "refine", wires, layers)

    def _build_agreement(self) -> Iterator[Stage]:
        rated = [stage for stage in self._stages.values() if stage.kind in ("rate", "recalibrate")]
        groups = {"agreement.all": rated}
        plain = [stage for stage in rated if stage.about["role"] == "rater"]
        again = [stage.about["rater"].removesuffix("-refined") for stage in rated if _is_refined(stage)]
        before = [stage for stage in plain if not _is_refined(stage) and (not again or stage.about["rater"] in again)]
        if len(before) > 1 and len(before) < len(rated):
            groups["agreement.before"] = before
        panel = [{"before": name, "after": f"{name}-refined", "optional": True} for name in again]
        for name, stages in groups.items():
            raters = [Ref(stage.name) for stage in stages]
            wires = {"corpus": Ref("prepare"), "raters": raters, "output": Ref(name)}
            wires["panel"] = panel if name == "agreement.all" else []
            layers = [{"split": "test"}, self._study.agreement]
            names = tuple(stage.name for stage in stages)
            yield self._make(name, "agreement", wires, layers, needs=("prepare",), takes=names)
        takes = tuple(name for name in groups if name != "agreement.all")
        yield self._make("table", "table", {"output": Ref("table")}, [], needs=("agreement.all",), takes=takes)

    def _build_report(self, section: Mapping[str, Any]) -> Stage:
        """Build the report of what is complete; earlier folders of a stage have no place in it."""
        kinds: dict[str, list[Ref]] = {}
        for stage in self._stages.values():
            kinds.setdefault(stage.kind, []).append(Ref(stage.name))
        wires: dict[str, Any] = {"corpus": Ref("prepare"), "output": Ref("report"), "agreement": Ref("agreement.all")}
        wires |= {key: kinds[kind] for key, kind in REPORT_LISTS.items() if kind in kinds}
        if self._study.refine is not None:
            wires["refinement"] = Ref("refine")
        takes = tuple(dict.fromkeys(ref.stage for ref in list_refs(wires) if ref.stage not in ("prepare", "report")))
        layers = [{"comparisons": list(self._list_comparisons())}, section]
        return self._make("report", "report", wires, layers, needs=("prepare",), takes=(*takes, "table"))

    def _list_comparisons(self) -> Iterator[dict[str, Any]]:
        """List the raters to hold against each other; not all are there where a stage failed or was not needed."""
        names = {rater.name for rater in self._raters}
        pairs = [(UNTUNED, TUNED, "tuned on accepted traces")] if TUNED in names else []
        pairs += [(UNTUNED, rater.name, "") for rater in self._raters if rater.arm is None and rater.name != UNTUNED]
        refined = [rater.name for rater in self._raters if rater.name in self._refined]
        if self._study.refine is not None:
            pairs += [(name, f"{name}-refined", "asked with the refined guideline") for name in refined]
        pairs += [(control, TUNED, "a control, and the rater tuned on accepted traces") for control in self._controls]
        for before, after, what in pairs:
            yield {"before": before, "after": after, "what": what, "optional": True}

    def _split_names(
        self, where: str, section: Mapping[str, Any], names: Sequence[str]
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Take the sections of single stages off the section of their kind."""
        own = {name: section.get(name, {}) for name in names if name != where or isinstance(section.get(name), dict)}
        wrong = [name for name, given in own.items() if not isinstance(given, dict)]
        if wrong:
            raise UserError(f"{where}.{wrong[0]} = {own[wrong[0]]!r}: expected a section [{where}.{wrong[0]}]")
        common = {key: value for key, value in section.items() if key not in own}
        return common, {name: own.get(name, {}) for name in names}

    def _make(
        self,
        name: str,
        kind: str,
        wires: Mapping[str, Any],
        layers: Sequence[Mapping[str, Any]],
        *,
        needs: Sequence[str] | None = None,
        takes: Sequence[str] = (),
        **about: str,
    ) -> Stage:
        for key in wires:
            if find(merge(*layers), key) is not None:
                raise UserError(f"stage {name}: {key}: is set by the study, which wires its stages; drop it")
        shared = {key: getattr(self._study, key) for key in KINDS[kind].shared if getattr(self._study, key)}
        config = merge(shared, *layers)
        for key in wires:
            # A rater that was tuned takes nothing of the shared model's place.
            _drop(config, key)
        found = dict.fromkeys(ref.stage for ref in list_refs(wires) if ref.stage != name)
        stage = Stage(name, kind, config, wires, tuple(found if needs is None else needs), tuple(takes), about)
        self._stages[name] = stage
        return stage


def _is_refined(stage: Stage) -> bool:
    return stage.about.get("guideline") == "refined"


def _drop(section: dict[str, Any], key: str) -> None:
    head, dot, rest = key.partition(".")
    if not dot:
        section.pop(head, None)
    elif isinstance(section.get(head), dict):
        section[head] = dict(section[head])
        _drop(section[head], rest)
