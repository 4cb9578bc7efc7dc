"""The config of `plan_run`: a pilot, the sizes to forecast, prices, and what the parts around the engines can take."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from judgetrace.config import STRICT
from judgetrace.control import REPORT_MS


class EngineForecast(BaseModel):
    """What an engine of the whole run is like, where it is not as in the pilot."""

    model_config = STRICT

    tokens_per_s: float | None = Field(
        default=None,
        gt=0,
        description="Output tokens a second of one replica with all slots full; by default the pilot's own. A pilot on "
        "other hardware, or with other slots, does not carry over: give it then.",
    )
    tokens_per_s_error: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Relative SD of that figure, which the intervals of hours and money include. The default is an "
        "assumption: one pilot measures it once.",
    )
    slots: int | None = Field(default=None, ge=1, description="Draws in flight in one engine; the pilot's by default.")
    gpus: float | None = Field(default=None, ge=0, description="GPUs of one replica; the pilot's by default.")
    startup_s: float | None = Field(
        default=None,
        ge=0,
        description="From the start of the job until engines sample, machines that must be made first included; by "
        "default what the pilot took besides sampling.",
    )


class Prices(BaseModel):
    """What things cost, in one currency."""

    model_config = STRICT

    currency: str = "USD"
    gpu_hour: float | None = Field(
        default=None, ge=0, description="One GPU for an hour; without it, money is that of requests and endpoint only."
    )
    gpu_source: str = Field(default="", description="Where that price is from; printed with the plan.")
    cluster_hour: float = Field(
        default=0.0,
        ge=0,
        description="An hour of all machines that stay up as long as the run: head, CPU workers. 0: not in the money.",
    )
    million_writes: float = Field(
        default=5.0,
        ge=0,
        description="A million PUT or LIST requests. AWS S3 Standard: 0.005 / 1,000 (aws.amazon.com/s3/pricing, read "
        "second-hand in c3x.dev/blog/s3-request-fees-explained).",
    )
    million_reads: float = Field(
        default=0.4, ge=0, description="A million GET or HEAD requests. AWS S3 Standard: 0.0004 / 1,000, likewise."
    )


class Capacities(BaseModel):
    """What the parts around the engines take and can give.

    Those said to be measured are, but for reports, of `python -m tests.bench.planning --quick` on 2 cores, slopes from
    50 to 250 shards; what a hundred thousand take was not measured. What a shard asks of S3 is in planning/demands.py,
    and counted by tests/test_planning_requests.py.
    """

    model_config = STRICT

    driver_ms_per_shard: float = Field(
        default=3.2, ge=0, description="CPU time of the driver to give out a shard and take it back; measured."
    )
    driver_ms_per_report: float = Field(
        default=REPORT_MS,
        ge=0,
        description="Time of the head for a worker's report; measured with 16 workers on two cores. Workers report "
        "once a second, where there are many 32 a second together, each every 5 s at least. Of reports sent at once "
        "the benchmark finds less: 0.15.",
    )
    store_bytes: float = Field(
        default=1e9, gt=0, description="Ray's object store on the head, as in cluster/: object-store-memory."
    )
    store_bytes_per_shard: float = Field(default=740.0, ge=0, description="Object store of a shard's task; measured.")
    writes_per_s: float = Field(
        default=3500.0,
        gt=0,
        description="PUT and DELETE requests a second to a prefix; AWS S3's documented rate.",
    )
    reads_per_s: float = Field(
        default=5500.0,
        gt=0,
        description="GET, HEAD and LIST requests a second to a prefix; AWS S3's documented rate of GET and HEAD.",
    )
    worker_bytes: float = Field(
        default=8e9, gt=0, description="Memory of a worker for the units of its open shards, beside its engine."
    )
    worker_bytes_per_unit: float = Field(
        default=40e3,
        ge=0,
        description="Memory of a unit of an open shard. An assumption: a prompt of 2,000 tokens as text (8 kB) and as "
        "a list of ids (16 kB), and the texts of its draws.",
    )
    driver_bytes: float = Field(default=8e9, gt=0, description="Memory of the driver for the shards it counts.")
    driver_bytes_per_shard: float = Field(default=15e3, ge=0, description="Memory of a shard there; measured.")


class PlanRunConfig(BaseModel):
    """Forecast a run of infer_traces from a pilot: accepted traces, tokens, GPU hours, money, time, first bottleneck.

    Reads the folder of a pilot (`infer_traces --limit N`), or runs it. Writes OUTPUT/plan.json and OUTPUT/plan.md.
    """

    model_config = ConfigDict(extra="forbid")

    pilot: str | None = Field(default=None, description="The run folder of a finished pilot.")
    pilot_config: str | None = Field(
        default=None,
        description="The TOML of infer_traces that the pilot is run with first, by this job: it needs the cluster.",
    )
    pilot_units: int = Field(
        default=200,
        ge=30,
        description="How many units that pilot takes; two a slot of its engine.min_replicas engines where that is "
        "more, since fewer hardly fill them.",
    )
    output: str = Field(description="Folder for plan.json and plan.md.")
    rows: list[int] = Field(
        default=[1_000_000, 10_000_000, 100_000_000], min_length=1, description="Rows of the source to forecast."
    )
    replicas: list[int] = Field(default=[1, 8, 64], min_length=1, description="Engines to forecast with.")
    units_per_row: float | None = Field(
        default=None, gt=0, description="Units that a source row makes; by default as in the pilot's corpus."
    )
    units_per_shard: int | None = Field(default=None, ge=1, description="By default as in the pilot's corpus.")
    replicates: int = Field(default=1000, ge=100, description="Bootstrap replicates of the pilot's items.")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Of all intervals.")
    seed: int = 0
    engine: EngineForecast = Field(default_factory=EngineForecast, description="Engines of the whole run.")
    prices: Prices = Field(default_factory=Prices, description="What things cost.")
    capacities: Capacities = Field(default_factory=Capacities, description="What the parts around the engines take.")

    @model_validator(mode="after")
    def _check(self) -> PlanRunConfig:
        if (self.pilot is None) == (self.pilot_config is None):
            raise ValueError("give either pilot, a finished run, or pilot_config, to run one")
        if min(self.rows) < 1 or min(self.replicas) < 1:
            raise ValueError("rows and replicas must be 1 or more")
        return self
