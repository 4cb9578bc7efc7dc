"""What decide_again refuses before it needs a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import decide_again
from judgetrace.config import UserError
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder
from judgetrace.traces import check_trace_corpus


def test_draws_that_were_told_their_labels_are_not_judged_by_those_of_another_corpus(tmp_path: Path) -> None:
    about = {"product": "traces", "corpus": "corpora/x", "config": {"hint": {"enabled": True}}}
    RunFolder(Folder(str(tmp_path / "run"))).claim(0.0, about)
    config = tmp_path / "again.toml"
    config.write_text(f'run = "{tmp_path}/run"\noutput = "{tmp_path}/again"\ncorpus = "corpora/y"\n')
    with pytest.raises(UserError, match=r"were told the labels of its own corpus(.|\n)*leave `corpus` out"):
        decide_again.main([str(config)])


def test_an_output_is_emptied_of_an_earlier_call_and_names_its_corpus(tmp_path: Path) -> None:
    output = Folder(str(tmp_path / "again"))
    decide_again.begin_output(output, "one")
    output.write_json("manifest.json", {"job": "decide_again"})
    output.write_atomic("traces/shard-00007.parquet", b"of the first call")
    decide_again.begin_output(output, "other")
    assert output.list_files(recursive=True) == ["contract.json"]
    check_trace_corpus("traces", [output.url], "other")
    with pytest.raises(UserError, match="traces"):
        check_trace_corpus("traces", [output.url], "one")


@pytest.mark.parametrize("name", ["manifest.json", "contract.json", "drivers/driver-00000.json"])
def test_a_folder_of_another_job_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    output = Folder(str(tmp_path / "run"))
    output.write_json(name, {"job": "infer_traces"})
    with pytest.raises(UserError, match="of another job"):
        decide_again.begin_output(output, "one")
    assert output.list_files(recursive=True) == [name]
