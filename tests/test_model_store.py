"""Model folders by URL, on S3 and on a slow store of our own: fetched once, whole, anew when they change."""

from __future__ import annotations

import errno
import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from judgetrace import model_store
from judgetrace.config import UserError
from judgetrace.engine import ModelConfig
from judgetrace.fingerprints import fingerprint_model
from judgetrace.folder_lock import lock_folder
from judgetrace.model_store import PIECE_BYTES, fetch_folder, fetch_model
from judgetrace.storage import Folder, StoreError
from tests.disk_store import ASKED, STALLS, DiskStore

SPAWNING = multiprocessing.get_context("spawn")
WEIGHTS = bytes(range(256)) * (PIECE_BYTES // 256) + b"the beginning of a second piece"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
    "empty.txt": b"",
    "additional_chat_templates/tool.jinja": b"tool",
    ".gitattributes": b"hidden",
}
SHOWN = {name: data for name, data in FILES.items() if not name.startswith(".")}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("JUDGETRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(ASKED, str(tmp_path / "asked"))
    return tmp_path / "cache"


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.served)])
def url(request, tmp_path) -> str:
    """A model folder in a store."""
    root = f"disk://{tmp_path}" if request.param == "disk" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    return write_files(f"{root}/runs/x/rater")


def write_files(url: str, **changes: bytes) -> str:
    for name, data in {**FILES, **changes}.items():
        with Folder(url).open_for_write(name) as file:
            file.write(data)
    return url


@pytest.fixture
def disk(tmp_path) -> str:
    """A model folder in the slow store."""
    folder = tmp_path / "store/rater"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return f"disk://{folder}"


