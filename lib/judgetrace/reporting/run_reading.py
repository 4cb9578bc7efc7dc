"""Read what runs left for the report: manifests, drivers, tallies in footers, tables. Computes nothing anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from judgetrace.accounting import Tally, add_tallies
from judgetrace.agreement.figures import Figures
from judgetrace.agreement.tables import TARGET
from judgetrace.config import UserError
from judgetrace.corpus import read_finished
from judgetrace.engine import ENDPOINT_ENGINE
from judgetrace.ledger import current_shard_files, read_tally
from judgetrace.products import VERIFICATION_PRODUCT
from judgetrace.reporting.agreement_section import AgreementInput
from judgetrace.reporting.config import ComparisonConfig
from judgetrace.reporting.cost_section import Spent
from judgetrace.reporting.guideline_section import Refinement
from judgetrace.reporting.traces_section import TraceRun, unite_runs
from judgetrace.reporting.training_section import TrainingRun
from judgetrace.reporting.uniting import tally_together
from judgetrace.reporting.verification_section import VerificationRun
from judgetrace.run_folder import RunFolder
from judgetrace.run_report import describe_state
from judgetrace.scale import ScaleConfig
from judgetrace.storage import Folder, decode_parquet

_READERS = 16


def read_about(url: str, now: float) -> dict[str, Any]:
    """Read what a run says of itself: job, config, state, and its manifest where it is complete.

    Raises UserError where there is no run.
    """
    run = RunFolder(Folder(url))
    manifest = run.folder.read_json("manifest.json") if run.has_manifest() else {}
    newest = run.newest_driver()
    driver = run.read_driver(newest) if newest >= 0 else {}
    if not manifest and not driver:
        raise UserError(f"{url}: no run there (no manifest.json, no drivers/)\nexpected: the run folder of a job")
    state = describe_state(run, now)[0] if driver else "complete"
    states = run.read_states().values() if driver else ()
    return {
        "driver": driver,
        "manifest": manifest,
        "job": manifest.get("job") or driver.get("job") or ("decide_again" if "sampled_with" in manifest else ""),
        "config": manifest.get("config") or driver.get("config") or {},
        "state": state,
        "engine_s": manifest.get("engine_seconds", sum(s.get("engine_s", 0.0) for s in states) or None),
        "seconds": manifest.get("seconds", sum(s.get("seconds", 0.0) for s in states) or None),
    }


def is_simulated(config: Mapping[str, Any]) -> bool:
    """Whether the engine of a config is neither vLLM nor a server: a script that plays a model."""
    kind = (config.get("engine") or {}).get("kind")
    return kind not in (None, ENDPOINT_ENGINE) and not str(kind).startswith("judgetrace.")


def read_published_tally(url: str, product: str) -> Tally:
    """Add the tallies in the footers of a run's published files."""
    folder = Folder(url) / product
    with ThreadPoolExecutor(_READERS) as pool:
        return add_tallies(pool.map(lambda name: read_tally(folder, name), current_shard_files(folder).values()))


def read_trace_run(name: str, url: str, corpus: str | None, now: float) -> tuple[TraceRun, Spent]:
    """Read a run of infer_traces, or an output of decide_again. Raises UserError."""
    about = read_about(url, now)
    tally = read_published_tally(url, "traces")
    config, driver = about["config"], about["driver"]
    sampled = about["manifest"].get("sampled_with", config)
    scale = driver.get("scale") or _read_scale(corpus or config.get("corpus") or sampled.get("corpus"), url)
    run = TraceRun(
        name,
        tally,
        ScaleConfig.model_validate(scale),
        int(driver.get("max_draws") or sampled.get("sampling", {}).get("max_draws", 1)),
        int(driver.get("units") or tally.num_units),
        about["state"],
        is_simulated(sampled),
        bool((sampled.get("hint") or {}).get("enabled")),
        bool(sampled.get("after")),
    )
    if about["job"] == "decide_again":
        return run, Spent(name, "decide_again", 0, 0, accepted=tally.num_accepted, is_simulated=run.is_simulated)
    return run, count_spent(name, about, tally, tally.num_accepted)


