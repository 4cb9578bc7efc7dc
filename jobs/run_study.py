"""A labelled corpus -> traces, raters, a refined guideline, agreement, a report: the jobs in order over one folder.

python -m jobs.run_study STUDY.toml [--section.key=value ...] [--only STAGES] [--from STAGE] [--redo STAGES] [--dry-run]

A stage is skipped when it is complete and neither its config nor what it reads has changed. All stages' configs are
checked before anything starts. Run the same command again after any end.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from judgetrace.config import UserError, run_job
from judgetrace.console import open_console
from judgetrace.session import RayConfig, connect_ray
from judgetrace.storage import Folder
from judgetrace.study.config import StudyConfig, load_study
from judgetrace.study.dry_run import print_dry_runs
from judgetrace.study.kinds import KINDS, Kind, import_job
from judgetrace.study.planning import expand_name, plan_stages, refuse_changed, select_stages
from judgetrace.study.records import name_folder, read_records
from judgetrace.study.resolving import check_stages
from judgetrace.study.run import StudyRun
from judgetrace.study.showing import print_plan
from judgetrace.study.stages import build_stages


def main(arguments: list[str]) -> int:
    """Run the study; returns its exit status: 0 complete, 2 unusable input or a failed stage, 3 can be continued."""
    options, overrides = make_parser().parse_known_args(arguments)
    study = load_study(Path(options.study), overrides)
    console = open_console()
    stages = build_stages(study)
    records = read_records(Folder(study.study))
    folders = {stage.name: f"{study.study}/{name_folder(stage.name)}" for stage in stages}
    folders |= {name: f"{study.study}/{record.folder}" for name, record in records.items() if record.folder}
    checked = check_stages(stages, folders)
    run = StudyRun(console, study.study, study.model_dump(mode="json", exclude_defaults=True), checked)
    chosen = select_stages(stages, options.only, options.start)
    redo = frozenset(name for pattern in options.redo for name in expand_name(stages, pattern))
    if not redo <= chosen:
        raise UserError(f"--redo {','.join(sorted(redo - chosen))}: is left out by --only or --from")
    counted = {own.stage.name: own.counted for own in checked}
    verdicts = plan_stages(stages, counted, run.records, run.find_evidence(), redo)
    print_plan(console, stages, verdicts, chosen)
    if options.dry_run:
        print_dry_runs(console, run, stages, verdicts, call_job)
        return 0
    refuse_changed(stages, verdicts, chosen)
    with SharedRay(RayConfig.model_validate(study.cluster)) as ray:
        return run.run(chosen, redo, ray.call)


class SharedRay:
    """Starts Ray at the first job that is called, and anew after a job that failed: it may have died with it."""

    def __init__(self, config: RayConfig):
        self._config, self._stack, self._is_open = config, ExitStack(), False

    def __enter__(self) -> SharedRay:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def call(self, kind: Kind, arguments: list[str]) -> int:
        """Call a kind's job on the shared Ray."""
        if not self._is_open:
            self._stack.enter_context(connect_ray(self._config))
            self._is_open = True
        try:
            return call_job(kind, arguments)
        except UserError:
            raise
        except BaseException:
            self._stack.close()
            self._is_open = False
            raise


def call_job(kind: Kind, arguments: list[str]) -> int:
    """Call a kind's job in this process; returns its exit status."""
    return int(import_job(kind, "jobs").main(arguments))


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the study's own options; what it leaves are overrides of the config."""

    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    sections = "\n".join(f"  {name:<12} {field.description}" for name, field in StudyConfig.model_fields.items())
    parser = argparse.ArgumentParser(
        prog="python -m jobs.run_study",
        description=str(__doc__).split("\n")[0],
        epilog=f"sections of STUDY.toml (--section.key=value overrides them):\n{sections}\n\nA stage's own keys: "
        f"python -m jobs.NAME --help, with NAME of {', '.join(kind.job for kind in KINDS.values() if kind.job)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("study", help="the study's config, TOML")
    parser.add_argument("--only", type=names, default=[], metavar="STAGES", help="only these stages or kinds of stages")
    parser.add_argument("--from", dest="start", metavar="STAGE", help="only this stage or kind and those after it")
    parser.add_argument(
        "--redo",
        type=names,
        default=[],
        metavar="STAGES",
        help="do these again, and what stands on them, in fresh folders; the old ones stay",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, and end")
    return parser


if __name__ == "__main__":
    run_job(main)
