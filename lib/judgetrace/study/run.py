"""Runs the stages of a study in order: what is done is skipped, what fails leaves the others usable.

A job is called in this process, so that all share one Ray. Knows the jobs by their `main` alone.
"""

from __future__ import annotations

import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from judgetrace.config import STOPPED_EARLY_STATUS, UserError
from judgetrace.console import print_place
from judgetrace.products import PRODUCTS
from judgetrace.run_folder import ContractError, Fence, RunFolder
from judgetrace.run_report import count_left
from judgetrace.stop_signals import RECEIVED
from judgetrace.storage import Folder, encode_json
from judgetrace.study.kinds import KINDS, Kind
from judgetrace.study.outputs import identify_output
from judgetrace.study.planning import Verdict, find_needless, judge
from judgetrace.study.records import (
    FILE,
    Record,
    describe_study,
    mend_record,
    name_folder,
    name_next_folder,
    read_records,
)
from judgetrace.study.repeats import list_repeats
from judgetrace.study.resolving import CheckedStage, resolve_stage
from judgetrace.study.sections import write_toml
from judgetrace.study.showing import print_headline
from judgetrace.study.stages import Stage
from judgetrace.study.table_stage import write_table_stage
from judgetrace.versions import list_versions

FAILED_STATUS = 2
JOB = "run_study"
KEEPS_NOTHING = "the refined guideline is the original one"
CallJob = Callable[[Kind, list[str]], int]
"""Calls a kind's job with the arguments of its command line; returns its exit status."""


