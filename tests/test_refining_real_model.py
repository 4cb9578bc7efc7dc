"""Candidates written by the embedded model and the real embedder, on Ray: what they say is not worth reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from judgetrace.embedded import find_model_file, prepare_model
from judgetrace.guideline import Guideline
from judgetrace.limits import LimitsConfig
from judgetrace.refining.candidate_config import (
    CandidatesConfig,
    ClusterConfig,
    EmbeddingConfig,
    GeneratorConfig,
    SelectionConfig,
)
from judgetrace.refining.candidate_run import EMBEDDER, GENERATOR, CandidateSections, CandidateTask, make_candidates
from judgetrace.refining.driver_watch import DriverWatch
from judgetrace.refining.lint import LintConfig
from judgetrace.run_folder import RunFolder
from judgetrace.scale import Scale
from judgetrace.storage import Folder
from tests.refine_tables import make_levels, write_trace_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[1]
GUIDELINE = "Rate how good the thing is that a word names: 1 is bad, 2 is neither, 3 is good."


def make_sections(**generator: Any) -> CandidateSections:
    return CandidateSections(
        SelectionConfig(instructions_per_level=3, rubric_per_level=2),
        GeneratorConfig(**generator),
        CandidatesConfig(
            seeds=(0,), answer_tries=2, max_critiques=3, clusters=ClusterConfig(max_clusters=3, nearest=1)
        ),
        EmbeddingConfig(),
        LintConfig(),
    )


def start_watch(run: Folder) -> DriverWatch:
    folder = RunFolder(run)
    return DriverWatch(folder, folder.claim(0.0), LimitsConfig(), {GENERATOR: None, EMBEDDER: None})


def test_the_embedded_model_writes_candidates_in_a_context_of_512_tokens_and_a_restart_asks_nothing(
    tmp_path, ray_session
):
    model = ROOT / ".cache/judgetrace/smollm2-135m"
    prepare_model(find_model_file(), model)
    traces = write_trace_run(str(tmp_path / "traces-run"), [make_levels(12)])
    task = CandidateTask(Guideline(GUIDELINE), "", (), Scale(values=("1", "2", "3")), (traces,))
    sections = make_sections(
        model={"path": str(model)},
        engine={
            "num_cpus": 0.5,
            "slots": 16,
            "args": {"max_model_len": 512},
            "env": {"VLLM_CPU_KVCACHE_SPACE": "1"},
        },
        critique_tokens=48,
        guideline_tokens=96,
        open_tag=True,
    )
    run = Folder(str(tmp_path / "run"))
    watch = start_watch(run)

    made = make_candidates(task, sections, run, watch, wait_s=300, commit_every_s=5, drain_s=20)
    candidates, critiques = made.candidates, made.critiques

    assert [c.name for c in candidates] == ["original", "instructions-0", "rubric-0", "both-0"]
    assert candidates[0].text == GUIDELINE
    for candidate in candidates[1:]:
        print(f"--- {candidate.name}: {candidate.problems} {candidate.error}\n{candidate.text}")
        assert candidate.error is not None or candidate.text
    rows = critiques.to_pylist()
    print(
        *(f"{row['level']} {row['cluster']} {row['distance']:.2f} {row['used']} {row['critique']}" for row in rows),
        sep="\n",
    )
    assert rows
    assert {row["level"] for row in rows} <= {"1", "2", "3"}
    assert any(row["used"] for row in rows)
    kinds = {row["kind"] for row in read_rows(run / "calls")}
    assert {"critiques", "instructions"} <= kinds
    assert all(row["outcome"] in {"answered", "truncated"} for row in read_rows(run / "calls"))
    assert watch.total.num_draws == len(read_rows(run / "calls"))
    assert watch.total.output_tokens > 0

    again = start_watch(run)
    assert (
        make_candidates(task, sections, run, again, wait_s=300, commit_every_s=5, drain_s=20).candidates == candidates
    )
    assert again.total.num_draws == 0


def read_rows(folder: Folder) -> list[dict[str, Any]]:
    return [row for name in folder.list_files(".parquet") for row in folder.read_table(name).to_pylist()]
