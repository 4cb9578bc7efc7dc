"""What a config of measure_agreement reads: the sources, their files, and the rules that come with a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from judgetrace.agreement.config import MeasureAgreementConfig, TableConfig
from judgetrace.agreement.intake import IntakeRules, Source
from judgetrace.agreement.rated_corpora import find_foreign_runs, read_asked_dimensions
from judgetrace.agreement.survey import Survey
from judgetrace.agreement.units import UnitRules
from judgetrace.config import UserError
from judgetrace.corpus import read_finished
from judgetrace.labels import TargetConfig, check_rule
from judgetrace.ledger import select_current
from judgetrace.scale import ScaleConfig
from judgetrace.sources import SourceConfig, SourceFile, SourcePart, list_source_files, open_parquet_file, plan_parts
from judgetrace.splits import SplitConfig
from judgetrace.storage import Folder, naming, parsing

MAX_COMPLETE_PANEL = 30
"""ICCs are of panels with at most so many raters, all of whom rated the unit."""


@dataclass(frozen=True)
class Inputs:
    """All that is known before a row is read."""

    sources: list[Source]
    files: list[tuple[int, SourceFile]]  # (index of the source, file)
    parts: list[tuple[int, SourcePart]]
    scales: ScaleConfig
    target: TargetConfig
    split_config: SplitConfig
    by_group: bool
    max_slice_values: int
    foreign_runs: tuple[str, ...] = ()  # of raters, over another corpus

    @property
    def rules(self) -> IntakeRules:
        """The rules of the intake; slices are those of any source."""
        names = {name for source in self.sources for name in (*dict(source.slices), *source.extra)}
        return IntakeRules(self.scales, tuple(sorted(names)), self.max_slice_values)


def find_inputs(config: MeasureAgreementConfig) -> Inputs:
    """Find all sources and read what is not a row. Raises UserError for what can't be used."""
    prepared = _read_prepared(config)
    has_groups = bool(prepared and prepared["columns"]["group"])
    over = config.intervals.over
    if over == "group" and not has_groups and not any(table.group for table in config.tables):
        raise UserError("intervals.over = group: neither the corpus nor a table has a group column; use item")
    by_group = over != "item" and (has_groups or any(table.group for table in config.tables))
    scales = config.scale or ScaleConfig.model_validate(prepared["scale"] if prepared else {})
    target = config.target or (TargetConfig.model_validate(prepared["target"]) if prepared else TargetConfig())
    try:
        check_rule(target, scales)
    except ValueError as error:
        raise UserError(f"target: {error}") from error
    sources, files = _find_sources(config, has_groups, by_group)
    _check_slices(config, sources)
    parts = []
    for index in range(len(sources)):
        own = plan_parts([file for number, file in files if number == index])
        faults = [f"{part.file.url}: {part.fault}" for part in own if part.fault]
        if faults:
            raise UserError(f"{len(faults)} file(s) are corrupt or no Parquet:\n  " + "\n  ".join(faults[:5]))
        parts += [(index, part) for part in own]
    split = SplitConfig.model_validate(prepared["split"]) if prepared else SplitConfig()
    foreign = find_foreign_runs(config.raters, config.corpus) if config.corpus is not None else []
    max_values = config.slices.max_values
    return Inputs(sources, files, parts, scales, target, split, by_group, max_values, tuple(foreign))


def _read_prepared(config: MeasureAgreementConfig) -> dict[str, Any] | None:
    """Read the config that the corpus was prepared with."""
    if config.corpus is None:
        return None
    prepared: dict[str, Any] = read_finished(Folder(config.corpus))[0]["config"]
    return prepared


def _find_sources(
    config: MeasureAgreementConfig, has_groups: bool, by_group: bool
) -> tuple[list[Source], list[tuple[int, SourceFile]]]:
    sources: list[Source] = []
    files: list[tuple[int, SourceFile]] = []

    def add(source: Source, found: Sequence[SourceFile]) -> None:
        files.extend((len(sources), file) for file in found)
        sources.append(source)

    if config.corpus is not None:
        annotations = _list_corpus_files(config.corpus, "annotations")
        if not annotations:
            raise UserError(
                f"corpus = {config.corpus}: it has no annotations; see its manifest for what became of them"
            )
        add(Source("corpus", "human"), annotations)
        facts = _describe_items(config, has_groups, by_group)
        if facts is not None:
            add(facts, [*_list_corpus_files(config.corpus, "items"), *_list_corpus_files(config.corpus, "dropped")])
    for run in config.raters:
        name = run.rstrip("/").rpartition("/")[2]
        # Not `target_source`: an item is rated once, also where each of its annotators makes a unit of it.
        asked = read_asked_dimensions(run)
        source = Source(name, "rater", who="rater_id", rating="rating", outcome="outcome", dimensions=asked)
        add(source, _list_run_files(run))
    for number, table in enumerate(config.tables):
        found = list_source_files(SourceConfig(paths=table.paths, format="parquet"))
        add(_describe_table(number, table, config.slices.columns, found[0]), found)
    return sources, files