def read_together(runs: Sequence[tuple[TraceRun, str]]) -> list[TraceRun]:
    """Read what several runs, with their URLs, came to together, hinted ones also left out; nothing of a single one."""
    groups = {"all runs together": list(runs), "all but hinted": [one for one in runs if not one[0].is_hinted]}
    if len(groups["all but hinted"]) == len(runs):
        del groups["all but hinted"]
    return [
        unite_runs([run for run, _ in own], name, tally_together([url for _, url in own]))
        for name, own in groups.items()
        if len(own) > 1
    ]


def _read_scale(corpus: str | None, url: str) -> Any:
    if corpus is None:
        raise UserError(f"traces: {url} names no corpus, so its scale is not known; give corpus")
    return read_finished(Folder(corpus))[0]["config"]["scale"]


def read_rating_run(name: str, url: str, now: float) -> Spent:
    """Read what a run of rate_items or recalibrate_rater has spent. Raises UserError."""
    about = read_about(url, now)
    if about["job"] == "recalibrate_rater":
        return Spent(name, about["job"], 0, 0)
    return count_spent(name, about, read_published_tally(url, "annotations"))


def count_spent(name: str, about: Mapping[str, Any], tally: Tally, accepted: int | None = None) -> Spent:
    """Count what a run (read_about) has spent, by its published tally; `accepted` traces, where it makes them."""
    tokens, endpoint = tally.tokens, about["config"].get("endpoint") or {}
    prices = float(endpoint.get("input_price") or 0), float(endpoint.get("output_price") or 0)
    money = (tokens["prompt"] * prices[0] + tokens["output"] * prices[1]) / 1e6 if any(prices) else None
    return Spent(
        name,
        str(about["job"]),
        tokens["prompt"],
        tokens["output"],
        tokens["overshoot"],
        accepted,
        about["engine_s"],
        about["seconds"],
        money,
        is_simulated(about["config"]),
    )


def read_verification(name: str, url: str, now: float) -> VerificationRun:
    """Read a run of verify_traces. Raises UserError."""
    about = read_about(url, now)
    if about["job"] != "verify_traces":
        raise UserError(f"verification = {url}: is a run of {about['job']}\nexpected: run folders of verify_traces")
    tally = read_published_tally(url, VERIFICATION_PRODUCT.folder)
    return VerificationRun(name, about, tally, is_simulated(about["config"]))


def read_training_run(name: str, url: str) -> tuple[TrainingRun, Spent]:
    """Read a run of train_rater: its curves, and its manifest where it is complete. Raises UserError."""
    folder = Folder(url)
    if not folder.exists("metrics.parquet"):
        raise UserError(f"training: {url}: no metrics.parquet there\nexpected: run folders of train_rater")
    metrics = folder.read_table("metrics.parquet").to_pylist()
    manifest = folder.read_json("manifest.json") if folder.exists("manifest.json") else {}
    # Each step's are there once, however often it was gone back to.
    tokens, seconds = (sum(row.get(what) or 0 for row in metrics) for what in ("num_tokens", "seconds"))
    return TrainingRun(name, metrics, manifest), Spent(name, "train_rater", trained_tokens=tokens, seconds=seconds)


