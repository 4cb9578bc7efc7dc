"""Running a study's stages with jobs that only leave files: order, skipping, failures, redo. No Ray."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from judgetrace.config import STOPPED_EARLY_STATUS, UserError
from judgetrace.fingerprints import hash_text
from judgetrace.run_folder import FencedError, RunFolder
from judgetrace.storage import Folder
from judgetrace.stripping import RULES_VERSION
from judgetrace.study.config import StudyConfig
from judgetrace.study.planning import plan_stages, refuse_changed, select_stages
from judgetrace.study.records import Record, name_folder, read_records
from judgetrace.study.repeats import count_guidelines
from judgetrace.study.resolving import check_stages
from judgetrace.study.run import StudyRun
from judgetrace.study.stages import build_stages
from tests.study_files import FakeJobs, make_config

FULL = ["prepare", "infer", "train/tuned", "train/shuffled"]
FULL += ["rate/untuned", "rate/tuned", "rate/shuffled", "recalibrate", "agreement/all", "agreement/before"]


def run(config: StudyConfig, jobs: Any, only: tuple[str, ...] = (), redo: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run a study as the job does; returns its exit status and what it printed."""
    printed = io.StringIO()
    stages = build_stages(config)
    folders = {stage.name: f"{config.study}/{name_folder(stage.name)}" for stage in stages}
    checked = check_stages(stages, folders)
    call = StudyRun(Console(file=printed, width=200), config.study, config.model_dump(), checked)
    chosen = select_stages(stages, only, None)
    counted = {own.stage.name: own.counted for own in checked}
    refuse_changed(stages, plan_stages(stages, counted, call.records, call.find_evidence(), frozenset(redo)), chosen)
    return call.run(chosen, frozenset(redo), jobs), printed.getvalue()


def states(config: StudyConfig) -> dict[str, str]:
    return {row["stage"]: row["state"] for row in Folder(config.study).read_json("study.json")["stages"]}


def test_jobs_are_called_once_in_order_and_never_again(tmp_path: Path) -> None:
    config, jobs = make_config(tmp_path), FakeJobs()

    assert run(config, jobs)[0] == 0
    assert jobs.called == FULL
    assert set(states(config).values()) == {"complete"}
    manifest = Folder(config.study).read_json("manifest.json")
    assert manifest["job"] == "run_study"
    assert [row["stage"] for row in manifest["stages"]] == [stage.name for stage in build_stages(config)]

    again = FakeJobs()
    assert run(config, again)[0] == 0
    assert again.called == []


def test_a_failed_stage_stops_what_stands_on_it_and_nothing_else(tmp_path: Path) -> None:
    config, jobs = make_config(tmp_path), FakeJobs(fails={"train/tuned"})

    status, printed = run(config, jobs)

    assert status == 2
    found = states(config)
    assert found["train.tuned"] == "failed"
    assert {name for name, state in found.items() if state == "blocked"} == {"rate.tuned"}
    assert "failed: train.tuned: scripted fault" in printed
    assert not Folder(config.study).exists("manifest.json")
    raters = json.loads(
        (tmp_path / "study/configs/agreement.all.toml").read_text().split("raters = ")[1].split("\n")[0]
    )
    assert [name.rpartition("/study/")[2] for name in raters] == ["rate/untuned", "rate/shuffled", "recalibrate"]

    # The next call tries the failed one, does what stood on it, and measures agreement with the rater that joined.
    mended = FakeJobs()
    assert run(config, mended)[0] == 0
    assert mended.called == ["train/tuned", "rate/tuned", "agreement/all", "agreement/before"]


def test_agreement_waits_for_a_rater(tmp_path: Path) -> None:
    config = make_config(tmp_path, infer=None, train=None)

    status, printed = run(config, FakeJobs(fails={"rate/untuned"}))

    assert status == 2
    assert states(config) == {"prepare": "complete", "rate.untuned": "failed"} | dict.fromkeys(
        ("agreement.all", "table"), "blocked"
    )
    assert "agreement.all: blocked, needs one of rate.untuned" in printed


