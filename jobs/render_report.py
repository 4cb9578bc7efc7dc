"""run folders -> report.html: what they have come to, as one page that opens anywhere and loads nothing.

python -m jobs.render_report CONFIG.toml [--section.key=value ...]

Reads figures that the jobs wrote, and the traces; computes no statistic and starts no Ray.
"""

from __future__ import annotations

import json
import time

from judgetrace.config import load_config, run_job
from judgetrace.console import open_console, print_place
from judgetrace.reporting.config import RenderReportConfig
from judgetrace.reporting.discovery import fill_from_study
from judgetrace.reporting.page import write_page
from judgetrace.reporting.report import gather_report
from judgetrace.storage import Folder


def main(arguments: list[str]) -> int:
    """Run the job; returns the exit status."""
    config = fill_from_study(load_config(RenderReportConfig, "render_report", arguments))
    if config.dry_run:
        print(json.dumps(config.model_dump(mode="json"), indent=1, ensure_ascii=False))
        return 0
    began = time.monotonic()
    page = gather_report(config, time.time())
    data = write_page(page)
    folder, name = split_output(config.output)
    Folder(folder).write_atomic(name, data)
    console = open_console()
    units = "no trace browser" if page.packed is None else f"{page.packed.num_records:,} units in its trace browser"
    console.print(f"{len(page.sections)} sections, {units}, {len(data) / 1e6:.1f} MB, {time.monotonic() - began:.1f} s")
    for sentence in page.missing:
        console.print(f"  without {sentence}", markup=False)
    print_place(console, "Report", f"{folder}/{name}")
    return 0


def split_output(output: str) -> tuple[str, str]:
    """Split an output into folder and file: report.html where it names a folder."""
    if not output.endswith((".html", ".htm")):
        return output.rstrip("/"), "report.html"
    folder, _, name = output.rpartition("/")
    return folder or ".", name


if __name__ == "__main__":
    run_job(main)