def read_agreement(url: str, comparisons: Sequence[ComparisonConfig], simulated: frozenset[str]) -> AgreementInput:
    """Read an output of measure_agreement, with those `comparisons` whose raters it has.

    Raises UserError for none, or for a comparison of other raters that is not optional.
    """
    folder = Folder(url)
    if not folder.exists("agreement.json"):
        raise UserError(f"agreement = {url}: no agreement.json there\nexpected: an output of measure_agreement")
    about = folder.read_json("agreement.json")
    rows = folder.read_table("agreement.parquet").to_pylist()
    names = {row["who"] for row in rows if row["comparison"] == "rater_target" and row["with_whom"] == TARGET}
    ids = map(_find_rater_id, about["config"].get("raters", []))
    given = [name for name in ids if name is not None and name in names]
    unknown = sorted({name for c in comparisons if not c.optional for name in (c.before, c.after)} - names)
    if unknown:
        raise UserError(f"comparisons: the agreement has no raters {unknown[:5]}; it has {sorted(names)}")
    intervals = about["config"].get("intervals", {})
    return AgreementInput(
        Figures(rows, ScaleConfig.model_validate(about["scale"])),
        (*dict.fromkeys(given), *sorted(names - set(given))),
        about.get("confusion_matrices", []),
        float(intervals.get("level", 0.95)),
        int(intervals.get("replicates", 0)),
        _describe_rule(about.get("target", {})),
        [(c.before, c.after, c.what) for c in comparisons if {c.before, c.after} <= names],
        simulated & names,
        about.get("notes", []),
    )


def _describe_rule(target: Mapping[str, Any]) -> str:
    rule, limit = str(target.get("rule", "unknown")), target.get("max_sd")
    return f"{rule} of items with an SD up to {limit:g}" if rule == "median" and limit is not None else rule


def _find_rater_id(url: str) -> str | None:
    """Find what a run of ratings calls its rater; None where the run is elsewhere now."""
    folder = Folder(url)
    return folder.read_json("contract.json").get("rater_id") if folder.exists("contract.json") else None


def list_simulated_raters(urls: Sequence[str], now: float) -> frozenset[str]:
    """List the raters of runs whose engine is no model."""
    found = (url for url in urls if is_simulated(read_about(url, now)["config"]))
    return frozenset(name for name in map(_find_rater_id, found) if name is not None)


def list_rating_runs(agreement: str) -> list[str]:
    """List the runs that an agreement was measured on, as far as they are where it says."""
    folder = Folder(agreement)
    urls = folder.read_json("agreement.json")["config"].get("raters", []) if folder.exists("agreement.json") else []
    return [url for url in urls if Folder(url).exists("manifest.json")]


def read_refinement(url: str) -> Refinement:
    """Read a run of refine_guideline. Raises UserError for none, or for one that is not complete."""
    folder = Folder(url)
    if not folder.exists("refinement.json"):
        raise UserError(f"refinement = {url}: no refinement.json there\nexpected: a complete run of refine_guideline")
    with folder.open_parquet("critiques.parquet") as file:
        critiques = int(file.metadata.num_rows)
    return Refinement(
        folder.read_json("refinement.json"),
        folder.read_table("candidates.parquet").to_pylist(),
        folder.read_bytes("guideline.diff").decode(),
        critiques,
    )


def read_refinement_spent(url: str) -> list[Spent]:
    """Read what a run of refine_guideline has spent; nothing where it is not complete."""
    folder = Folder(url)
    if not folder.exists("manifest.json"):
        return []
    manifest = folder.read_json("manifest.json")
    asked = [manifest["calls"], manifest.get("embeddings", {}), *manifest["ratings"].values()]
    money = [one["cost"] for one in asked if one.get("cost")]
    config = manifest["config"]
    spent = Spent(
        "refinement",
        "refine_guideline",
        sum(one.get("prompt_tokens", 0) for one in asked),
        sum(one.get("output_tokens", 0) for one in asked),
        engine_s=manifest["engine_seconds"],
        seconds=manifest["seconds"],
        money=sum(money) if money else None,
        is_simulated=any(map(is_simulated, (config["generator"], *config["raters"]))),
    )
    return [spent]


def read_rationale_tables(urls: Sequence[str], columns: Mapping[str, str | None]) -> Iterator[Any]:
    """Read the columns of Parquet files of rationales. Raises UserError for one that lacks a column."""
    wanted = [name for name in columns.values() if name is not None]
    for url in urls:
        root, _, name = url.rpartition("/")
        data = Folder(root or ".").read_bytes(name)
        names = pq.read_schema(pa.BufferReader(data)).names
        missing = [column for column in wanted if column not in names]
        if missing:
            raise UserError(f"rationales: {url} has no columns {missing}; it has {names}")
        yield decode_parquet(data, wanted)