def test_a_fault_that_nobody_foresaw_is_written_down_and_others_go_on(tmp_path: Path) -> None:
    config, jobs = make_config(tmp_path), FakeJobs()

    def break_(name: str) -> None:
        if name == "rate/shuffled":
            raise ZeroDivisionError("scripted")

    jobs.before = break_
    assert run(config, jobs)[0] == 2
    record = read_records(Folder(config.study))["rate.shuffled"]
    assert (record.state, record.why) == ("failed", "ZeroDivisionError: scripted")
    assert "agreement/all" in jobs.called


def test_an_error_with_brackets_is_told_whole_and_the_study_goes_on_after_it(tmp_path: Path) -> None:
    # Rich takes [model] for a style and [/INST] for the end of one, which ended every later call.
    config, jobs = make_config(tmp_path), FakeJobs()
    why = "x [model] [/INST]"

    def break_(name: str) -> None:
        if name == "infer":
            raise UserError(why)

    jobs.before = break_
    assert run(config, jobs)[0] == 2

    status, printed = run(config, rest := FakeJobs())
    assert status == 0
    assert rest.called[0] == "infer"
    assert f"infer: goes on (it failed: {why})" in printed


def test_a_budget_that_ends_a_stage_ends_the_study_with_3_and_the_same_command_goes_on(tmp_path: Path) -> None:
    config, jobs = make_config(tmp_path), FakeJobs()

    def end_early(kind: Any, arguments: list[str]) -> int:
        return STOPPED_EARLY_STATUS if kind.job == "infer_traces" else jobs(kind, arguments)

    assert run(config, end_early)[0] == STOPPED_EARLY_STATUS
    assert states(config)["infer"] == "stopped"
    assert jobs.called == ["prepare", "rate/untuned", "recalibrate", "agreement/all", "agreement/before"]
    rest = FakeJobs()
    assert run(config, rest)[0] == 0
    assert rest.called[:2] == ["infer", "train/tuned"]


def test_an_error_that_can_be_gone_on_from_ends_the_study_with_3(tmp_path: Path) -> None:
    config, jobs = make_config(tmp_path), FakeJobs()

    def stay_away(name: str) -> None:
        if name == "infer":
            error = UserError("the store stays away")
            error.exit_status = STOPPED_EARLY_STATUS
            raise error

    jobs.before = stay_away
    assert run(config, jobs)[0] == STOPPED_EARLY_STATUS
    record = read_records(Folder(config.study))["infer"]
    assert (record.state, record.why) == ("stopped", "the store stays away")


def test_a_signal_that_a_job_took_for_itself_ends_the_study_too(tmp_path: Path) -> None:
    config, jobs = make_config(tmp_path), FakeJobs()

    def take_signal(kind: Any, arguments: list[str]) -> int:
        if kind.job != "infer_traces":
            return jobs(kind, arguments)
        Folder(f"{config.study}/infer").write_json("drivers/state-00000.json", {"state": "SIGTERM received"})
        return STOPPED_EARLY_STATUS

    assert run(config, take_signal)[0] == STOPPED_EARLY_STATUS
    assert jobs.called == ["prepare"]


def test_an_interrupt_ends_the_study_at_once_and_says_where(tmp_path: Path) -> None:
    config, jobs = make_config(tmp_path), FakeJobs()

    def interrupt(name: str) -> None:
        if name == "train/tuned":
            raise KeyboardInterrupt

    jobs.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(config, jobs)
    assert states(config)["train.tuned"] == "stopped"
    assert jobs.called[-1] == "train/tuned"


