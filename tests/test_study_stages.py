from pathlib import Path
from typing import get_args

import pytest

from judgetrace.config import UserError, load_config
from judgetrace.corpus_config import PrepareCorpusConfig
from judgetrace.study.config import load_study
from judgetrace.study.records import name_folder
from judgetrace.study.refs import Ref
from judgetrace.study.resolving import check_stages, resolve_stage
from judgetrace.study.sections import write_toml
from judgetrace.study.stages import Stage, build_stages
from judgetrace.training.config import Target
from tests.study_files import make_config

JOBS = Path(__file__).resolve().parents[1] / "jobs"


def build(folder: Path, **sections: object) -> dict[str, Stage]:
    return {stage.name: stage for stage in build_stages(make_config(folder, **sections))}


def folders_of(stages: dict[str, Stage]) -> dict[str, str]:
    return {name: f"study/{name_folder(name)}" for name in stages}


def test_stages_come_in_the_order_in_which_they_can_run(tmp_path: Path) -> None:
    stages = build(tmp_path, refine={}, report={})

    assert list(stages) == [
        "prepare",
        "infer",
        "train.tuned",
        "train.shuffled",
        "rate.untuned",
        "rate.tuned",
        "rate.shuffled",
        "recalibrate",
        "refine",
        "rate.untuned.refined",
        "rate.tuned.refined",
        "agreement.all",
        "agreement.before",
        "table",
        "report",
    ]
    for number, stage in enumerate(stages.values()):
        assert set(stage.inputs) <= set(list(stages)[:number]), stage.name


@pytest.mark.parametrize("file", ["demo_study.toml", "studies/edos_sexism.toml", "studies/ttcw_creativity.toml"])
def test_the_studies_that_are_shipped_have_no_fault_and_can_suspect_a_label(file: str) -> None:
    given = [f'--{key}=["given"]' for key in ("source.paths", "report.rationales.paths") if "studies/" in file]
    stages = {stage.name: stage for stage in build_stages(load_study(JOBS / file, given))}
    configs = {name: resolve_stage(stage, folders_of(stages)).config for name, stage in stages.items()}

    # Of a unit with fewer draws than this no report can say that none of them reached its label.
    assert configs["report"].browser.min_draws <= configs["infer"].sampling.max_draws


def test_a_study_needs_no_training_and_no_traces(tmp_path: Path) -> None:
    stages = build(tmp_path, infer=None, train=None)

    assert list(stages) == ["prepare", "rate.untuned", "agreement.all", "table"]


def test_each_further_proposal_takes_what_those_before_it_left(tmp_path: Path) -> None:
    runs = {"runs": ["plain", "strict", "last"], "strict": {"prompt": {"system": "Be strict."}}}
    stages = build(tmp_path, infer=runs)

    assert "after" not in stages["infer.plain"].wires
    assert stages["infer.last"].wires["after"] == [Ref("infer.plain"), Ref("infer.strict")]
    assert stages["infer.strict"].config["prompt"] == {"system": "Be strict."}
    assert "prompt" not in stages["infer.plain"].config
    assert stages["train.tuned"].wires["traces"] == [Ref("infer.plain"), Ref("infer.strict"), Ref("infer.last")]


def test_the_last_proposal_may_be_a_pilot_where_nothing_takes_complete_runs(tmp_path: Path) -> None:
    stages = build(tmp_path, infer={"runs": ["plain", "last"], "last": {"limit": 9}})

    assert stages["infer.last"].config["limit"] == 9


def test_a_control_is_a_line_and_brings_what_it_needs(tmp_path: Path) -> None:
    stages = build(
        tmp_path,
        thinking={"format": "tags", "stop": ["."]},
        train={"controls": ["label", "unrejected", "recalibrated"]},
        rate={"decoding": {"rating": "expected"}, "tuned": {"decoding": {"max_tokens": 99}}},
    )

    assert stages["infer"].config["ledger"] == {"keep_rejected_text": True}
    assert stages["train.label"].config["data"] == {"target": "label"}
    # The label arm rates as it was taught: without thinking, and nothing of the shared thinking stays.
    assert stages["rate.label"].config["thinking"] == {"format": "none"}
    assert stages["rate.unrejected"].config["thinking"] == {"format": "tags", "stop": ["."]}
    assert stages["rate.unrejected"].config["decoding"] == {"rating": "expected", "max_tokens": 99}
    assert stages["rate.label"].config["decoding"] == {"rating": "expected"}
    assert stages["rate.untuned"].config["splits"] == ["validation", "test"]
    assert stages["recalibrate"].wires["ratings"] == Ref("rate.untuned")


