"""Which stages are to be done, and why. Pure: a verdict follows from a stage, its record and its inputs' outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from judgetrace.config import UserError
from judgetrace.study.kinds import KINDS
from judgetrace.study.records import Record, name_folder, name_next_folder
from judgetrace.study.stages import Stage

What = Literal["done", "to do", "goes on", "stale", "changed", "redo"]


@dataclass(frozen=True)
class Verdict:
    """What is to become of a stage."""

    what: What
    """done; to do (for the first time); goes on in its folder; stale (its inputs are others: again, in a fresh folder);
    changed (its config is another: refused); redo (asked for: again, in a fresh folder)."""
    folder: str
    why: str = ""

    @property
    def is_done(self) -> bool:
        """Whether nothing is to be done."""
        return self.what == "done"


def judge(
    stage: Stage,
    counted: Mapping[str, Any],
    record: Record | None,
    outputs: Mapping[str, Mapping[str, str] | None],
    *,
    has_evidence: bool = True,
    redo: bool = False,
    fresh: frozenset[str] = frozenset(),
    needless: frozenset[str] = frozenset(),
) -> Verdict:
    """Judge a stage by its last call.

    `counted` is its config (resolving.count_config), `outputs` what every stage has made (outputs.Output as JSON; None
    where it is not complete), `has_evidence` whether the file is there that says it is complete. `fresh` are the stages
    that will be done again in other folders, `needless` those that were found not to be needed.
    """
    kind = KINDS[stage.kind]
    if record is None or (record.state in ("to do", "blocked", "not needed") and not record.inputs):
        return Verdict("to do", record.folder if record and record.folder else name_folder(stage.name))
    again = record.folder if kind.in_place else name_next_folder(stage.name, record.folder)
    if redo:
        return Verdict("redo", again, "asked for")
    others, grown = _compare_inputs(stage, record, outputs)
    others = sorted({*others, *(fresh & set(stage.inputs))})
    # What was read and is not needed any more must not stay in what was made of it.
    gone = sorted(needless & set(record.inputs) & set(stage.inputs))
    if others or gone:
        told = ((others, "made anew"), (gone, "not needed now"))
        why = "; ".join(f"{', '.join(names)}: {what}" for names, what in told if names)
        return Verdict("goes on" if kind.in_place else "stale", again, why)
    if not record.is_complete:
        return Verdict("goes on", record.folder, f"it {record.state}" + (f": {record.why}" if record.why else ""))
    # An earlier version may have counted what nothing depends on.
    earlier = {key: value for key, value in record.counted.items() if kind.counts(key)}
    return _judge_complete(stage, record, earlier, counted, grown=grown, has_evidence=has_evidence)


def _judge_complete(
    stage: Stage,
    record: Record,
    earlier: Mapping[str, Any],
    counted: Mapping[str, Any],
    *,
    grown: Sequence[str],
    has_evidence: bool,
) -> Verdict:
    """Judge a stage that is complete and whose inputs are the same, or grew.

    A limit that is lower than it was is refused: what was made beyond it is there, and would be read.
    """
    kind, changed = KINDS[stage.kind], list_changes(earlier, counted)
    is_lower = _is_less(earlier.get("limit"), counted.get("limit"))
    hard = [text for key, text in changed.items() if not kind.may_grow(key) or (key == "limit" and is_lower)]
    if hard and not kind.in_place:
        return Verdict("changed", record.folder, "; ".join(hard))
    why = [*changed.values(), *(f"{name}: has more" for name in grown)]
    if not why and not has_evidence:
        why = [f"there is no {kind.done} in its folder any more"]
    if not why:
        return Verdict("done", record.folder, record.why or "")
    stays = kind.in_place or kind.goes_on or not (changed or grown)
    return Verdict(
        "goes on" if stays else "stale",
        record.folder if stays else name_next_folder(stage.name, record.folder),
        "; ".join(why),
    )


def list_changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """List the keys of a config that changed, each with a text for people."""
    keys = sorted(key for key in {*earlier, *now} if _differs(key, earlier, now))
    return {key: f"{key}: was {earlier.get(key)!r}, is now {now.get(key)!r}" for key in keys}


def _is_less(was: int | None, now: int | None) -> bool:
    """Whether a limit is lower than it was; None is no limit."""
    return now is not None and (was is None or now < was)


def _differs(key: str, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a key changed; one that is missing, as in records of earlier versions, says the same as nothing."""
    if key in earlier and key in now:
        return bool(earlier[key] != now[key])
    if key not in earlier and key.removesuffix(" (its text)") in earlier:
        # An earlier version named the file and did not read it: whether it changed since nobody can tell.
        return False
    return {**earlier, **now}[key] not in (None, [], {})


