"""traces/ -> traces/: decide units anew from their recorded draws, by another acceptance rule or other target labels.

python -m jobs.decide_again CONFIG.toml [--section.key=value ...]

Samples nothing. A unit whose new decision needs a draw that nobody sampled, or a text that was not kept
(ledger.keep_rejected_text of infer_traces), becomes `undecided`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from judgetrace.acceptance import AcceptanceConfig
from judgetrace.accounting import tally_traces
from judgetrace.config import UserError, load_config, run_job
from judgetrace.console import open_console, print_place
from judgetrace.corpus import read_finished
from judgetrace.decisions import TEXT_NOT_KEPT, decide_again
from judgetrace.ledger import current_shard_files, encode_shard
from judgetrace.run_folder import RunFolder
from judgetrace.run_inputs import identify_corpus
from judgetrace.sampling import SamplingConfig
from judgetrace.scale import ScaleConfig
from judgetrace.schema import ITEMS, TRACES, unit_key
from judgetrace.session import RayConfig, connect_ray
from judgetrace.storage import Folder, encode_json
from judgetrace.tasks import run_tasks

JOB = "decide_again"
NOT_HELD = "units that the corpus does not hold"


class DecideAgainConfig(BaseModel):
    """Decide the units of a run again, without sampling."""

    model_config = ConfigDict(extra="forbid")

    run: str = Field(description="The run whose draws are used.")
    output: str = Field(description="The folder to write traces/ and manifest.json into; not the run's own.")
    corpus: str | None = Field(
        default=None,
        description="A corpus of the same items with other target labels, in as many buckets; else the run's own.",
    )
    acceptance: AcceptanceConfig = Field(default_factory=AcceptanceConfig, description="Which ratings match.")
    cluster: RayConfig = Field(default_factory=RayConfig, description="Where the job runs.")


def main(arguments: list[str]) -> int:
    """Run the job; returns its exit status."""
    config = load_config(DecideAgainConfig, "decide_again", arguments)
    if config.output.rstrip("/") == config.run.rstrip("/"):
        raise UserError("output is the run folder itself; give another one, so that the run's traces stay")
    run = RunFolder(Folder(config.run))
    if run.newest_driver() < 0:
        raise UserError(f"run = {config.run}: no run of infer_traces there")
    driver = run.read_driver(run.newest_driver())
    if driver.get("product") != "traces":
        raise UserError(f"run = {config.run}: is a run of {driver.get('job')}; expected one of infer_traces")
    sampled = driver["config"]
    if config.corpus is not None and sampled.get("hint", {}).get("enabled"):
        raise UserError(
            f"run = {config.run}: its draws were told the labels of its own corpus (hint.enabled), and argue for them\n"
            "they can't be judged by another corpus: leave `corpus` out, or give a run without the hint"
        )
    own, new = Folder(driver["corpus"]), Folder(config.corpus or driver["corpus"])
    buckets = {url: int(read_finished(folder)[0]["buckets"]) for url, folder in (("run", own), ("corpus", new))}
    if len(set(buckets.values())) > 1:
        raise UserError(
            f"corpus = {new.url}: it has {buckets['corpus']} buckets, the run's corpus {buckets['run']}\n"
            f"prepare it with shards.buckets = {buckets['run']}, so that the same items lie together"
        )
    manifest = read_finished(new)[0]
    scale = ScaleConfig.model_validate(manifest["config"]["scale"])
    begin_output(Folder(config.output), identify_corpus(manifest))
    decider = BucketDecider(config, new, scale, SamplingConfig(**sampled["sampling"]), buckets["run"])
    counts: Counter[str] = Counter()
    with connect_ray(config.cluster):
        numbers = range(buckets["run"])
        for found in run_tasks("decide_again", decider.decide, numbers, wait_s=config.cluster.wait_s):
            counts.update(found)
    outcomes = {name: count for name, count in counts.items() if name not in (NOT_HELD, TEXT_NOT_KEPT)}
    about = {
        "job": JOB,
        "units": sum(outcomes.values()),
        "outcomes": outcomes,
        "not_in_corpus": counts[NOT_HELD],
        "text_not_kept": counts[TEXT_NOT_KEPT],
        "config": config.model_dump(mode="json"),
        "sampled_with": sampled,
    }
    Folder(config.output).write_atomic("manifest.json", encode_json(about))
    console = open_console()
    told = outcomes | ({NOT_HELD: counts[NOT_HELD]} if counts[NOT_HELD] else {})
    console.print(", ".join(f"{count:,} {what}" for what, count in sorted(told.items())))
    if counts[TEXT_NOT_KEPT]:
        console.print(f"{counts[TEXT_NOT_KEPT]:,} of the undecided: {TEXT_NOT_KEPT}", markup=False, soft_wrap=True)
    print_place(console, "Traces", f"{config.output}/traces")
    return 0


def begin_output(output: Folder, corpus_id: str) -> None:
    """Empty the output of an earlier call, and note of which corpus' units its rows are to be.

    Raises UserError for a folder that another job wrote.
    """
    for name in ("manifest.json", "contract.json"):
        found = output.read_json(name) if output.exists(name) else {"job": JOB}
        # The manifests of earlier versions named no job.
        if found.get("job") != JOB and "sampled_with" not in found:
            raise UserError(f"output = {output.url}: {name} there is of another job; give a folder of its own")
    if (output / "drivers").list_files():
        raise UserError(f"output = {output.url}: the run there is of another job; give a folder of its own")
    output.write_json("contract.json", {"job": JOB, "corpus": corpus_id})
    output.delete(["manifest.json", *(f"traces/{name}" for name in (output / "traces").list_files())])


class BucketDecider:
    """Decides the units of one bucket; writes a trace file for each of the run's, returns counts."""

    def __init__(
        self, config: DecideAgainConfig, corpus: Folder, scale: ScaleConfig, sampling: SamplingConfig, num_buckets: int
    ):
        self._config, self._corpus, self._scale, self._num_buckets = config, corpus, scale, num_buckets
        self._sampling = sampling.model_copy(update={"mode": "sequential"})

    def decide(self, _: int, bucket: int) -> Counter[str]:
        """Decide the units of a bucket; returns how many had which outcome."""
        labels = self._read_labels(bucket)
        counts: Counter[str] = Counter()
        run, output = Folder(self._config.run), Folder(self._config.output)
        for shard, name in current_shard_files(run / "traces").items():
            if shard % self._num_buckets == bucket:
                rows = (run / "traces").read_table(name).to_pylist()
                decided = [self._decide(row, labels[unit_key(row)]) for row in rows if unit_key(row) in labels]
                counts[NOT_HELD] += len(rows) - len(decided)
                counts.update(row["outcome"] for row in decided)
                counts[TEXT_NOT_KEPT] += sum(row["error"] == TEXT_NOT_KEPT for row in decided)
                table = pa.Table.from_pylist(decided, schema=TRACES)
                (output / "traces").write_atomic(f"shard-{shard:05d}.parquet", encode_shard(table, tally_traces(table)))
        return counts

    def _read_labels(self, bucket: int) -> dict[tuple[str, str, str], dict[str, Any]]:
        labels = {}
        for manifest in read_finished(self._corpus):
            for shard in manifest["shards"]:
                if int(shard["name"][6:-8]) % self._num_buckets == bucket:
                    for row in self._corpus.read_table(f"items/{shard['name']}").to_pylist():
                        labels[unit_key(row)] = row
        return labels

    def _decide(self, row: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
        labelled = row | {name: item[name] for name in ITEMS.names}
        scale = self._scale.of(row["dimension"])
        assert scale is not None, f"prepare_corpus lets no unit of dimension {row['dimension']!r} through"
        return labelled | decide_again(labelled, scale, self._config.acceptance, self._sampling)


if __name__ == "__main__":
    run_job(main)