def test_validation_is_rated_for_what_is_recalibrated_alone(tmp_path: Path) -> None:
    stages = build(tmp_path, train={"controls": ["recalibrated"]}, refine={})
    splits = {name: stage.config["splits"] for name, stage in stages.items() if name.startswith("rate.")}

    assert splits.pop("rate.untuned") == ["validation", "test"]
    assert set(splits) >= {"rate.untuned.refined", "rate.tuned", "rate.tuned.refined"}
    assert all(others == ["test"] for others in splits.values())


def test_a_tuned_rater_has_the_trained_folder_as_its_model_and_an_adapter_its_base(tmp_path: Path) -> None:
    merged, adapter = build(tmp_path), build(tmp_path, train={"output": {"form": "adapter"}})

    values = resolve_stage(merged["rate.tuned"], folders_of(merged)).values
    assert values["model"] == {"path": "study/train/tuned/rater"}
    values = resolve_stage(adapter["rate.tuned"], folders_of(adapter)).values
    assert values["model"] == {"path": "scripted/model", "adapter": "study/train/tuned/rater"}


LABEL = {"data": {"target": "label"}}


@pytest.mark.parametrize(
    ("train", "name", "thinking"),
    [
        (LABEL, "tuned", {"format": "none"}),
        ({"controls": ["plain"], "plain": LABEL}, "plain", {"format": "none"}),
        ({"controls": ["first"], "first": {"data": {"target": "label_first"}}}, "first", {"format": "none"}),
        (LABEL | {"thinking": {"format": "none"}}, "tuned", {"format": "none"}),
        ({"controls": ["plain"], "plain": LABEL}, "tuned", {"format": "tags", "stop": ["."]}),
        (
            {"controls": ["label"], "label": {"data": {"target": "traces"}}},
            "label",
            {"format": "tags", "stop": ["."]},
        ),
    ],
)
def test_an_arm_rates_without_thinking_where_it_learns_to_whatever_it_is_called(
    tmp_path: Path, train: dict, name: str, thinking: dict
) -> None:
    # It went by the names `label` and `label_first`; other arms were taught without thinking and asked to think.
    stages = build(tmp_path, thinking={"format": "tags", "stop": ["."]}, train=train)

    assert stages[f"rate.{name}"].config["thinking"] == thinking


@pytest.mark.parametrize("target", get_args(Target))
def test_a_study_and_training_agree_on_who_thinks(tmp_path: Path, target: str) -> None:
    stages = build(tmp_path, train={"data": {"target": target}})
    training, rating = (resolve_stage(stages[f"{kind}.tuned"], folders_of(stages)).config for kind in ("train", "rate"))

    assert (rating.thinking.format != "none") is training.thinks


def test_a_tuned_rater_is_asked_as_it_was_taught_and_the_others_as_all_are(tmp_path: Path) -> None:
    # What [train] says of prompt, thinking and guideline did not reach the rating.
    stages = build(
        tmp_path,
        thinking={"format": "parser", "parser": "some", "stop": ["."]},
        prompt={"system": "Rate.", "on_overlong": "shorten"},
        train={
            "thinking": {"format": "tags", "tags": ["[T]", "[/T]"]},
            "prompt": {"severity": "strict"},
            "guideline": "taught.md",
        },
        rate={
            "prompt": {"system": "Judge.", "chat_template_args": {"enable_thinking": True}},
            "guideline": "all.md",
        },
    )
    tuned, untuned = stages["rate.tuned"].config, stages["rate.untuned"].config

    assert tuned["prompt"] == {"system": "Rate.", "on_overlong": "shorten", "severity": "strict"}
    assert tuned["thinking"] == {"format": "tags", "tags": ["[T]", "[/T]"], "stop": ["."]}
    assert tuned["guideline"] == "taught.md"
    assert untuned["prompt"] == {
        "system": "Judge.",
        "on_overlong": "shorten",
        "chat_template_args": {"enable_thinking": True},
    }
    assert untuned["thinking"] == {"format": "parser", "parser": "some", "stop": ["."]}
    assert untuned["guideline"] == "all.md"
    assert resolve_stage(stages["rate.tuned"], folders_of(stages)).config.thinking.marks == ("[T]", "[/T]")


