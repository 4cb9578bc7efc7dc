"""An S3 server on loopback in a process of its own, for who needs this process's CPU for something else.

It is moto's, as for the tests. Of the two servers among the tests' packages it alone honours If-None-Match, without
which the jobs refuse a store; rclone's overwrites. What it holds is in its memory.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import S3_ENVIRONMENT
from tests.test_second_store import free_port

START_S = 60.0


@contextmanager
def serving_s3(bucket: str) -> Iterator[str]:
    """Serve S3 with one bucket; yields the bucket's URL. The environment names the server, for children too."""
    import boto3
    import s3fs

    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        os.environ.update({**S3_ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"})
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(port: int) -> None:
    until = time.monotonic() + START_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > until:
            raise RuntimeError(f"no S3 server on port {port} after {START_S:g} s")
        time.sleep(0.1)
