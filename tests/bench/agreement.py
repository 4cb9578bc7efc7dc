"""How fast agreement is counted: in memory against the krippendorff package, and as a whole job on long tables.

python -m tests.bench.agreement [--quick] [--items N] [--annotations N,N,N] [--replicates N]

In memory: counts and ordinal alpha of items x 5 raters, 5 levels, 40% missing, against krippendorff.alpha on the same
array, medians of alternating rounds; memory that each adds, in a process of its own. The job: from a Parquet file an
annotator to the report with intervals, Ray warm, against pandas plus krippendorff for the alpha alone.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.harness import (
    ROOT,
    apply_sizes,
    empty_folder,
    finish,
    job_environment,
    make_parser,
    own_ray,
    say,
    use_job_environment,
    write_config,
)

use_job_environment()

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

NUM_RATERS = 5
LEVELS = (1, 2, 3, 4, 5)
MISSING = 0.4
FULL = {
    "items": 1_000_000,
    "annotations": "1000000,10000000,30000000",
    "replicates": 1000,
    "rounds": 5,
    "job_rounds": 3,
}
QUICK = {"items": 50_000, "annotations": "100000,300000,1000000", "replicates": 200, "rounds": 3, "job_rounds": 1}


def draw_ratings(items: int, seed: int = 0) -> np.ndarray:
    """Draw levels 0 ... 4 [raters, items] as floats; NaN is missing."""
    random = np.random.default_rng(seed)
    ratings = random.integers(-1, 2, (NUM_RATERS, items)) + random.integers(0, len(LEVELS), items)
    found = np.clip(ratings, 0, len(LEVELS) - 1).astype(float)
    found[random.random(found.shape) < MISSING] = np.nan
    return found


def ours(ratings: np.ndarray) -> float:
    """Count and compute alpha."""
    from judgetrace.agreement.in_memory import compute_ratings_alpha

    return compute_ratings_alpha(ratings, "ordinal", np.array(LEVELS, dtype=float))


def theirs(ratings: np.ndarray) -> float:
    """Compute alpha with the krippendorff package."""
    import krippendorff

    return float(krippendorff.alpha(ratings, level_of_measurement="ordinal"))


def take_time(call: Callable[[], Any]) -> tuple[float, Any]:
    """Time a call."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def compare_in_memory(options: Any) -> dict[str, float]:
    """Compare counts, alpha and the bootstrap with the package on the same array."""
    from judgetrace.agreement.in_memory import measure_ratings
    from judgetrace.scale import Scale

    ratings = draw_ratings(options.items)
    scale = Scale(values=LEVELS)
    ours(ratings[:, :1000]), theirs(ratings[:, :1000])
    times: dict[str, list[float]] = {"ours": [], "theirs": [], "bootstrap": []}
    values: dict[str, float] = {}
    for _ in range(options.rounds):
        for name, call in (
            ("ours", lambda: ours(ratings)),
            ("theirs", lambda: theirs(ratings)),
            ("bootstrap", lambda: measure_ratings(ratings, scale, options.replicates)["alpha_ordinal"].value),
        ):
            seconds, values[name] = take_time(call)
            times[name].append(seconds)
    medians = {name: statistics.median(found) for name, found in times.items()}
    added = {name: measure_added_bytes(name, options.items) for name in ("ours", "theirs")}
    say(f"in memory: {medians}, added bytes {added}")
    return {
        "speedup_vs_krippendorff": round(medians["theirs"] / medians["ours"], 1),
        "max_abs_diff": max(abs(values[name] - values["theirs"]) for name in ("ours", "bootstrap")),
        "bootstrap_vs_one_call": round(medians["bootstrap"] / medians["theirs"], 3),
        "rss_ratio": round(added["ours"] / added["theirs"], 3),
        "alpha_s": round(medians["ours"], 4),
        "krippendorff_s": round(medians["theirs"], 3),
        "bootstrap_s": round(medians["bootstrap"], 3),
        "added_mb": round(added["ours"] / 1e6, 1),
        "krippendorff_added_mb": round(added["theirs"] / 1e6, 1),
    }


PROGRAM = """
import resource
from tests.bench import agreement
call = getattr(agreement, {name!r})
call(agreement.draw_ratings(1000))
ratings = agreement.draw_ratings({items})
open("/proc/self/clear_refs", "w").write("5")
def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
call(ratings)
print(peak() - before)
"""


def measure_added_bytes(name: str, items: int) -> int:
    """Measure by how much a call raises the peak of resident memory, in a process of its own."""
    program = PROGRAM.format(name=name, items=items)
    told = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, env=job_environment(), text=True)
    return max(int(told.split()[-1]), 1 << 20)


