"""What tests share: one S3 server and one Ray, each started once and only where a test asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from judgetrace.session import worker_path

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
    cluster = Cluster()
    for _ in range(2):
        cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=256 * 2**20)
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": worker_path(), **environment}},
    )
    yield cluster
    ray.shutdown()
    cluster.shutdown()


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
