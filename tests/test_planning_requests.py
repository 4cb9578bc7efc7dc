"""What a shard asks of S3, counted at a server: the constants of planning/demands.py."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from judgetrace.planning import demands
from judgetrace.storage import Folder, encode_parquet
from tests.test_unit_worker import call, make_worker
from tests.trace_tables import make_items

pytestmark = pytest.mark.served

ANSWERED = re.compile(r'"([A-Z]+) (\S+) HTTP/1.1')


class RequestLog(logging.Handler):
    """Counts what the server logs: GET, HEAD, LIST, PUT, DELETE of everything in a folder."""

    def __init__(self, folder: str):
        super().__init__()
        self._folder, self.counts = folder, Counter()

    def emit(self, record: logging.LogRecord) -> None:
        found = ANSWERED.search(re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage()))
        if found and self._folder in found[2]:
            self.counts["LIST" if "list-type" in found[2] else found[1]] += 1


@contextmanager
def counting(folder: str) -> Iterator[Counter]:
    logger, log = logging.getLogger("werkzeug"), RequestLog(folder)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(log)
    try:
        yield log.counts
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)


def count_requests(tmp_path, s3: str, num_shards: int, **changes) -> Counter:
    name = f"{tmp_path.name}-{num_shards}-{len(changes)}"
    corpus = Folder(f"{s3}/{name}/corpus")
    for shard in range(num_shards):
        corpus.write_atomic(f"items/shard-{shard:05d}.parquet", encode_parquet(make_items(40, prefix=f"s{shard}")))
    run = Folder(f"{s3}/{name}/run")
    worker, _, _ = make_worker(tmp_path, corpus, run_url=run.url, **changes)
    with counting(name) as counts:
        assert call(worker, *range(num_shards)) == [40] * num_shards
    return counts


def test_a_shard_without_parts_asks_what_the_plan_counts_for_one(tmp_path, s3):
    counts = count_requests(tmp_path, s3, 4)
    assert counts["PUT"] == 4 * demands.WRITES_PER_SHARD
    assert counts["DELETE"] == 0
    # Shards at work at the same time look for a newer driver together. Two reads of the plan's are those of summing up.
    assert 4 * (demands.LISTS_PER_SHARD - 1) <= counts["LIST"] <= 4 * (demands.LISTS_PER_SHARD + 1)
    assert counts["GET"] + counts["HEAD"] == 4 * (demands.READS_PER_SHARD - 2)


def test_a_commit_asks_what_the_plan_counts_for_one(tmp_path, s3):
    counts = count_requests(tmp_path, s3, 1, script={"latency_s": 0.2}, commit_every_s=0.5)
    commits = counts["DELETE"]
    assert commits >= 2
    assert counts["PUT"] == demands.WRITES_PER_SHARD + commits
    assert counts["LIST"] <= demands.LISTS_PER_SHARD + commits * demands.LISTS_PER_COMMIT