def read_all(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def list_cache(cache: Path) -> list[str]:
    return sorted(file.name for file in cache.iterdir() if not file.name.endswith(".lock"))


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("path", ["organisation/model", "/some/folder", "relative/deeper/folder"])
def test_names_and_local_paths_are_returned_as_they_are(path, cache):
    assert fetch_folder(path) == Path(path)
    assert fetch_folder(f"file://{path}") == Path(path)
    assert fetch_model(ModelConfig(path=path, revision="r")) == ModelConfig(path=path, revision="r")
    assert not cache.exists()


def test_a_folder_by_url_is_fetched_whole_and_once(url, cache):
    folder = fetch_folder(url)
    assert folder.parent == cache
    assert folder.name.startswith("x-rater-")
    assert read_all(folder) == SHOWN
    made_at = folder.stat().st_ctime_ns
    assert fetch_folder(f"{url}/") == folder
    assert folder.stat().st_ctime_ns == made_at
    assert list_cache(cache) == [folder.name]


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("JUDGETRACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert model_store.find_cache() == tmp_path / "judgetrace/models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert model_store.find_cache() == Path("/home/someone/.cache/judgetrace/models")


def test_a_changed_folder_is_fetched_anew_and_the_old_copy_stays(url):
    old = fetch_folder(url)
    # The same name and size.
    changed = WEIGHTS[:-1] + b"!"
    write_files(url, **{"model.safetensors": changed})
    new = fetch_folder(url)
    assert new != old
    assert (new / "model.safetensors").read_bytes() == changed
    assert read_all(old) == SHOWN


def test_two_folders_with_the_same_files_are_two_copies(url):
    other = write_files(f"{url}-of-another/x/rater")
    assert fetch_folder(other) != fetch_folder(url)


def test_a_tokenizer_is_fetched_without_the_weights_unless_they_are_there(url, cache):
    folder = fetch_folder(url, weights=False)
    assert read_all(folder) == {name: data for name, data in SHOWN.items() if name != "model.safetensors"}
    whole = fetch_folder(url)
    assert read_all(whole) == SHOWN
    assert fetch_folder(url, weights=False) == whole
    assert list_cache(cache) == sorted([folder.name, whole.name])


def test_model_and_adapter_become_local_paths(url):
    adapter = f"{url}-adapter"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        with Folder(adapter).open_for_write(name) as file:
            file.write(b"{}")
    fetched = fetch_model(ModelConfig(path=url, adapter=adapter))
    assert read_all(Path(fetched.path)) == SHOWN
    assert sorted(read_all(Path(str(fetched.adapter)))) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_url_without_a_model_or_adapter_is_refused(url, cache):
    nowhere = url.rpartition("/")[0] + "/nowhere"
    with pytest.raises(UserError, match=rf"model\.path = {nowhere}: no config\.json there"):
        fetch_folder(nowhere)
    with pytest.raises(UserError, match=r"no config\.json there"):
        fingerprint_model(ModelConfig(path=url.rpartition("/")[0]))
    for refuse in (lambda m: fetch_folder(m.adapter, "adapter"), fetch_model, fingerprint_model):
        with pytest.raises(UserError, match=rf"model\.adapter = {url}: no adapter_config\.json there"):
            refuse(ModelConfig(path=url, adapter=url))


def test_a_store_that_nobody_knows_is_refused_with_its_reason():
    with pytest.raises(UserError, match=r"model\.path = nonsense://a/b: can't be read: ValueError: Protocol not known"):
        fetch_folder("nonsense://a/b")


@pytest.mark.parametrize("call", ["info", "cat_file"])
def test_a_store_that_is_away_is_the_stores_fault_and_the_next_call_fetches_the_folder(disk, call, monkeypatch):
    def throttle(*arguments, **options):
        raise OSError(errno.EIO, "SlowDown")

    with monkeypatch.context() as away:
        away.setattr(DiskStore, call, throttle)
        with pytest.raises(StoreError, match=r"can't be read: OSError: \[Errno 5\] SlowDown") as told:
            fetch_folder(disk)
    assert told.value.exit_status == 3
    assert read_all(fetch_folder(disk)) == SHOWN


@pytest.mark.served
def test_a_bucket_that_is_not_there_is_refused(s3):
    with pytest.raises(UserError, match=r"model\.path = s3://no-such-bucket/m: no config\.json there"):
        fetch_folder("s3://no-such-bucket/m")


def test_a_folder_larger_than_the_disk_is_refused_before_anything_is_fetched(tmp_path, cache):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text("{}")
    with (tmp_path / "m/model.safetensors").open("wb") as file:
        # Holes: 8 TiB that take no room here.
        file.truncate(8 << 40)
    with pytest.raises(UserError, match=r"has 8,796,093,022,210 bytes, and .* has room for"):
        fetch_folder(f"disk://{tmp_path}/m")
    assert list_cache(cache) == []


def test_fingerprints_by_url_see_every_file_and_read_no_weights(disk, tmp_path):
    store = tmp_path / "store/rater"

    def fingerprint() -> str:
        return fingerprint_model(ModelConfig(path=disk))

    first = fingerprint()
    asked = (tmp_path / "asked").read_text().split()
    assert sorted(asked) == ["chat_template.jinja", "config.json", "tokenizer.json", "tool.jinja"]
    assert fingerprint() == first
    # The same text written again changes nothing, other weights of the same size do.
    (store / "config.json").write_bytes(FILES["config.json"])
    assert fingerprint() == first
    (store / "model.safetensors").write_bytes(WEIGHTS[::-1])
    second = fingerprint()
    assert second != first
    (store / "config.json").write_bytes(b"[]")
    assert fingerprint() not in (first, second)


@pytest.mark.served
def test_fingerprints_on_s3_are_the_same_for_weights_that_were_uploaded_again(s3, tmp_path):
    url = write_files(f"{s3}/{tmp_path.name}/m")
    first = fingerprint_model(ModelConfig(path=url))
    time.sleep(1.1)  # times there are whole seconds
    assert fingerprint_model(ModelConfig(path=write_files(url))) == first
    write_files(url, **{"model.safetensors": WEIGHTS[::-1]})
    assert fingerprint_model(ModelConfig(path=url)) != first


def test_the_fingerprint_of_a_local_folder_is_what_it_always_was(tmp_path):
    """Worked out by hand: BLAKE2b of 12 bytes over name and content of texts, name, size and samples of the rest."""
    import hashlib

    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "model.safetensors").write_bytes(b"123")
    expected = hashlib.blake2b(b"config.json{}" + b"model.safetensors 3" + b"123" + b"23" + b"3", digest_size=12)
    assert fingerprint_model(ModelConfig(path=str(tmp_path))) == expected.hexdigest()
    assert fingerprint_model(ModelConfig(path=f"file://{tmp_path}")) == expected.hexdigest()


def fetch_and_tell(url: str, found: multiprocessing.Queue[str]) -> None:
    """Runs in processes of its own, which import the slow store with this module."""
    found.put(str(fetch_folder(url)))


def test_of_two_processes_one_fetches_and_the_other_waits_for_it(disk, tmp_path):
    found = SPAWNING.Queue()
    processes = [SPAWNING.Process(target=fetch_and_tell, args=(disk, found)) for _ in range(2)]
    for process in processes:
        process.start()
    folders = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(60)
    (folder,) = folders
    assert read_all(Path(folder)) == SHOWN
    asked = (tmp_path / "asked").read_text().split()
    # Each file in one piece, the weights in two, an empty one in none.
    texts = {"chat_template.jinja": 1, "config.json": 1, "tokenizer.json": 1, "tool.jinja": 1}
    assert Counter(asked) == texts | {"model.safetensors": 2}


def test_who_waits_takes_what_the_other_fetched(disk, cache, tmp_path):
    expected = cache / model_store._name_copy(disk, model_store.list_files(disk))
    found: list[Path] = []
    with lock_folder(expected):
        waiting = threading.Thread(target=lambda: found.append(fetch_folder(disk)))
        waiting.start()
        time.sleep(0.5)
        assert (found, list_cache(cache)) == ([], [])
        expected.mkdir()
    waiting.join(10)
    assert found == [expected]
    assert not (tmp_path / "asked").exists()


def test_half_a_fetch_of_a_killed_process_is_invisible_and_replaced(disk, cache, monkeypatch):
    monkeypatch.setenv(STALLS, "model.safetensors")
    found = SPAWNING.Queue()
    fetching = SPAWNING.Process(target=fetch_and_tell, args=(disk, found))
    fetching.start()
    monkeypatch.delenv(STALLS)

    def half_fetched() -> bool:
        return any(file.stat().st_size == PIECE_BYTES for file in cache.glob(".*.part/model.safetensors"))

    try:
        wait_until(half_fetched)
    finally:
        fetching.kill()
        fetching.join(10)
    (part,) = list_cache(cache)
    (cache / part / "left-behind").touch()
    folder = fetch_folder(disk)
    assert read_all(folder) == SHOWN
    assert list_cache(cache) == [folder.name]


@pytest.mark.parametrize("later", [WEIGHTS[::-1], WEIGHTS[:10]])
def test_a_folder_that_changes_while_it_is_fetched_is_not_kept(later, disk, cache, tmp_path):
    weights = tmp_path / "store/rater/model.safetensors"

    def change() -> None:
        wait_until(lambda: any(cache.glob(".*.part/config.json")))
        weights.write_bytes(later)

    changing = threading.Thread(target=change)
    changing.start()
    with pytest.raises(UserError, match="changed while it was fetched"):
        fetch_folder(disk)
    changing.join(10)
    assert list_cache(cache) == []
    assert (fetch_folder(disk) / "model.safetensors").read_bytes() == later


@pytest.mark.served
def test_fetching_holds_pieces_in_memory_and_no_whole_file(s3, tmp_path):
    url, pieces = f"{s3}/{tmp_path.name}/large", 32
    write_files(url, **{"model.safetensors": WEIGHTS[:PIECE_BYTES] * pieces})
    program = (
        "import json, sys, tracemalloc; from judgetrace.model_store import fetch_folder; tracemalloc.start(); "
        "folder = fetch_folder(sys.argv[1]); print(json.dumps([str(folder), tracemalloc.get_traced_memory()[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True)
    folder, most_bytes = json.loads(done.stdout)
    assert (Path(folder) / "model.safetensors").stat().st_size == pieces * PIECE_BYTES
    # A piece is held as it comes in, and once more when it is joined.
    assert most_bytes < 2.5 * model_store.PIECES_AT_ONCE * PIECE_BYTES < pieces * PIECE_BYTES


@pytest.mark.served
def test_training_reads_a_base_by_url(cache):
    """Tokenizer and licence without the weights, the model whole; each as from the local folder."""
    import torch

    from judgetrace import embedded
    from judgetrace.training.encoding import load_tokenizer
    from judgetrace.training.export import describe_base
    from judgetrace.training.models import load_base

    local = Path(__file__).parents[1] / ".cache/judgetrace/smollm2-135m"
    embedded.prepare_model(embedded.find_model_file(), local)
    base = ModelConfig(path=f"disk://{local}")
    tokenizer = load_tokenizer(base.path, None)
    assert tokenizer.get_vocab() == load_tokenizer(str(local), None).get_vocab()
    assert describe_base(base) == {"path": base.path, "revision": None, "license": None}
    assert list(cache.glob("*/*.safetensors")) == []
    weights = load_base(base, torch.bfloat16).state_dict()
    expected = load_base(ModelConfig(path=str(local)), torch.bfloat16).state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