def test_refining_asks_a_tuned_rater_as_it_was_taught_but_for_the_guideline(tmp_path: Path) -> None:
    train = {"thinking": {"format": "tags"}, "prompt": {"system": "Taught."}, "guideline": "taught.md"}
    stages = build(tmp_path, train=train, refine={})
    again = stages["rate.tuned.refined"]

    assert again.wires["guideline"] == Ref("refine", "guideline.md")
    assert "guideline" not in again.config
    assert (again.config["thinking"], again.config["prompt"]) == ({"format": "tags"}, {"system": "Taught."})
    untuned, tuned = resolve_stage(stages["refine"], folders_of(stages)).config.raters
    assert (tuned.thinking.format, tuned.prompt.system) == ("tags", "Taught.")
    assert (untuned.thinking.format, untuned.prompt.system) == ("plain", None)


def test_a_raters_own_section_wins_over_how_it_was_taught_and_tuned_speaks_for_those_taught_alike(
    tmp_path: Path,
) -> None:
    train = {"controls": ["shuffled", "mine"], "prompt": {"system": "Taught."}}
    train["mine"] = {"prompt": {"system": "Mine."}}
    rate = {"tuned": {"prompt": {"system": "Asked."}, "guideline": "asked.md", "decoding": {"max_tokens": 99}}}

    stages = build(tmp_path, train=train, rate=rate)
    systems = {name: stages[f"rate.{name}"].config["prompt"]["system"] for name in ("tuned", "shuffled", "mine")}
    assert systems == {"tuned": "Asked.", "shuffled": "Asked.", "mine": "Mine."}
    assert stages["rate.tuned"].config["guideline"] == "asked.md"
    assert stages["rate.mine"].config["decoding"] == {"max_tokens": 99}
    stages = build(tmp_path, train=train, rate=rate | {"mine": {"prompt": {"system": "Last."}}})
    assert stages["rate.mine"].config["prompt"]["system"] == "Last."


def test_what_becomes_of_an_item_that_is_too_long_may_be_said_of_all_raters(tmp_path: Path) -> None:
    train, rate = {"prompt": {"on_overlong": "shorten"}}, {"prompt": {"on_overlong": "quarantine"}}

    assert build(tmp_path, train=train)["rate.tuned"].config["prompt"] == {"on_overlong": "shorten"}
    assert build(tmp_path, train=train, rate=rate)["rate.tuned"].config["prompt"] == {"on_overlong": "quarantine"}


def test_an_adapter_is_loaded_onto_the_base_that_it_was_trained_on(tmp_path: Path) -> None:
    # It was loaded onto the shared model: the generator.
    stages = build(
        tmp_path,
        model={"path": "generator", "revision": "g1"},
        train={
            "controls": ["mine"],
            "output": {"form": "adapter"},
            "model": {"path": "base", "revision": "b1"},
            "mine": {"model": {"path": "other", "revision": "o1"}},
        },
        rate={"untuned": {"model": {"path": "judge"}}},
        refine={},
    )
    models = {
        name: resolve_stage(stages[name], folders_of(stages)).values["model"]
        for name in ("rate.untuned", "rate.tuned", "rate.mine", "rate.tuned.refined")
    }

    base = {"path": "base", "revision": "b1", "adapter": "study/train/tuned/rater"}
    assert models == {
        "rate.untuned": {"path": "judge", "revision": "g1"},
        "rate.tuned": base,
        "rate.mine": {"path": "other", "revision": "o1", "adapter": "study/train/mine/rater"},
        "rate.tuned.refined": base,
    }
    assert stages["refine"].wires["raters"][1]["model"] == base | {"adapter": Ref("train.tuned", "rater")}