def write_source(folder: Path, annotations: int) -> Path:
    """Write a Parquet file for each annotator; every item's labels lie in several files."""
    folder.mkdir(parents=True, exist_ok=True)
    items = round(annotations / (NUM_RATERS * (1 - MISSING)))
    ratings = draw_ratings(items)
    for rater, row in enumerate(ratings):
        kept = np.flatnonzero(~np.isnan(row))
        np.random.default_rng(rater).shuffle(kept)
        names = pa.array(np.char.mod("item-%08d", kept)) if len(kept) < 1 << 20 else _name_items(kept)
        labels = pa.array((row[kept] + 1).astype(np.int64)).cast(pa.string())
        who = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(kept), np.int32)), pa.array([f"annotator-{rater}"]))
        table = pa.table({"item_id": names, "annotator_id": who.cast(pa.string()), "label": labels})
        pq.write_table(table, folder / f"annotator-{rater}.parquet", row_group_size=250_000)
    return folder


def _name_items(numbers: np.ndarray) -> pa.ChunkedArray:
    chunks = np.array_split(numbers, len(numbers) // (1 << 20) + 1)
    return pa.chunked_array([pa.array(np.char.mod("item-%08d", chunk)) for chunk in chunks])


def run_job(folder: Path, annotations: int, replicates: int) -> float:
    """Run the job on a source; returns its seconds."""
    from jobs.measure_agreement import main

    config = {
        "output": str(folder / f"out-{annotations}"),
        "scale": {"values": list(LEVELS)},
        "intervals": {"replicates": replicates},
    }
    path = write_config(folder / f"{annotations}.toml", config)
    tables = f'[[tables]]\npaths = ["{folder / str(annotations)}"]\nkind = "human"\n'
    path.write_text(path.read_text() + tables)
    seconds, status = take_time(lambda: main([str(path)]))
    assert status == 0, status
    return seconds


def run_pandas(source: Path) -> float:
    """Compute alpha as one would by hand: pandas reads and numbers, a matrix, the krippendorff package."""
    import krippendorff
    import pandas as pd

    frame = pd.read_parquet(source, columns=["item_id", "annotator_id", "label"])
    items, _ = pd.factorize(frame["item_id"])
    raters, names = pd.factorize(frame["annotator_id"])
    matrix = np.full((len(names), items.max() + 1), np.nan)
    matrix[raters, items] = frame["label"].astype(float)
    return float(krippendorff.alpha(matrix, level_of_measurement="ordinal"))


def read_alpha(output: Path) -> float:
    """Read the job's ordinal alpha."""
    rows = json.loads((output / "agreement.json").read_text())["statistics"]
    wanted = {"population": "all", "slice_by": "", "comparison": "human_human", "who": "all annotators"}
    wanted["statistic"] = "alpha_ordinal"
    return float(next(row["value"] for row in rows if wanted.items() <= row.items()))


def compare_jobs(options: Any, folder: Path) -> dict[str, Any]:
    """Time the whole job at several sizes, and pandas plus krippendorff at the middle one."""
    sizes = [int(size) for size in options.annotations.split(",")]
    for size in [1000, *sizes]:
        write_source(folder / str(size), size)
    say("sources written")
    seconds: dict[int, float] = {}
    with own_ray():
        # Until all workers run and have imported what they need.
        run_job(folder, 1000, options.replicates)
        run_job(folder, sizes[0], options.replicates)
        for size in [1000, *sizes]:
            runs = [run_job(folder, size, options.replicates) for _ in range(options.job_rounds)]
            seconds[size] = statistics.median(runs)
            say(f"{size} annotations: {[round(run, 2) for run in runs]} s")
    middle = sizes[len(sizes) // 2]
    baselines = [take_time(lambda: run_pandas(folder / str(middle))) for _ in range(options.job_rounds)]
    pandas_s, expected = statistics.median(run for run, _ in baselines), baselines[0][1]
    rest = {size: seconds[size] - seconds[1000] for size in sizes}
    first, last = sizes[0], sizes[-1]
    exponent = math.log(rest[last] / rest[first]) / math.log(last / first)
    return {
        "rows_per_s": round(last / seconds[last]),
        "growth_exponent": round(exponent, 3),
        "speedup_end_to_end": round(pandas_s / seconds[middle], 2),
        "end_to_end_abs_diff": abs(read_alpha(folder / f"out-{middle}") - expected),
        "job_s": {str(size): round(value, 2) for size, value in seconds.items()},
        "pandas_and_krippendorff_s": round(pandas_s, 2),
    }


def main(arguments: list[str]) -> None:
    """Run the benchmark."""
    parser = make_parser("agreement", __doc__)
    options = apply_sizes(parser, arguments, FULL, QUICK)
    folder = empty_folder(options.work)
    figures = compare_in_memory(options) | compare_jobs(options, folder)
    sizes = {name: getattr(options, name) for name in FULL}
    finish("agreement", figures, {**sizes, "raters": NUM_RATERS, "levels": len(LEVELS), "missing": MISSING}, False)


if __name__ == "__main__":
    main(sys.argv[1:])