def _compare_inputs(
    stage: Stage, record: Record, outputs: Mapping[str, Mapping[str, str] | None]
) -> tuple[list[str], list[str]]:
    """Compare what a stage read with what there is: the inputs that are others now, and those that grew."""
    others, grown = [], []
    for name in stage.inputs:
        earlier, now = record.inputs.get(name), outputs.get(name)
        if earlier is None or now is None:
            # What is still to be made is compared when it is; further results are taken by who takes what there is.
            if now is not None:
                others.append(name)
        elif earlier["identity"] != now["identity"]:
            others.append(name)
        elif earlier["content"] != now["content"]:
            grown.append(name)
    return others, grown


def select_stages(stages: Sequence[Stage], only: Sequence[str], start: str | None) -> frozenset[str]:
    """Select stages by names, or names of kinds; `start` selects it and all after it. Raises UserError."""
    names = [stage.name for stage in stages]
    chosen = set(names)
    if only:
        chosen &= {name for pattern in only for name in expand_name(stages, pattern)}
    if start is not None:
        first = min(names.index(name) for name in expand_name(stages, start))
        chosen &= set(names[first:])
    if not chosen:
        raise UserError("--only and --from together leave no stage")
    return frozenset(chosen)


def expand_name(stages: Sequence[Stage], pattern: str) -> list[str]:
    """Find the stages of a name, or of a kind. Raises UserError where there are none."""
    found = [stage.name for stage in stages if pattern in (stage.name, stage.kind)]
    if not found:
        known = ", ".join(stage.name for stage in stages)
        raise UserError(f"{pattern}: no stage of this study\nknown: {known}; or a kind of several")
    return found


def plan_stages(
    stages: Sequence[Stage],
    counted: Mapping[str, Mapping[str, Any]],
    records: Mapping[str, Record],
    evidence: Mapping[str, bool],
    redo: frozenset[str] = frozenset(),
) -> dict[str, Verdict]:
    """Judge all stages as things stand; what stands on a stage that will be done again is done again, too."""
    verdicts: dict[str, Verdict] = {}
    outputs = {name: record.output if record.is_complete else None for name, record in records.items()}
    needless = find_needless(records)
    for stage in stages:
        fresh = frozenset(name for name, verdict in verdicts.items() if verdict.what in ("redo", "stale"))
        verdicts[stage.name] = judge(
            stage,
            counted[stage.name],
            records.get(stage.name),
            outputs,
            has_evidence=evidence.get(stage.name, True),
            redo=stage.name in redo,
            fresh=fresh,
            needless=needless,
        )
    return verdicts


def find_needless(records: Mapping[str, Record]) -> frozenset[str]:
    """Find the stages that were found not to be needed."""
    return frozenset(name for name, record in records.items() if record.state == "not needed")


def list_dependents(stages: Sequence[Stage], names: Iterable[str]) -> list[str]:
    """List the stages that stand on some others, in order."""
    reached = set(names)
    found = []
    for stage in stages:
        if stage.name not in reached and reached & set(stage.inputs):
            reached.add(stage.name)
            found.append(stage.name)
    return found


def refuse_changed(stages: Sequence[Stage], verdicts: Mapping[str, Verdict], chosen: frozenset[str]) -> None:
    """Raise UserError where a stage that is complete would be done with another config."""
    changed = [stage.name for stage in stages if stage.name in chosen and verdicts[stage.name].what == "changed"]
    if not changed:
        return
    lines = [f"  {name}: {verdicts[name].why}" for name in changed]
    dependents = list_dependents(stages, changed)
    raise UserError(
        f"{len(changed)} complete stage(s) of this study have another config now:\n"
        + "\n".join(lines)
        + f"\nUndo the change, or do them again in fresh folders: --redo {','.join(changed)}"
        + (f"\nWhat stands on them is then done again, too: {', '.join(dependents)}" if dependents else "")
        + "\nThe folders that are there stay as they are."
    )