def test_a_base_without_a_revision_has_none_of_the_shared_model_and_may_lie_elsewhere(tmp_path: Path) -> None:
    shared = {"path": "generator", "revision": "g1"}
    train = {"output": {"form": "adapter"}, "model": False, "tuned": {"model": {"path": "base"}}}

    assert build(tmp_path, model=shared, train=train)["rate.tuned"].config["model"] == {"path": "base"}
    rate = {"model": {"path": "judge"}, "tuned": {"model": {"path": "copy/of/base"}}}
    stages = build(tmp_path, model=shared, train=train, rate=rate)
    assert stages["rate.tuned"].config["model"] == {"path": "copy/of/base"}


def test_a_whole_tuned_model_has_no_adapter_of_the_shared_one(tmp_path: Path) -> None:
    train = {"model": False, "tuned": {"model": {"path": "base"}}}
    stages = build(tmp_path, model={"path": "generator", "adapter": "lora"}, train=train)

    values = resolve_stage(stages["rate.tuned"], folders_of(stages)).values
    assert values["model"] == {"path": "study/train/tuned/rater"}


@pytest.mark.parametrize("word", ["none", "None"])
def test_no_limit_of_the_sd_is_a_word_in_a_file_and_on_the_command_line(tmp_path: Path, word: str) -> None:
    # TOML has no null: the documented one could not be written, and run_study refused the text.
    file, job = tmp_path / "study.toml", tmp_path / "prepare.toml"
    file.write_text(write_toml(make_config(tmp_path, target={"rule": "median"}).model_dump()))
    prepare = next(iter(build_stages(load_study(file, [f"--target.max_sd={word}"]))))
    resolved = resolve_stage(prepare, {"prepare": "study/prepare"})
    assert resolved.config.target.max_sd is None

    job.write_text(write_toml(resolved.values))
    assert f'target.max_sd = "{word}"' in job.read_text()
    assert load_config(PrepareCorpusConfig, "prepare_corpus", [str(job)]).target.max_sd is None
    given = [str(job), "--target.max_sd=2"]
    assert load_config(PrepareCorpusConfig, "prepare_corpus", given).target.max_sd == 2
    given = [str(job), f"--target.max_sd={word}"]
    assert load_config(PrepareCorpusConfig, "prepare_corpus", given).target.max_sd is None
    with pytest.raises(UserError, match=r"target\.max_sd: .* \(found 'never'\)"):
        load_config(PrepareCorpusConfig, "prepare_corpus", [str(job), "--target.max_sd=never"])


def test_all_faults_of_all_stages_are_told_before_anything_starts(tmp_path: Path) -> None:
    config = make_config(
        tmp_path, infer={"sampling": {"max_draws": 0}}, train={"data": {"splot": "train"}}, rate={"runn": "here"}
    )
    stages = {stage.name: stage for stage in build_stages(config)}

    with pytest.raises(UserError) as raised:
        check_stages(list(stages.values()), folders_of(stages))
    text = str(raised.value)
    assert "stage infer: 1 fault(s)" in text
    assert "sampling.max_draws: Input should be greater than or equal to 1 (found 0)" in text
    assert "stage train.tuned: 1 fault(s)" in text
    assert "data.splot: unknown key; known here: balance" in text
    assert "stage rate.tuned: 1 fault(s)" in text


