"""What tests share: one S3 server, one Ray, one undisturbed training; each made once, where it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from judgetrace.session import worker_path

if TYPE_CHECKING:
    from tests.train_runs import WordRuns

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ENDPOINT_KEY = {"JUDGETRACE_TEST_KEY": "sk-test-5f0c1d"}
"""The key of loopback endpoints, in the environment of tests and of Ray's workers."""
S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}
QUICK_RAY = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1"}
"""Ray Train takes a checkpoint up when it looks after its workers, by default every two seconds."""
METRICS_EVERY_S = 2
"""Ray's own 10 s is what a test of metrics would wait for."""


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Serve S3 on loopback; returns the URL of a bucket. The environment names the server, for workers too."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {**S3_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3").create_bucket(Bucket="corpora")
    yield "s3://corpora"
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture(scope="session")
def ray_cluster(s3: str) -> Iterator[Any]:
    """Start a Ray cluster of two nodes once; yields it. Its workers know the S3 server: that comes first."""
    import ray
    from ray.cluster_utils import Cluster

    environment = {name: os.environ[name] for name in (*S3_ENVIRONMENT, "AWS_ENDPOINT_URL")} | ENDPOINT_KEY
    quick = pytest.MonkeyPatch()
    for name, value in QUICK_RAY.items():
        quick.setenv(name, value)
    cluster = Cluster()
    for own in ({"_system_config": {"metrics_report_interval_ms": METRICS_EVERY_S * 1000}}, {}):
        cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=256 * 2**20, **own)
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": worker_path(), **environment}},
    )
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    quick.undo()


@pytest.fixture(scope="session")
def ray_session(ray_cluster: Any) -> str:
    """Start the cluster; returns its address."""
    return str(ray_cluster.address)


@pytest.fixture
def held_cpus(ray_session: str) -> Iterator[Callable[[], None]]:
    """Hold both CPUs of the cluster, as another job's actors would; yields what sets them free."""
    import ray

    @ray.remote(num_cpus=1)
    class Holder:
        def ping(self) -> int:
            return 1

    holders = [Holder.remote() for _ in range(2)]
    ray.get([holder.ping.remote() for holder in holders])

    def release() -> None:
        while holders:
            ray.kill(holders.pop())

    yield release
    release()


@pytest.fixture(scope="session")
def shared_corpus(tmp_path_factory: Any, ray_session: str) -> str:
    """A corpus of 120 units that jobs with a scripted engine read, and none changes; returns its folder."""
    from tests.test_job_infer_traces import prepare

    folder: Path = tmp_path_factory.mktemp("shared")
    return prepare(folder, str(folder / "corpus"))


@pytest.fixture(scope="session")
def faults_corpus(tmp_path_factory: Any, ray_session: str) -> str:
    """The same of 200 units, to be sampled under faults."""
    from tests.test_job_infer_traces import prepare

    folder: Path = tmp_path_factory.mktemp("faults")
    return prepare(folder, str(folder / "corpus"), num=200)


@pytest.fixture(scope="session")
def faults_undisturbed(tmp_path_factory: Any, faults_corpus: str) -> set[tuple[Any, ...]]:
    """What an undisturbed run over it comes to (oracle.accepted_set)."""
    from jobs import infer_traces
    from tests.oracle import accepted_set, check_run
    from tests.test_job_infer_traces import write_config

    folder: Path = tmp_path_factory.mktemp("faults_undisturbed")
    assert infer_traces.main([write_config(folder, faults_corpus, str(folder / "run"))]) == 0
    return accepted_set(check_run(str(folder / "run"), faults_corpus))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: Any, ray_session: str) -> Path:
    """The demo's corpus, its model, and the config of a run of infer_traces."""
    from tests.test_job_real_engine import prepare_demo_corpus

    folder: Path = tmp_path_factory.mktemp("demo")
    prepare_demo_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def word_runs(tmp_path_factory: Any, ray_session: str) -> WordRuns:
    """A tiny model, a corpus and traces to train on."""
    from tests.train_runs import WordRuns, make_tiny_model, prepare_words, write_traces

    folder = tmp_path_factory.mktemp("words")
    corpus = prepare_words(folder, str(folder / "corpus"))
    return WordRuns(corpus, write_traces(corpus, str(folder / "traces")), make_tiny_model(folder / "tiny"))


@pytest.fixture(scope="session")
def undisturbed_training(tmp_path_factory: Any, word_runs: WordRuns) -> str:
    """A run of 25 steps that nothing befell, and whose losses those of others are held against; returns its folder."""
    from jobs import train_rater

    folder: Path = tmp_path_factory.mktemp("undisturbed")
    assert train_rater.main([word_runs.write_long_config(folder, str(folder / "run"))]) == 0
    return str(folder / "run")
