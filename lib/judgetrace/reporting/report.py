"""Gather sections from what a config names: read each input, make its sections, note what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from judgetrace.accounting import acceptance_beyond_chance
from judgetrace.corpus import read_finished
from judgetrace.reporting.agreement_section import (
    AgreementInput,
    find_change,
    make_confusions,
    make_headline,
    where_of,
)
from judgetrace.reporting.blocks import Fact, Facts, Section
from judgetrace.reporting.config import RenderReportConfig
from judgetrace.reporting.cost_section import Spent, make_cost
from judgetrace.reporting.embedding import Packed, pack_records
from judgetrace.reporting.guideline_section import make_guideline
from judgetrace.reporting.page import Page
from judgetrace.reporting.run_reading import (
    count_spent,
    list_rating_runs,
    list_simulated_raters,
    read_agreement,
    read_rating_run,
    read_rationale_tables,
    read_refinement,
    read_refinement_spent,
    read_together,
    read_trace_run,
    read_training_run,
    read_verification,
)
from judgetrace.reporting.slices_section import make_slices
from judgetrace.reporting.trace_reading import list_trace_files, read_rationales, read_records, select_items
from judgetrace.reporting.trace_records import Records, find_noise, list_noisy
from judgetrace.reporting.traces_section import TraceRun, make_acceptance, make_noise, make_utilisation
from judgetrace.reporting.training_section import make_training
from judgetrace.reporting.verification_section import make_verification
from judgetrace.run_folder import name_runs
from judgetrace.scale import ScaleConfig
from judgetrace.sources import SourceConfig, list_source_files
from judgetrace.storage import Folder
from judgetrace.versions import list_versions

MAX_NOISY_ROWS = 15
ORDER = (
    "agreement",
    "guideline",
    "utilisation",
    "acceptance",
    "verification",
    "noise",
    "training",
    "confusion",
    "slices",
    "cost",
)
MISSING = {
    "agreement": "agreement: give the output of measure_agreement as `agreement`.",
    "traces": "data utilisation, acceptance and the trace browser: give runs of infer_traces as `traces`.",
    "training": "training curves: give runs of train_rater as `training`.",
    "refinement": "the refined guideline: give a run of refine_guideline as `refinement`.",
    "verification": "verification of traces: give runs of verify_traces as `verification`.",
    "rationales": "human rationales beside the traces: give a table of them as `rationales`.",
}


@dataclass
class Report:
    """What has been gathered so far."""

    sections: list[Section] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)
    packed: Packed | None = None
    browser_note: str = ""


def gather_report(config: RenderReportConfig, now: float) -> Page:
    """Gather a page. Raises UserError for an input that is not what it should be."""
    report = Report()
    _add_agreement(report, config, now)
    _add_traces(report, config, now)
    _add_training(report, config)
    _add_guideline(report, config)
    _add_verification(report, config, now)
    _add_ratings(report, config, now)
    if report.spent:
        report.sections.append(make_cost(report.spent, config.currency))
    return Page(
        title=config.title or _name_page(config),
        subtitle=describe_corpus(read_finished(Folder(config.corpus))) if config.corpus else "",
        facts=Facts(report.facts),
        sections=sorted(report.sections, key=lambda section: ORDER.index(section.id)),
        missing=[text for key, text in MISSING.items() if not getattr(config, key)],
        provenance=list(_list_provenance(config)),
        packed=report.packed,
        browser_note=report.browser_note,
    )


def _add_verification(report: Report, config: RenderReportConfig, now: float) -> None:
    if config.verification:
        names = name_runs(config.verification)
        runs = [read_verification(name, url, now) for name, url in zip(names, config.verification, strict=True)]
        report.sections.append(make_verification(runs))
        named = "verification {}" if len(runs) > 1 else "verification"
        report.spent += [count_spent(named.format(run.name), run.about, run.tally) for run in runs]


def _name_page(config: RenderReportConfig) -> str:
    named = config.study or config.corpus or config.agreement or (config.traces or config.training or ["runs"])[0]
    # Of a study's corpus: the study.
    parts = named.rstrip("/").removesuffix("/prepare").split("/")
    return f"Report on {'/'.join(parts[-2:])}"


def describe_corpus(manifests: Sequence[Mapping[str, Any]]) -> str:
    """Say what a corpus holds, with all that was appended to it, in a sentence."""
    counts, scale = [manifest["counts"] for manifest in manifests], manifests[0]["config"]["scale"]
    units, annotations = (sum(own[what] for own in counts) for what in ("units", "annotations"))
    parts = [f"{units:,} units with a target label, from {annotations:,} annotations"]
    dropped = sum(number for own in counts for number in own.get("dropped", {}).values())
    if dropped:
        parts.append(f"{dropped:,} more on which people disagree too much")
    if scale.get("values"):
        parts.append(
            f"{scale['type']} scale of {len(scale['values'])} levels, {scale['values'][0]} to {scale['values'][-1]}"
        )
    dimensions = {name for own in counts for name in own.get("labels", {})}
    if len(dimensions) > 1:
        parts.append(f"{len(dimensions)} dimensions")
    return "; ".join(parts) + "."


def _list_provenance(config: RenderReportConfig) -> Iterator[tuple[str, str]]:
    for key in ("study", "corpus", "traces", "training", "ratings", "agreement", "refinement", "verification"):
        value = getattr(config, key)
        if value:
            yield key, value if isinstance(value, str) else ", ".join(value)
    if config.rationales:
        yield "rationales", ", ".join(config.rationales.paths)
    yield "rendered with", ", ".join(f"{name} {version}" for name, version in list_versions().items())


def _add_agreement(report: Report, config: RenderReportConfig, now: float) -> None:
    if not config.agreement:
        return
    runs = config.ratings or list_rating_runs(config.agreement)
    read = read_agreement(config.agreement, config.comparisons, list_simulated_raters(runs, now))
    found = replace(read, remarks=config.remarks)
    report.sections += [make_headline(found), make_slices(found)]
    if found.confusions:
        report.sections.append(make_confusions(found))
    report.facts += _list_agreement_facts(found)


def _list_agreement_facts(found: AgreementInput) -> Iterator[Fact]:
    dimensions = found.figures.dimensions
    if len(dimensions) != 1 or found.figures.type_of(dimensions[0]) == "nominal":
        return
    where = where_of(found, dimensions[0])
    ceiling = found.figures.find(where, ("human_ceiling", "each annotator", "the other annotators"), "kendall_tau_b")
    for before, after, _ in found.compared[:1]:
        row = found.figures.find(where, ("rater_target", after, "target label"), "kendall_tau_b")
        change = find_change(found, dimensions[0], before, after, "kendall_tau_b")
        if row.get("value") is not None:
            gain = (
                ""
                if change.get("value") is None
                else f"{change['value']:+.2f}".replace("-", "\u2212") + f" against {before}"
            )
            yield Fact(f"{row['value']:.2f}".replace("-", "\u2212"), f"τ-b of {after} with the target label", gain)
    if ceiling.get("value") is not None:
        yield Fact(f"{ceiling['value']:.2f}", "human ceiling: τ-b of a person with the others")


def _add_traces(report: Report, config: RenderReportConfig, now: float) -> None:
    if not config.traces:
        return
    names = name_runs(config.traces)
    read = [read_trace_run(name, url, config.corpus, now) for name, url in zip(names, config.traces, strict=True)]
    runs = [run for run, _ in read]
    report.spent += [spent for _, spent in read]
    together = read_together(list(zip(runs, config.traces, strict=True)))
    report.sections += [make_utilisation(runs, together), make_acceptance(runs)]
    report.facts += list_trace_facts(runs, together, [spent for _, spent in read])
    if config.browser.max_items:
        _add_browser(report, config, names, runs[0].scale)


def list_trace_facts(runs: Sequence[TraceRun], together: Sequence[TraceRun], spent: Sequence[Spent]) -> Iterator[Fact]:
    """List what is seen first of runs: of several the figures of all `together`; see read_together."""
    first, whole = runs[0], (*together, *runs)[0]
    accepted, named = whole.tally.num_accepted, f", {whole.name}" if together else ""
    parts = [
        f"{accepted:,} of {whole.tally.num_tried:,} units",
        *(f"{r.name}: {r.utilisation:.0%}" for r in together[1:]),
    ]
    yield Fact(f"{whole.utilisation:.0%}", f"data utilisation{named}", "; ".join(parts))
    scale = first.scale.of("")
    beyond = None if scale is None else acceptance_beyond_chance(first.tally, "", len(scale.values))
    if beyond is not None:
        value = f"{beyond['corrected']:+.0%}".replace("-", "\u2212")
        own = f" in {first.name}" if together else ""
        yield Fact(value, f"first draws that match{own}, beyond a uniform guess", f"{beyond['observed']:.1%} match")
    tokens = sum(run.output_tokens or 0 for run in spent)
    if accepted and tokens:
        yield Fact(f"{tokens / accepted:,.0f}", f"output tokens per unit with a trace{named}")


def _add_browser(report: Report, config: RenderReportConfig, names: list[str], scales: ScaleConfig) -> None:
    wanted = config.browser
    files = list_trace_files(list(zip(names, config.traces, strict=True)))
    selection = select_items(files, wanted.max_items, wanted.seed)
    rationales: Any = {}
    if config.rationales:
        columns = config.rationales.model_dump(include={"item_id", "dimension", "annotator_id", "label", "text"})
        urls = [file.url for file in list_source_files(SourceConfig(paths=config.rationales.paths, format="parquet"))]
        rationales = read_rationales(read_rationale_tables(urls, columns), columns, selection)
    found = read_records(files, selection, rationales, wanted.max_text_chars, wanted.max_megabytes)
    noise = find_noise(found, wanted.min_draws)
    report.packed = pack_records(found, noise, wanted.max_megabytes)
    report.browser_note = describe_browser(report.packed, found, selection.num_units, config)
    # What was read may be more than the page holds.
    shown = set(found.keys[: report.packed.num_records])
    noise &= shown
    noisy = list_noisy(found, noise, scales, MAX_NOISY_ROWS)
    report.sections.append(make_noise(noisy, len(noise), len(shown), wanted.min_draws))


def describe_browser(packed: Packed, found: Records, num_units: int, config: RenderReportConfig) -> str:
    """Say whether the trace browser holds everything, and what it searches."""
    what = "units" if len(config.traces) < 2 else "rows, of a unit one for each run that asked about it"
    if packed.num_records == num_units:
        return f"All {num_units:,} {what}; in a mixed order. Press / to search."
    why = f"browser.max_items = {config.browser.max_items:,}"
    if packed.num_records < len(found):
        why = f"browser.max_megabytes = {config.browser.max_megabytes:g}"
    return (
        f"A sample: {packed.num_records:,} of {num_units:,} {what}; drawn by item with seed {config.browser.seed} "
        f"({why}). Figures above are of all units. Press / to search."
    )


def _add_training(report: Report, config: RenderReportConfig) -> None:
    if config.training:
        names = name_runs(config.training)
        read = [read_training_run(name, url) for name, url in zip(names, config.training, strict=True)]
        report.sections.append(make_training([run for run, _ in read]))
        report.spent += [spent for _, spent in read]


def _add_guideline(report: Report, config: RenderReportConfig) -> None:
    if config.refinement:
        report.sections.append(make_guideline(read_refinement(config.refinement)))
        report.spent += read_refinement_spent(config.refinement)


def _add_ratings(report: Report, config: RenderReportConfig, now: float) -> None:
    runs = config.ratings or (list_rating_runs(config.agreement) if config.agreement else [])
    report.spent += [read_rating_run(name, url, now) for name, url in zip(name_runs(runs), runs, strict=True)]