def _describe_items(config: MeasureAgreementConfig, has_groups: bool, by_group: bool) -> Source | None:
    """Describe what is needed of a corpus' items: groups and slices; None where nothing is."""
    names = [name for name in config.slices.columns if name != "split"]
    splits = config.split is not None or "split" in config.slices.columns
    needs_groups = has_groups and (by_group or splits)
    if not names and not needs_groups:
        return None
    return Source(
        name="corpus items",
        kind="items",
        who=None,
        label=None,
        group="group" if needs_groups else None,
        slices=(("group", "group"),) if "group" in names else (),
        extra=tuple(name for name in names if name != "group"),
    )


def _describe_table(number: int, table: TableConfig, slices: Sequence[str], file: SourceFile) -> Source:
    with naming(file.url, "read"), parsing(file.url), open_parquet_file(file.url) as parquet:
        names = parquet.schema_arrow.names
    return Source(
        name=f"tables[{number}]",
        kind=table.kind,
        item_id=table.item_id,
        who=table.annotator_id,
        label=table.label,
        dimension=table.dimension,
        group=table.group,
        slices=tuple((name, name) for name in slices if name in names),
        constant=(table.name or f"rater {number}") if table.kind == "rater" else "",
    )


def _list_corpus_files(corpus: str, kind: str) -> list[SourceFile]:
    listed = {
        name.rpartition("/")[2] for m in read_finished(Folder(corpus)) for name in m["files"] if name.startswith(kind)
    }
    if not listed:
        return []
    found = list_source_files(SourceConfig(paths=[f"{corpus.rstrip('/')}/{kind}"]))
    return [file for file in found if file.url.rpartition("/")[2] in listed]


def _list_run_files(run: str) -> list[SourceFile]:
    """List the files that count of a run of rate_items, by the ledger's rule."""
    missing = f"raters: {run}: no annotations there; is it a run of jobs.rate_items?"
    try:
        found = list_source_files(SourceConfig(paths=[f"{run.rstrip('/')}/annotations"]))
    except UserError as error:
        raise UserError(missing) from error
    by_name = {file.url.rpartition("/")[2]: file for file in found}
    current = select_current(by_name)
    if not current:
        raise UserError(missing)
    return [by_name[name] for name in current.values()]


def _check_slices(config: MeasureAgreementConfig, sources: Sequence[Source]) -> None:
    known = {name for source in sources for name in (*dict(source.slices), *source.extra)}
    known |= {"split"} if config.corpus is not None else set()
    missing = [name for name in config.slices.columns if name not in known]
    if missing:
        raise UserError(f"slices.columns: no source has the column(s) {missing}")


def make_unit_rules(config: MeasureAgreementConfig, inputs: Inputs, survey: Survey) -> UnitRules:
    """Make the rules of the reduce stage from who was found."""
    raters = sorted(survey.raters)
    by_dimension: dict[str, list[tuple[int, str]]] = {}
    for (dimension, annotator), labels in survey.annotators.items():
        by_dimension.setdefault(dimension, []).append((-labels, annotator))
    named = {dimension: [name for _, name in sorted(found) if name != ""] for dimension, found in by_dimension.items()}
    unnamed = {dimension for dimension, found in by_dimension.items() if any(name == "" for _, name in found)}
    names = name_raters(raters, [source.name for source in inputs.sources])
    return UnitRules(
        scales=inputs.scales,
        target=inputs.target,
        kinds=tuple(source.kind for source in inputs.sources),
        asked=tuple(source.dimensions for source in inputs.sources),
        raters=tuple(raters),
        rater_names=names,
        panel=find_panel(config, names),
        annotators={dimension: tuple(sorted(own[: config.max_annotators])) for dimension, own in named.items()},
        complete={
            dimension: tuple(sorted(own))
            for dimension, own in named.items()
            if len(own) <= MAX_COMPLETE_PANEL and dimension not in unnamed
        },
        slices=tuple(sorted(config.slices.columns)),
        by_label=config.slices.label,
        by_group=inputs.by_group,
        split=config.split,
        split_config=inputs.split_config,
    )


def find_panel(config: MeasureAgreementConfig, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Find the pairs of raters whose agreement with each other is measured before and after.

    Raises UserError for a rater that did not rate, unless its pair is optional.
    """
    unknown = sorted({name for pair in config.panel if not pair.optional for name in pair.names} - {*names})
    if unknown:
        raise UserError(f"panel: there are no raters {unknown[:5]}; there are {sorted(names)[:20]}")
    return tuple(pair.names for pair in config.panel if {*pair.names} <= {*names})


def name_raters(raters: Sequence[tuple[int, str]], sources: Sequence[str]) -> tuple[str, ...]:
    """Name raters (source, id): by their id; with the source where several sources have the same id."""
    ids = [name for _, name in raters]
    names = [f"{name} ({sources[source]})" if ids.count(name) > 1 else name for source, name in raters]
    return tuple(f"{name} #{number}" if names.count(name) > 1 else name for number, name in enumerate(names))