def test_only_takes_what_is_there_and_says_what_it_lacks(tmp_path: Path) -> None:
    config, jobs = make_config(tmp_path), FakeJobs()

    assert run(config, jobs, only=("prepare", "rate.untuned"))[0] == 0
    assert jobs.called == ["prepare", "rate/untuned"]
    status, printed = run(config, jobs, only=("rate.tuned",))
    assert status == STOPPED_EARLY_STATUS
    assert "rate.tuned: blocked, needs train.tuned" in printed


def test_redo_writes_into_a_fresh_folder_and_what_stands_on_it_follows(tmp_path: Path) -> None:
    config, jobs = make_config(tmp_path), FakeJobs()
    run(config, jobs)
    changed = make_config(tmp_path, train={"controls": ["shuffled", "recalibrated"], "shuffled": {"lora": {"r": 8}}})
    before = (tmp_path / "study/train/shuffled/manifest.json").read_bytes()

    again = FakeJobs()
    assert run(changed, again, redo=("train.shuffled",))[0] == 0

    assert again.called == ["train/shuffled.2", "rate/shuffled.2", "agreement/all"]
    assert (tmp_path / "study/train/shuffled/manifest.json").read_bytes() == before
    assert "rate/shuffled.2" in (tmp_path / "study/configs/agreement.all.toml").read_text()
    assert run(changed, FakeJobs())[0] == 0


