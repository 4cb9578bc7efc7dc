"""How long a report of 100,000 units takes to render, how large it is, and how soon a browser paints it.

python -m tests.bench.report [--quick] [--units N] [--item-words N] [--trace-words N]

Synthetic traces: item and reasoning are words drawn by Zipf's law from 20,000 made-up ones, about 30 an item and 60 a
trace, five draws a unit. `embedded`: units in the page; fewer where they do not fit its size limit. `first_paint_s`:
first-contentful-paint in headless Chromium, from a local file, the median of three; `ready_s`: until the trace
browser shows its first page; `search_s`: a search through all texts; `page_s`: to the last page. They are null where
there is no Chromium.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.harness import apply_sizes, empty_folder, finish, make_parser, say, use_job_environment

use_job_environment()

import numpy as np  # noqa: E402

from judgetrace.storage import Folder  # noqa: E402
from tests.chromium import find_chromium, open_chromium  # noqa: E402
from tests.report_runs import LEVELS, make_row, make_table, write_trace_run  # noqa: E402

FULL = {"units": 100_000, "item_words": 30, "trace_words": 60}
QUICK = {"units": 5_000, "item_words": 30, "trace_words": 60}
SHARD_UNITS = 5_000
WORDS = 20_000
RARE = "quixotically"


def write_run(run: Folder, units: int, lengths: tuple[int, int]) -> None:
    """Write a run of synthetic traces; one unit holds the word RARE."""
    random = np.random.default_rng(0)
    letters = np.array(list("aabcdeeefghiijklmnooprssttuvwy"))
    words = ["".join(random.choice(letters, size)) for size in random.integers(2, 10, WORDS)]
    shards = []
    for start in range(0, units, SHARD_UNITS):
        count = min(SHARD_UNITS, units - start)
        rows = [make_unit(start + n, random, words, lengths) for n in range(count)]
        shards.append(make_table(rows))
    write_trace_run(run, shards)


def make_unit(number: int, random: np.random.Generator, words: list[str], lengths: tuple[int, int]) -> dict[str, Any]:
    """Make a unit of made-up words; `lengths` are the mean numbers of words of item and trace."""
    label = LEVELS[int(random.integers(len(LEVELS)))]
    hit = label != "1" or random.random() < 1 / 3
    others = [level for level in LEVELS if level != label]
    ratings = [others[int(n)] for n in random.integers(len(others), size=int(random.integers(2, 8)))]
    text = write_text(random, words, lengths[0]) + (f" {RARE}" if number == 4_321 else "")
    return make_row(
        f"item-{number:06d}",
        {"text": text},
        label,
        [*ratings, label] if hit else ratings,
        write_text(random, words, lengths[1]),
    )


def write_text(random: np.random.Generator, words: list[str], length: int) -> str:
    """Write some `length` words, the frequent ones often."""
    drawn = random.zipf(1.3, int(random.poisson(length))) % len(words)
    return " ".join(words[int(n)] for n in drawn)


def watch(page: Path, work: Path) -> dict[str, Any]:
    """Open the page in a browser, and time what a person waits for."""
    if find_chromium() is None:
        return {"first_paint_s": None, "ready_s": None, "search_s": None, "page_s": None}
    paints, ready = [], []
    for number in range(3):
        with open_chromium(work / f"profile{number}") as browser:
            began = time.monotonic()
            browser.get(page.as_uri())
            wait_for(browser, "document.documentElement.dataset.ready === 'yes'")
            ready.append(time.monotonic() - began)
            script = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
            paints.append(browser.execute_script(script) / 1000)
            if number == 2:
                search_s = time_action(browser, f"query.value = '{RARE}'; query.form.requestSubmit()", "of 1 (")
                browser.execute_script("document.getElementById('clear').click()")
                wait_for(browser, "!document.getElementById('status').textContent.includes('of 1 (')")
                last = "document.querySelector('#pager-top .last').click()"
                page_s = time_action(browser, last, str(browser.execute_script(LAST_UNIT)))
    return {
        "first_paint_s": round(statistics.median(paints), 2),
        "ready_s": round(statistics.median(ready), 2),
        "search_s": round(search_s, 2),
        "page_s": round(page_s, 2),
    }


LAST_UNIT = "return document.getElementById('status').textContent.match(/of ([0-9,]+)/)[1].concat(' of')"


def time_action(browser: Any, action: str, then: str) -> float:
    """Time from an action until the status line includes a text."""
    began = time.monotonic()
    browser.execute_script(f"const query = document.getElementById('query'); {action}")
    wait_for(browser, f"document.getElementById('status').textContent.includes({then!r})")
    return time.monotonic() - began


def wait_for(browser: Any, condition: str, seconds: float = 60) -> None:
    """Wait until a condition holds in the page."""
    end = time.monotonic() + seconds
    while not browser.execute_script(f"return {condition}"):
        if time.monotonic() > end:
            raise TimeoutError(f"the page never came to {condition}")
        time.sleep(0.02)


def count_embedded(page: Path) -> int:
    """Count the units that a page holds, by its own index."""
    packed = re.search(r'id="index">([^<]+)<', page.read_text())
    assert packed is not None
    return int(json.loads(gzip.decompress(base64.b64decode(packed.group(1))))["count"])


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    from jobs.render_report import main as render

    parser = make_parser("report", __doc__)
    options = apply_sizes(parser, sys.argv[1:] if arguments is None else arguments, FULL, QUICK)
    work = empty_folder(options.work)
    say(f"writing {options.units:,} units")
    write_run(Folder(str(work / "traces-run")), options.units, (options.item_words, options.trace_words))
    config = work / "report.toml"
    config.write_text(f"output = '{work}'\ntraces = ['{work}/traces-run']\n")
    say("rendering")
    began = time.monotonic()
    assert render([str(config)]) == 0
    seconds = time.monotonic() - began
    page = work / "report.html"
    say("opening")
    embedded = count_embedded(page)
    if embedded != options.units:
        raise RuntimeError(f"the page holds a sample of {embedded:,} of {options.units:,} units: shorten the texts")
    figures = {
        "units": options.units,
        "embedded": embedded,
        "seconds": round(seconds, 1),
        "megabytes": round(page.stat().st_size / 1e6, 1),
    }
    finish("report", {**figures, **watch(page, work)}, {name: getattr(options, name) for name in FULL}, simulated=True)
    return 0


if __name__ == "__main__":
    main()
