"""A second, real S3 server (rclone): it reads and writes plainly, but ignores If-None-Match."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from judgetrace.config import UserError
from judgetrace.corpus import list_shards
from judgetrace.run_folder import RunFolder
from judgetrace.storage import Folder
from tests.test_job_infer_traces import NUM_UNITS, prepare


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def rclone(tmp_path, monkeypatch) -> Iterator[str]:
    """Serve a folder as S3; returns the URL of a bucket. Only this process is told of the server."""
    (tmp_path / "store/corpora").mkdir(parents=True)
    port = free_port()
    server = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("rclone")),
            "serve",
            "s3",
            f"--addr=127.0.0.1:{port}",
            "--auth-key=test,test",
            str(tmp_path / "store"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    try:
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        yield "s3://corpora"
        s3fs.S3FileSystem.clear_instance_cache()
    finally:
        server.terminate()
        server.wait(timeout=10)


@pytest.mark.served
def test_files_are_written_listed_and_read(rclone):
    folder = Folder(f"{rclone}/some/where")
    folder.write_atomic("a.json", b"{}")
    with folder.open_for_write("deep/b.bin") as file:
        file.write(b"x" * 10_000_000)
    assert folder.list_files(recursive=True) == ["a.json", "deep/b.bin"]
    assert folder.read_bytes("deep/b.bin") == b"x" * 10_000_000
    folder.delete(["a.json"])
    assert not folder.exists("a.json")


@pytest.mark.served
def test_a_run_on_a_store_that_lets_writers_overwrite_each_other_is_refused(rclone):
    with pytest.raises(UserError, match="let a second writer overwrite"):
        RunFolder(Folder(f"{rclone}/run")).check_store()


@pytest.mark.slow
def test_a_corpus_is_prepared_from_and_to_it(rclone, tmp_path):
    prepare(tmp_path, str(tmp_path / "local"), "--dry-run")
    Folder(f"{rclone}/raw").write_atomic("source.csv", (tmp_path / "source.csv").read_bytes())
    job = [sys.executable, "-m", "jobs.prepare_corpus", str(tmp_path / "corpus.toml")]
    job += [f"--corpus={rclone}/corpus", f"--source.paths={json.dumps([f'{rclone}/raw/source.csv'])}"]
    job += ["--cluster.address=local"]
    done = subprocess.run(job, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    corpus = Folder(f"{rclone}/corpus")
    assert sum(corpus.read_table(name).num_rows for name in list_shards(corpus)) == NUM_UNITS


@pytest.mark.served
def test_prepare_needs_no_cluster_for_a_dry_run(rclone, tmp_path, capsys):
    prepare(tmp_path, f"{rclone}/never", "--dry-run")
    assert "single" in capsys.readouterr().out
    assert Folder(f"{rclone}/never").list_files(recursive=True) == []