def test_a_grown_corpus_is_gone_on_with(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    run(config, FakeJobs())
    (tmp_path / "source/more.csv").write_text("id,text,label\nnew,new,1\n")
    grown = make_config(
        tmp_path, source={"paths": [str(tmp_path / "source/words.csv"), str(tmp_path / "source/more.csv")]}
    )

    jobs = FakeJobs()
    assert run(grown, jobs)[0] == 0

    assert jobs.called[:3] == ["prepare", "infer", "train/tuned.2"]
    assert "rate/untuned" in jobs.called


def test_a_guideline_that_stayed_the_same_is_not_rated_with_again(tmp_path: Path) -> None:
    class Refines(FakeJobs):
        def __call__(self, kind: Any, arguments: list[str]) -> int:
            status = super().__call__(kind, arguments)
            if kind.job == "refine_guideline":
                text = (tmp_path / "study/prepare/guideline.md").read_text()
                (tmp_path / "study" / self.called[-1] / "guideline.md").write_text(text + self.more)
            return status

    jobs = Refines()
    jobs.more = ""
    config = make_config(tmp_path, refine={})
    assert run(config, jobs)[0] == 0
    found = states(config)
    assert {name for name, state in found.items() if state == "not needed"} == {
        "rate.untuned.refined",
        "rate.tuned.refined",
    }

    improved = Refines()
    improved.more = "Think of the whole text.\n"
    assert run(config, improved, redo=("refine",))[0] == 0
    assert set(states(config).values()) == {"complete"}
    assert improved.called[0] == "refine.2"
    assert {"rate/untuned.refined", "rate/tuned.refined", "agreement/all"} < {
        n.removesuffix(".2") for n in improved.called
    }


def test_agreement_table_and_report_forget_a_refined_guideline_that_refining_again_takes_back(tmp_path: Path) -> None:
    class Refines(FakeJobs):
        more = b""

        def _leave_refine_guideline(self, folder: Folder, config: dict[str, Any]) -> None:  # type: ignore[override]
            super()._leave_refine_guideline(folder, config)
            folder.write_atomic("guideline.md", folder.read_bytes("guideline.md") + self.more)

    config, improved = make_config(tmp_path, refine={}, report={}), Refines()
    improved.more = b"Think of the whole text.\n"
    assert run(config, improved)[0] == 0
    assert set(states(config).values()) == {"complete"}
    assert "rate/tuned.refined" in (tmp_path / "study/configs/agreement.all.toml").read_text()

    assert run(config, again := Refines(), redo=("refine",))[0] == 0

    assert again.called == ["refine.2", "agreement/all", "report"]
    found = read_records(Folder(config.study))
    refined = {"rate.untuned.refined", "rate.tuned.refined"}
    assert {name for name, record in found.items() if record.state == "not needed"} == refined
    for name in ("agreement.all", "table", "report"):
        assert not refined & set(found[name].inputs)
    for name in ("agreement.all", "report"):
        # The report's comparisons name raters that may be missing; no folder is.
        assert ".refined" not in (tmp_path / f"study/configs/{name}.toml").read_text()
    assert run(config, last := Refines())[0] == 0
    assert last.called == []


def test_a_pilot_is_complete_only_where_its_whole_limit_is_decided(tmp_path: Path) -> None:
    # Jobs may be told to call an early end no failure, so that a status of 0 says nothing.
    config = make_config(tmp_path, infer={"limit": 8, "limits": {"early_status": 0}})

    assert run(config, FakeJobs(leaves={"infer": 3}))[0] == STOPPED_EARLY_STATUS
    assert states(config)["infer"] == "stopped"
    assert states(config)["train.tuned"] == "blocked"

    rest = FakeJobs()
    assert run(config, rest)[0] == 0
    assert rest.called[0] == "infer"
    again = FakeJobs()
    assert run(config, again)[0] == 0
    assert again.called == []


@pytest.mark.parametrize("status", [0, 75])
def test_an_end_without_a_manifest_is_an_early_one_whatever_status_it_was_given(tmp_path: Path, status: int) -> None:
    config, jobs = make_config(tmp_path), FakeJobs()

    def end_early(kind: Any, arguments: list[str]) -> int:
        return status if kind.job == "infer_traces" else jobs(kind, arguments)

    assert run(config, end_early)[0] == STOPPED_EARLY_STATUS
    assert states(config)["infer"] == "stopped"
    rest = FakeJobs()
    assert run(config, rest)[0] == 0
    assert rest.called[0] == "infer"


def test_other_rules_of_refinement_go_on_in_its_folder_and_so_do_the_ratings_by_the_same_guideline(
    tmp_path: Path,
) -> None:
    class Improves(FakeJobs):
        @staticmethod
        def _leave_refine_guideline(folder: Folder, config: dict[str, Any]) -> None:
            FakeJobs._leave_refine_guideline(folder, config)
            folder.write_atomic("guideline.md", b"Think of the whole text.\n")

    assert run(make_config(tmp_path, refine={}), Improves())[0] == 0

    stricter, jobs = make_config(tmp_path, refine={"confirm": {"level": 0.9}}), Improves()
    assert run(stricter, jobs)[0] == 0
    # Rated units are not asked again in a folder that stays.
    assert jobs.called == ["refine", "rate/untuned.refined", "rate/tuned.refined"]
    assert run(stricter, jobs := Improves())[0] == 0
    assert jobs.called == []


def test_rows_that_must_not_mix_are_refused_with_the_studys_own_remedy(tmp_path: Path) -> None:
    def hold(folder: str) -> None:
        if folder == "infer":
            RunFolder(Folder(f"{config.study}/infer")).check_contract({"seed": 1})

    config, jobs = make_config(tmp_path), FakeJobs()
    Folder(f"{config.study}/infer").write_json("contract.json", {"seed": 0})
    jobs.before = hold

    status, printed = run(config, jobs)

    assert status == 2
    assert "seed: was 0, is now 1" in printed
    assert "--redo infer" in printed


def test_a_second_driver_fences_the_first(tmp_path: Path) -> None:
    config, jobs = make_config(tmp_path), FakeJobs()

    def replace_driver(name: str) -> None:
        if name == "infer":
            RunFolder(Folder(config.study)).claim(0.0)

    jobs.before = replace_driver
    with pytest.raises(FencedError):
        run(config, jobs)
    assert jobs.called == ["prepare", "infer"]


class RefinesTo(FakeJobs):
    """Refines to a given guideline; ratings have the contract that rate_items would write, as far as it matters."""

    text = b""

    def _leave_refine_guideline(self, folder: Folder, config: dict[str, Any]) -> None:  # type: ignore[override]
        super()._leave_refine_guideline(folder, config)
        folder.write_atomic("guideline.md", self.text)

    def _leave_rate_items(self, folder: Folder, config: dict[str, Any]) -> None:
        self._leave_run(folder, config)
        contract = folder.read_json("contract.json")
        if "guideline" in config:
            name, _, file = config["guideline"].rpartition("/")
            contract["guideline"] = hash_text(Folder(name).read_bytes(file).decode())
        folder.write_json("contract.json", contract)


def refine_to(tmp_path: Path, text: bytes, max_chars: int, redo: tuple[str, ...] = ()) -> tuple[RefinesTo, str, str]:
    """Run a study whose refinement comes to a text; returns the jobs, its table and its report's config."""
    config, jobs = make_config(tmp_path, refine={"lint": {"max_chars": max_chars}}, report={}), RefinesTo()
    jobs.text = text
    assert run(config, jobs, redo=redo)[0] == 0
    study = tmp_path / "study"
    return jobs, (study / "table/table.md").read_text(), (study / "configs/report.toml").read_text()


def test_a_test_split_that_was_rated_by_several_refined_guidelines_is_said_to_be(tmp_path: Path) -> None:
    """Other rules of refinement could be tried until the figures of the test split looked well, without a word."""
    told = "The test split has been rated by {} refined guidelines in this study"
    _, *texts = refine_to(tmp_path, b"Think.\n", 5_000)
    assert not any("has been rated by" in text for text in texts)

    # The same guideline once more is no other look.
    _, *texts = refine_to(tmp_path, b"Think.\n", 5_000, redo=("rate.untuned.refined",))
    assert not any("has been rated by" in text for text in texts)

    for number, max_chars in ((2, 6_000), (3, 7_000)):
        jobs, *texts = refine_to(tmp_path, b"Think %d times.\n" % number, max_chars)
        assert f"rate/tuned.refined.{number}" in jobs.called
        assert all(told.format(number) in text for text in texts)


def test_ratings_of_another_split_or_dimension_are_no_look_at_the_test_split(tmp_path: Path) -> None:
    study, stage = Folder(str(tmp_path)), "rate.untuned.refined"
    contracts = [
        {"splits": ["validation"], "guideline": "a"},
        {"splits": ["test"], "guideline": "b", "dimensions": ["plot"]},
        {"splits": ["test"], "guideline": "c", "dimensions": ["tone"]},
        {"splits": [], "guideline": "d", "dimensions": ["tone"]},
    ]
    for number, contract in enumerate(contracts, 1):
        (study / name_folder(stage, number)).write_json("contract.json", contract)

    assert count_guidelines(study, {stage: Record("complete", name_folder(stage, 4))}) == 2
    assert count_guidelines(study, {stage: Record("complete", name_folder(stage, 3))}) == 1
    assert count_guidelines(study, {"rate.untuned": Record("complete", "rate/untuned")}) == 0


def test_a_verification_that_ended_by_other_rules_of_stripping_is_refused_and_not_taken_for_one_by_these(
    tmp_path: Path,
) -> None:
    config, study = make_config(tmp_path, verify={}), Folder(str(tmp_path / "study"))
    assert run(config, FakeJobs())[0] == 0
    document = study.read_json("study.json")
    (verify,) = (row for row in document["stages"] if row["stage"] == "verify")
    assert verify["counted"]["stripping.version"] == RULES_VERSION
    verify["counted"]["stripping.version"] = RULES_VERSION - 1
    study.write_json("study.json", document)

    with pytest.raises(UserError, match=f"verify: stripping.version: was {RULES_VERSION - 1}, is now {RULES_VERSION}"):
        run(config, FakeJobs())
    assert run(config, jobs := FakeJobs(), redo=("verify",))[0] == 0
    assert jobs.called[:2] == ["verify.2", "train/tuned.2"]