def test_files_that_are_not_there_and_a_scale_that_does_not_fit_are_found_before_the_start(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        scale={"values": ["a", "b"], "type": "nominal"},
        guideline={"path": str(tmp_path / "none.md")},
        prompt={"template": str(tmp_path / "none.jinja")},
    )
    stages = {stage.name: stage for stage in build_stages(config)}

    with pytest.raises(UserError) as raised:
        check_stages(list(stages.values()), folders_of(stages))
    text = str(raised.value)
    assert "stage prepare: guideline.path = " in text
    assert "stage infer: prompt.template = " in text
    assert "stage rate.untuned: decoding: the scale of " in text
    assert "stage recalibrate: the scale of " in text


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"controls": ["labell"]}}, r"train\.controls: \['labell'\] are no known controls"),
        ({"train": {"controls": "shuffled", "tuned": 3}}, r"train\.tuned = 3: expected a section"),
        ({"rate": {"refined": ["nobody"]}}, r"rate\.refined: \['nobody'\] are no raters"),
        ({"rate": {"others": ["tuned"]}}, r"rate\.others: \['tuned'\] are names of the study's own"),
        ({"infer": {"runs": ["a b"]}}, r"infer\.runs = \['a b'\]: expected a list of names"),
        ({"infer": {"run": "there"}}, "stage infer: run: is set by the study"),
        ({"rate": {"tuned": {"model": {"path": "x"}}}}, r"stage rate\.tuned: model\.path: is set by the study"),
        ({"infer": None}, "train: there are no traces to learn"),
        # What was kept of it was taken for a refined one: it differs from the corpus's own, by which raters rate first.
        ({"refine": {"guideline": "mine.md"}}, r"refine\.guideline = 'mine\.md': a study refines the guideline that"),
        ({"agreement": {"panel": []}}, r"stage agreement\.all: panel: is set by the study"),
        ({"train": None, "refine": {}}, r"refine\.raters: \['untuned'\]: .*\nexpected: two or more; .* rate\.others"),
        (
            {"rate": {"limit": 9}},
            r"rate\.untuned\.limit = 9: a pilot .* the control 'recalibrated' takes",
        ),
        ({"infer": {"limit": 9}, "verify": {}}, r"infer\.limit = 9: a pilot is no complete run, and \[verify\] takes"),
        (
            {"infer": {"runs": ["plain", "last"], "plain": {"limit": 9}}},
            r"infer\.plain\.limit = 9: a pilot is no complete run, and the proposal 'last' takes",
        ),
    ],
)
def test_names_and_keys_that_can_not_be_are_refused(tmp_path: Path, sections: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(tmp_path, **sections)


def test_verified_traces_are_told_to_training_refinement_and_report(tmp_path: Path) -> None:
    runs = {"runs": ["plain", "hinted"]}
    stages = build(tmp_path, infer=runs, verify={"hinted": {"limit": 5}}, refine={}, report={})

    assert stages["verify.hinted"].wires["traces"] == Ref("infer.hinted")
    assert stages["verify.hinted"].config["limit"] == 5
    assert "limit" not in stages["verify.plain"].config
    assert stages["train.shuffled"].wires["data.verification"] == [Ref("verify.plain"), Ref("verify.hinted")]
    assert stages["refine"].wires["selection.verification"] == [Ref("verify.plain"), Ref("verify.hinted")]
    assert stages["report"].wires["verification"] == [Ref("verify.plain"), Ref("verify.hinted")]
    assert "selection.verification" not in build(tmp_path, refine={})["refine"].wires
    assert build(tmp_path, verify={})["verify"].wires["traces"] == Ref("infer")


def test_raters_of_refinement_are_asked_as_they_rate_but_for_what_is_said_of_them(tmp_path: Path) -> None:
    rate = {"decoding": {"rating": "expected"}, "untuned": {"thinking": {"format": "none"}}}
    refine = {"rater": {"engine": {"num_cpus": 0.25}, "tuned": {"engine": {"slots": 8}}}, "seed": 3}
    stage = build(tmp_path, rate=rate, refine=refine)["refine"]

    untuned, tuned = stage.wires["raters"]
    assert (untuned["rater_id"], untuned["thinking"]) == ("untuned", {"format": "none"})
    assert untuned["engine"]["num_cpus"] == tuned["engine"]["num_cpus"] == 0.25
    assert (untuned["engine"]["slots"], tuned["engine"]["slots"]) == (16, 8)
    assert tuned["model"] == {"path": Ref("train.tuned", "rater")}
    assert stage.config["seed"] == 3
    assert stage.config["generator"]["model"] == {"path": "scripted/model"}
    assert "train.tuned" in stage.needs


def test_one_rater_refines_where_the_study_says_so(tmp_path: Path) -> None:
    stages = build(tmp_path, train=None, refine={"allow_one_rater": True})

    resolve_stage(stages["refine"], folders_of(stages))
    assert [rater["rater_id"] for rater in stages["refine"].wires["raters"]] == ["untuned"]


def test_one_dimension_is_refined_and_it_alone_is_rated_again(tmp_path: Path) -> None:
    stages = build(tmp_path, refine={"dimension": "tone"})

    assert stages["rate.tuned.refined"].config["dimensions"] == ["tone"]
    assert stages["rate.tuned.refined"].about["dimension"] == "tone"
    assert "dimensions" not in stages["rate.tuned"].config
    assert "dimensions" not in build(tmp_path, refine={})["rate.tuned.refined"].config


def test_raters_that_rate_by_both_guidelines_are_held_against_each_other_before_and_after(tmp_path: Path) -> None:
    stages = build(tmp_path, rate={"others": ["large"]}, refine={})

    config = resolve_stage(stages["agreement.all"], folders_of(stages)).config
    pairs = [(pair.before, pair.after, pair.optional) for pair in config.panel]
    assert pairs == [(name, f"{name}-refined", True) for name in ("untuned", "tuned", "large")]
    assert not resolve_stage(stages["agreement.before"], folders_of(stages)).config.panel
    assert stages["agreement.before"].takes == ("rate.untuned", "rate.tuned", "rate.large")
    assert stages["table"].inputs == ("agreement.all", "agreement.before")


def test_the_report_is_told_of_each_stage_that_is_there_and_of_no_other_folder(tmp_path: Path) -> None:
    report = build(tmp_path, refine={}, report={})["report"]

    assert report.wires["training"] == [Ref("train.tuned"), Ref("train.shuffled")]
    assert report.wires["refinement"] == Ref("refine")
    assert "verification" not in report.wires
    assert report.needs == ("prepare",)
    assert {"infer", "rate.tuned.refined", "agreement.all", "table"} <= set(report.takes)


def list_pairs(stage: Stage) -> list[tuple[str, str]]:
    return [(pair["before"], pair["after"]) for pair in stage.config["comparisons"]]


def test_the_report_compares_what_the_study_is_for_however_many_raters_there_are(tmp_path: Path) -> None:
    controls = ["label", "unrejected", "shuffled", "recalibrated"]
    stages = build(tmp_path, train={"controls": controls}, rate={"others": ["large"]}, refine={}, report={})

    assert list_pairs(stages["report"]) == [
        ("untuned", "tuned"),
        ("untuned", "large"),
        ("untuned", "untuned-refined"),
        ("tuned", "tuned-refined"),
        ("large", "large-refined"),
        ("label", "tuned"),
        ("unrejected", "tuned"),
        ("shuffled", "tuned"),
        ("recalibrated", "tuned"),
    ]
    config = resolve_stage(stages["report"], folders_of(stages)).config
    assert [(pair.before, pair.after) for pair in config.comparisons] == list_pairs(stages["report"])
    rated = {stage.about["rater"] for stage in stages.values() if stage.kind in ("rate", "recalibrate")}
    assert {name for pair in list_pairs(stages["report"]) for name in pair} == rated


def test_a_study_compares_other_raters_where_it_says_so(tmp_path: Path) -> None:
    own = [{"before": "shuffled", "after": "untuned"}]

    assert list_pairs(build(tmp_path, report={"comparisons": own})["report"]) == [("shuffled", "untuned")]
    assert list_pairs(build(tmp_path, infer=None, train=None, report={})["report"]) == []


def test_training_and_guidelines_learn_from_the_proposals_that_they_name(tmp_path: Path) -> None:
    infer, some = {"runs": ["plain", "hinted"], "hinted": {"hint": {"enabled": True}}}, {"proposals": ["plain"]}
    stages = build(tmp_path, infer=infer, verify={}, refine={}, train=some)
    assert stages["train.tuned"].wires["traces"] == [Ref("infer.plain")]
    assert stages["train.tuned"].wires["data.verification"] == [Ref("verify.plain")]
    assert stages["refine"].wires["traces"] == [Ref("infer.plain"), Ref("infer.hinted")]
    assert stages["refine"].wires["selection.verification"] == [Ref("verify.plain"), Ref("verify.hinted")]
    with pytest.raises(UserError, match=r"refine\.proposals: \['strict'\] are none of infer\.runs"):
        build(tmp_path, infer=infer, refine={"proposals": ["strict"]})