class StudyRun:
    """One call of run_study, after all configs were checked."""

    def __init__(self, console: Console, study: str, config: Mapping[str, Any], checked: list[CheckedStage]):
        self._console, self._study, self._config = console, Folder(study), config
        self._stages = [own.stage for own in checked]
        self._counted = {own.stage.name: own.counted for own in checked}
        self.records = {name: mend_record(record) for name, record in read_records(self._study).items()}
        self._driver = -1
        self._fence: Fence | None = None

    @property
    def url(self) -> str:
        """The study's folder."""
        return self._study.url

    @property
    def stages(self) -> list[Stage]:
        """The study's stages."""
        return self._stages

    def find_evidence(self) -> dict[str, bool]:
        """Look whether complete stages still have the file that says so."""
        found = {}
        for stage in self._stages:
            record = self.records.get(stage.name)
            if record is not None and record.state == "complete":
                found[stage.name] = self._has_evidence(stage, record)
        return found

    def _has_evidence(self, stage: Stage, record: Record) -> bool:
        kind = KINDS[stage.kind]
        folder = self._study / record.folder
        is_pilot = kind.product is not None and record.counted.get("limit") is not None
        return folder.exists("contract.json" if is_pilot else kind.done)

    def run(self, chosen: frozenset[str], redo: frozenset[str], call: CallJob) -> int:
        """Run the chosen stages that are not done; returns the exit status: 0, 2 some failed, 3 some ended early."""
        folder = RunFolder(self._study)
        folder.check_store()
        self._driver = folder.claim(time.time(), {"job": JOB, "config": dict(self._config)})
        self._fence = Fence(folder, self._driver, every_s=0.0)
        self._save("running")
        try:
            with _interrupt_on_sigterm():
                for stage in self._stages:
                    if stage.name in chosen and not self._run_stage(stage, stage.name in redo, call):
                        break
        except BaseException as error:
            self._save(f"stopped: {type(error).__name__}")
            raise
        return self._end(chosen)

    def _run_stage(self, stage: Stage, redo: bool, call: CallJob) -> bool:
        """Run a stage unless it is done or blocked; returns False where the study was told to stop."""
        outputs = self._read_outputs()
        lacking = [name for name in stage.needs if outputs.get(name) is None]
        if stage.kind == "agreement" and not any(outputs.get(name) for name in stage.takes):
            lacking.append(f"one of {', '.join(stage.takes)}")
        needless = self._find_needless(stage)
        if lacking and not needless:
            self._note_blocked(stage, lacking)
            return True
        record = self.records.get(stage.name)
        evidence = record is None or record.state != "complete" or self._has_evidence(stage, record)
        verdict = judge(
            stage,
            self._counted[stage.name],
            record,
            outputs,
            has_evidence=evidence,
            redo=redo,
            needless=find_needless(self.records),
        )
        if verdict.what == "changed":
            # It was to be done again because of its inputs, which came out the same.
            verdict = Verdict("redo", name_next_folder(stage.name, verdict.folder), verdict.why)
        inputs = {name: dict(output) for name in stage.inputs if (output := outputs.get(name)) is not None}
        fresh = Record("running", verdict.folder, counted=self._counted[stage.name], inputs=inputs)
        if needless:
            self._set(stage, replace(fresh, state="not needed", why=needless))
            self._console.print(f"[bold]{escape(stage.name)}[/]: not needed, {needless}")
        elif verdict.is_done:
            self._console.print(f"[bold]{escape(stage.name)}[/]: done before")
        else:
            return self._call(stage, verdict, fresh, call)
        return True

    def _read_outputs(self) -> dict[str, dict[str, str] | None]:
        return {name: record.output if record.state == "complete" else None for name, record in self.records.items()}

    def _note_blocked(self, stage: Stage, lacking: list[str]) -> None:
        why = f"needs {', '.join(lacking)}"
        record = self.records.get(stage.name, Record(folder=name_folder(stage.name)))
        if record.state != "complete":
            self._set(stage, replace(record, state="blocked", why=why))
        self._console.print(f"[bold]{escape(stage.name)}[/]: blocked, {escape(why)}", soft_wrap=True)

    def _find_needless(self, stage: Stage) -> str | None:
        """Say why a stage need not run: a guideline that stayed the same was rated with already."""
        if stage.about.get("guideline") == "refined" and "refine" in stage.needs:
            refine, prepare = self.records.get("refine", Record()), self.records.get("prepare", Record())
            if refine.state == prepare.state == "complete":
                texts = [self._study / record.folder for record in (refine, prepare)]
                if texts[0].read_bytes("guideline.md").strip() == texts[1].read_bytes("guideline.md").strip():
                    return KEEPS_NOTHING
        return None

    def _call(self, stage: Stage, verdict: Verdict, record: Record, call: CallJob) -> bool:
        why = f" ({verdict.why})" if verdict.why else ""
        self._console.rule(Text(f"{stage.name}: {verdict.what}{why}"), align="left")
        self._set(stage, record)
        started = time.monotonic()
        try:
            status = self._call_job(stage, call)
            ended = self._describe_end(stage, record, status)
        except (KeyboardInterrupt, SystemExit) as error:
            self._set(stage, replace(record, state="stopped", why=type(error).__name__))
            raise
        except Exception as error:  # noqa: BLE001 - written into the record and the exit status: others can go on
            if not isinstance(error, UserError):
                traceback.print_exc()
            why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if isinstance(error, ContractError):
                why += f"\nIn a study --redo {stage.name} does the stage again, in a fresh folder."
            early = isinstance(error, UserError) and error.exit_status == STOPPED_EARLY_STATUS
            ended = replace(record, state="stopped" if early else "failed", why=why[:2000])
        ended = replace(ended, seconds=round(time.monotonic() - started, 1))
        self._set(stage, ended)
        self._console.print(f"{stage.name}: {ended.state}, {ended.seconds:.0f} s", style="bold", markup=False)
        if ended.why:
            self._console.print(ended.why, soft_wrap=True, markup=False)
        return not (ended.state == "stopped" and str(ended.why).partition("\n")[0].endswith(RECEIVED))

    def _call_job(self, stage: Stage, call: CallJob) -> int:
        folders = self.find_folders()
        kind = KINDS[stage.kind]
        if stage.kind == "table":
            output = Folder(folders[stage.name])
            print_headline(self._console, *write_table_stage(self._study, self._stages, self.records, output))
            return 0
        values = resolve_stage(stage, folders).values
        if stage.kind == "report":
            repeats = list_repeats(self._study, self.records)
            values["remarks"] = [*values.get("remarks", []), *repeats]
        text = write_toml(values)
        self._study.write_atomic(f"configs/{stage.name}.toml", text.encode())
        with tempfile.TemporaryDirectory(prefix="judgetrace-study-") as scratch:
            file = Path(scratch) / f"{stage.name}.toml"
            file.write_text(text, encoding="utf-8")
            return call(kind, [str(file)])

    def find_folders(self) -> dict[str, str]:
        """Find the URL of each stage's folder that can be read or is being written."""
        found = {name: r.folder for name, r in self.records.items() if r.state in ("complete", "running")}
        return {name: (self._study / folder).url for name, folder in found.items()}

    def _describe_end(self, stage: Stage, record: Record, status: int) -> Record:
        if status == STOPPED_EARLY_STATUS or self._is_undecided(stage, record):
            return replace(record, state="stopped", why=self._find_reason(record))
        if status:
            return replace(record, state="failed", why=f"its job ended with status {status}")
        if not self._has_evidence(stage, record):
            return replace(record, state="failed", why=f"its job ended well, but left no {KINDS[stage.kind].done}")
        output = identify_output(stage.kind, record.folder, self._study / record.folder)
        return replace(record, state="complete", output=output.to_json())

    def _is_undecided(self, stage: Stage, record: Record) -> bool:
        """Whether a job that asks units left some undecided, whatever status it gives that (limits.early_status)."""
        kind, run = KINDS[stage.kind], RunFolder(self._study / record.folder)
        if kind.product is None or "limit" not in kind.grows or run.has_manifest():
            return False
        if record.counted.get("limit") is None:
            return True
        # A pilot writes no manifest.
        corpus = self._study / self.records["prepare"].folder
        return count_left(run, corpus, PRODUCTS[kind.product]) > 0

    def _find_reason(self, record: Record) -> str:
        states = RunFolder(self._study / record.folder).read_states()
        reason = str(states[max(states)].get("state", "")) if states else ""
        return "some units failed; the same command tries them again" if reason in ("", "complete") else reason

    def _set(self, stage: Stage, record: Record) -> None:
        self.records[stage.name] = record
        self._save("running")

    def _save(self, state: str) -> None:
        """Write study.json. Raises FencedError where a newer driver has taken over."""
        assert self._fence is not None
        self._fence.check()
        self._study.write_json(FILE, describe_study(self._config, self._stages, self.records))
        RunFolder(self._study).write_state(self._driver, {"state": state, "at": time.time()})

    def _end(self, chosen: frozenset[str]) -> int:
        """Say how the chosen stages ended, and write the manifest where all stages are complete."""
        states = {stage.name: self.records.get(stage.name, Record()).state for stage in self._stages}
        complete = all(state in ("complete", "not needed") for state in states.values())
        self._save("complete" if complete else "stopped: some stages are not complete")
        if complete:
            document = describe_study(self._config, self._stages, self.records)
            manifest = {"job": JOB, **document, "at": time.time(), "versions": list_versions()}
            self._study.write_atomic("manifest.json", encode_json(manifest))
        else:
            self._study.delete(["manifest.json"])
        ends = {name: state for name, state in states.items() if name in chosen}
        bad = [name for name, state in ends.items() if state == "failed"]
        early = [name for name, state in ends.items() if state in ("stopped", "blocked", "to do")]
        for name in (*bad, *early):
            why = self.records.get(name, Record()).why or "not reached"
            self._console.print(f"{states[name]}: {name}: {why}", soft_wrap=True, markup=False)
        self._name_report()
        if bad or early:
            self._console.print("Run the command again, without --redo: what is complete is skipped, the rest goes on.")
        return FAILED_STATUS if bad else STOPPED_EARLY_STATUS if early else 0

    def _name_report(self) -> None:
        """Say where the report is, which is what a person wants to see."""
        for stage in self._stages:
            record = self.records.get(stage.name)
            if stage.kind == "report" and record is not None and record.state == "complete":
                file = f"{self.url}/{record.folder}/{KINDS[stage.kind].done}"
                print_place(self._console, "Report", file)


@contextmanager
def _interrupt_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end a stage as Ctrl-C does, where its job does not take it itself."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        earlier = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        # Not in the main thread.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
