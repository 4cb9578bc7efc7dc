"""The report's section of verification: one run or several."""

from pathlib import Path

from judgetrace.accounting import Tally
from judgetrace.reporting.blocks import Heading, Prose
from judgetrace.reporting.config import RenderReportConfig
from judgetrace.reporting.discovery import find_runs
from judgetrace.reporting.verification_section import VerificationRun, make_verification
from judgetrace.storage import Folder


def make_run(name: str, is_simulated: bool = False) -> VerificationRun:
    about = {"config": {"model": {"path": "second/model"}, "traces": f"runs/{name}"}, "state": "complete"}
    return VerificationRun(name, about, Tally(), is_simulated)


def test_each_run_of_several_has_a_heading_and_a_single_one_needs_none() -> None:
    one = make_verification([make_run("plain")])
    two = make_verification([make_run("plain"), make_run("hinted", is_simulated=True)])

    assert not [block for block in one.blocks if isinstance(block, Heading)]
    assert [block.text for block in two.blocks if isinstance(block, Heading)] == ["plain", "hinted"]
    said = [block.text for block in two.blocks if isinstance(block, Prose)]
    assert "Second model: second/model; traces: runs/hinted." in said
    assert (one.is_simulated, two.is_simulated) == (False, True)


def test_the_config_takes_one_run_or_a_list_and_a_study_names_all_of_its(tmp_path: Path) -> None:
    assert RenderReportConfig(output="x", verification="a").verification == ("a",)
    for name in ("hinted", "plain"):
        (Folder(str(tmp_path)) / f"verify/{name}").write_json("manifest.json", {"job": "verify_traces"})
    assert find_runs(Folder(str(tmp_path))) == {
        "verification": [f"{tmp_path}/verify/hinted", f"{tmp_path}/verify/plain"]
    }
