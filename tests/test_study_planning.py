"""Which stages are done again and why, on hand-made records."""

from __future__ import annotations

import pytest

from judgetrace.config import UserError
from judgetrace.study.planning import judge, list_changes, list_dependents, plan_stages, refuse_changed, select_stages
from judgetrace.study.records import Record, mend_record, name_folder, name_next_folder
from judgetrace.study.stages import Stage

STAGES = [
    Stage("prepare", "prepare"),
    Stage("infer", "infer", needs=("prepare",)),
    Stage("train.tuned", "train", needs=("prepare", "infer")),
    Stage("rate.untuned", "rate", needs=("prepare",)),
    Stage("rate.tuned", "rate", needs=("prepare", "train.tuned")),
    Stage("agreement.all", "agreement", needs=("prepare",), takes=("rate.untuned", "rate.tuned")),
]
OUTPUTS = {stage.name: {"identity": stage.name, "content": "1"} for stage in STAGES}
COUNTED: dict[str, dict] = {stage.name: {"seed": 0} for stage in STAGES}


def complete(stage: Stage, **more: object) -> Record:
    inputs = {name: OUTPUTS[name] for name in stage.inputs}
    fields = {"counted": {"seed": 0}, "inputs": inputs, "output": OUTPUTS[stage.name], **more}
    return Record("complete", name_folder(stage.name), **fields)


def records() -> dict[str, Record]:
    return {stage.name: complete(stage) for stage in STAGES}


def plan(found: dict[str, Record], counted: dict[str, dict] = COUNTED, **more: object) -> dict[str, tuple[str, str]]:
    verdicts = plan_stages(STAGES, counted, found, {}, **more)
    return {name: (verdict.what, verdict.folder) for name, verdict in verdicts.items()}


def test_a_new_study_has_everything_to_do_and_a_complete_one_nothing() -> None:
    assert {what for what, _ in plan({}).values()} == {"to do"}
    assert {what for what, _ in plan(records()).values()} == {"done"}


def test_a_changed_config_is_refused_by_the_name_of_the_field_and_names_the_remedy() -> None:
    counted = COUNTED | {"infer": {"seed": 1}}
    verdicts = plan_stages(STAGES, counted, records(), {})

    assert verdicts["infer"].what == "changed"
    with pytest.raises(UserError) as raised:
        refuse_changed(STAGES, verdicts, frozenset(COUNTED))
    assert "infer: seed: was 0, is now 1" in str(raised.value)
    assert "--redo infer" in str(raised.value)
    assert "done again, too: train.tuned, rate.tuned, agreement.all" in str(raised.value)
    refuse_changed(STAGES, verdicts, frozenset({"rate.untuned"}))


def test_redo_moves_a_stage_and_what_stands_on_it_to_fresh_folders_and_leaves_the_rest() -> None:
    counted = COUNTED | {"infer": {"seed": 1}}

    assert plan(records(), counted, redo=frozenset({"infer"})) == {
        "prepare": ("done", "prepare"),
        "infer": ("redo", "infer.2"),
        "train.tuned": ("stale", "train/tuned.2"),
        "rate.untuned": ("done", "rate/untuned"),
        "rate.tuned": ("stale", "rate/tuned.2"),
        # Agreement is made anew in its place: it holds nothing but figures.
        "agreement.all": ("goes on", "agreement/all"),
    }


def test_a_changed_field_of_what_is_done_again_anyway_is_not_refused() -> None:
    counted = COUNTED | {"infer": {"seed": 1}, "train.tuned": {"seed": 1}}
    verdicts = plan_stages(STAGES, counted, records(), {}, redo=frozenset({"infer"}))

    refuse_changed(STAGES, verdicts, frozenset(COUNTED))


def test_a_corpus_that_grew_is_gone_on_with_and_training_on_it_starts_afresh() -> None:
    outputs = OUTPUTS | {"prepare": {"identity": "prepare", "content": "2"}}
    verdicts = {s.name: judge(s, COUNTED[s.name], complete(s), outputs) for s in STAGES}

    assert (verdicts["infer"].what, verdicts["infer"].folder) == ("goes on", "infer")
    assert (verdicts["train.tuned"].what, verdicts["train.tuned"].folder) == ("stale", "train/tuned.2")
    assert (verdicts["agreement.all"].what, verdicts["agreement.all"].folder) == ("goes on", "agreement/all")


@pytest.mark.parametrize("earlier", [300, None])
def test_a_lower_limit_is_refused_since_what_is_beyond_it_is_there(earlier: int | None) -> None:
    record = complete(STAGES[1], counted={"seed": 0, "limit": earlier})
    infer = judge(STAGES[1], {"seed": 0, "limit": 200}, record, OUTPUTS)
    assert (infer.what, infer.why) == ("changed", f"limit: was {earlier}, is now 200")


def test_a_higher_limit_and_more_source_files_go_on_in_the_folder() -> None:
    infer = judge(STAGES[1], {"seed": 0, "limit": 300}, complete(STAGES[1], counted={"seed": 0, "limit": 200}), OUTPUTS)
    files = {"source.paths (their files)": "a", "source.paths": ["x"]}
    more = {"source.paths (their files)": "b", "source.paths": ["x", "y"]}
    prepare = judge(STAGES[0], more, complete(STAGES[0], counted=files), OUTPUTS)

    assert (infer.what, infer.folder, infer.why) == ("goes on", "infer", "limit: was 200, is now 300")
    assert (prepare.what, prepare.folder) == ("goes on", "prepare")


def test_rules_of_refinement_may_change_in_its_folder_and_its_raters_may_not() -> None:
    stage = Stage("refine", "refine", needs=("prepare",))
    earlier = {"confirm.level": 0.95, "candidates.rubric_template (its text)": "a", "raters.0.decoding.seed": 0}
    record = Record("complete", "refine", counted=earlier, inputs={"prepare": OUTPUTS["prepare"]})
    outputs = {"prepare": OUTPUTS["prepare"]}

    rules = judge(stage, earlier | {"confirm.level": 0.9}, record, outputs)
    text = judge(stage, earlier | {"candidates.rubric_template (its text)": "b"}, record, outputs)
    raters = judge(stage, earlier | {"raters.0.decoding.seed": 1}, record, outputs)

    assert (rules.what, rules.folder, rules.why) == ("goes on", "refine", "confirm.level: was 0.95, is now 0.9")
    assert (text.what, text.folder) == ("goes on", "refine")
    assert (raters.what, raters.why) == ("changed", "raters.0.decoding.seed: was 0, is now 1")


def test_a_key_that_an_earlier_record_lacks_has_changed_only_where_it_says_something() -> None:
    earlier = {"seed": 0, "engine.args": {}}

    assert list_changes(earlier, {"seed": 0, "dimensions": [], "title": None}) == {}
    assert list(list_changes(earlier, {"seed": 0, "dimensions": ["tone"], "strict": False})) == ["dimensions", "strict"]
    assert list(list_changes(earlier, {"engine.args": {}})) == ["seed"]


def test_a_file_that_an_earlier_version_named_and_did_not_read_is_no_change() -> None:
    # Else every training of an earlier version would be refused as another one.
    earlier = {"deepspeed": "zero1.json"}
    read = earlier | {"deepspeed (its text)": "a"}

    assert list_changes(earlier, read) == {}
    assert list(list_changes(earlier, {"deepspeed": "zero2.json", "deepspeed (its text)": "b"})) == ["deepspeed"]
    assert list(list_changes(read, read | {"deepspeed (its text)": "b"})) == ["deepspeed (its text)"]


@pytest.mark.parametrize(
    ("stage", "key"), [(STAGES[1], "gate.min_units"), (STAGES[1], "engine.slots"), (STAGES[2], "validation.batch")]
)
def test_what_an_earlier_version_counted_and_nothing_depends_on_is_no_change(stage: Stage, key: str) -> None:
    # Else every study that was complete before the key was let free would be refused, as if it had lost the key.
    verdict = judge(stage, {"seed": 0}, complete(stage, counted={"seed": 0, key: 50}), OUTPUTS)

    assert (verdict.what, verdict.why) == ("done", "")


@pytest.mark.parametrize("state", ["failed", "stopped", "running"])
def test_what_is_not_complete_goes_on_in_its_folder_whatever_its_config(state: str) -> None:
    # The job itself refuses rows that must not mix; a config that was mended must be tried.
    record = Record(state, "infer", why="scripted", counted={"seed": 0}, inputs={"prepare": OUTPUTS["prepare"]})

    verdict = judge(STAGES[1], {"seed": 1}, record, OUTPUTS)

    assert (verdict.what, verdict.folder, verdict.why) == ("goes on", "infer", f"it {state}: scripted")


def test_a_stage_whose_manifest_is_gone_is_done_again() -> None:
    verdict = judge(STAGES[3], COUNTED["rate.untuned"], complete(STAGES[3]), OUTPUTS, has_evidence=False)

    assert (verdict.what, verdict.why) == ("goes on", "there is no manifest.json in its folder any more")


def test_agreement_is_made_anew_when_a_rater_joins() -> None:
    earlier = complete(STAGES[5], inputs={name: OUTPUTS[name] for name in ("prepare", "rate.untuned")})

    verdict = judge(STAGES[5], COUNTED["agreement.all"], earlier, OUTPUTS)

    assert (verdict.what, verdict.folder, verdict.why) == ("goes on", "agreement/all", "rate.tuned: made anew")


def test_only_and_from_choose_by_stage_or_by_kind() -> None:
    assert select_stages(STAGES, ["rate"], None) == {"rate.untuned", "rate.tuned"}
    assert select_stages(STAGES, ["infer", "rate.tuned"], None) == {"infer", "rate.tuned"}
    assert select_stages(STAGES, [], "rate") == {"rate.untuned", "rate.tuned", "agreement.all"}
    assert select_stages(STAGES, ["rate"], "rate.tuned") == {"rate.tuned"}
    with pytest.raises(UserError, match="no stage of this study"):
        select_stages(STAGES, ["rates"], None)
    with pytest.raises(UserError, match="leave no stage"):
        select_stages(STAGES, ["infer"], "rate")


def test_dependents_are_found_through_others() -> None:
    assert list_dependents(STAGES, ["infer"]) == ["train.tuned", "rate.tuned", "agreement.all"]


def test_folders_are_counted_up_and_a_killed_driver_leaves_no_running_stage() -> None:
    assert [name_folder("infer"), name_folder("rate.tuned.refined")] == ["infer", "rate/tuned.refined"]
    assert name_next_folder("infer", "infer") == "infer.2"
    assert name_next_folder("rate.tuned.refined", "rate/tuned.refined.9") == "rate/tuned.refined.10"
    assert mend_record(Record("running", "infer")).state == "stopped"
