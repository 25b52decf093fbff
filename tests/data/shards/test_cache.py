import concurrent.futures
import mmap
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from cyclesep.data.shards.cache import ShardCache
from cyclesep.data.shards.manifest import ShardFile
from cyclesep.errors import ConfigError, ObjectNotFound, StorageError
from cyclesep.storage.s3_transfers import Upload, upload
from tests.support.fault_proxy import Fault
from tests.support.paths import CHECKOUT
from tests.support.shard_helpers import FILE_SIZE, fetch, file_content, file_description

LARGE = 10**9
"""A limit in bytes that no test reaches; the default depends on the disk."""


def upload_files(prefix: str, folder: Path, count: int, size: int = FILE_SIZE) -> list[tuple[str, ShardFile]]:
    """Upload files; return (uri, shard) of each."""
    uploads, wanted = [], []
    for number in range(count):
        shard = file_description(number, size)
        path = folder / shard.name
        path.write_bytes(file_content(number, size))
        uploads.append(Upload(path=path, uri=f"{prefix}/{shard.name}", sha256=shard.sha256))
        wanted.append((f"{prefix}/{shard.name}", shard))
    upload(uploads)
    return wanted


def cached_hashes(cache: ShardCache) -> set[str]:
    """Return the hashes of complete shards in the cache."""
    return {path.stem for path in cache.folder.glob("*.lmdb")}


def test_shard_is_downloaded_once_and_named_after_its_content(s3, prefix, tmp_path):
    ((uri, shard),) = upload_files(prefix, tmp_path, 1)
    cache = ShardCache(tmp_path / "cache", LARGE)
    for _ in range(3):
        assert fetch(cache, (uri, shard)) == file_content(0)
    assert [path.name for path in cache.folder.iterdir()] == [f"{shard.sha256}.lmdb"]
    assert len(s3.proxy.seen("GET", shard.name)) == 1


def test_threads_and_processes_download_a_shard_once(s3, prefix, tmp_path):
    wanted = upload_files(prefix, tmp_path, 3)
    cache = ShardCache(tmp_path / "cache", LARGE)
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = [sys.argv[1]]\n"
        "from tests.support.shard_helpers import ShardCache, fetch, file_description\n"
        "for number in range(3):\n"
        "    shard = file_description(number)\n"
        "    fetch(ShardCache(Path(sys.argv[2]), 10**9), (f'{sys.argv[3]}/{shard.name}', shard))\n"
    )
    arguments = [str(CHECKOUT), str(cache.folder), prefix]
    processes = [subprocess.Popen([sys.executable, "-c", script, *arguments]) for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda n: fetch(cache, wanted[n % 3]), range(12))) == [
            file_content(n % 3) for n in range(12)
        ]
    assert [process.wait(120) for process in processes] == [0, 0]
    for _, shard in wanted:
        assert len(s3.proxy.seen("GET", shard.name)) == 1


def test_least_recently_opened_shards_are_evicted(prefix, tmp_path):
    wanted = upload_files(prefix, tmp_path, 5)
    cache = ShardCache(tmp_path / "cache", limit_bytes=3 * FILE_SIZE)
    for number in (0, 1, 2, 0, 3):
        fetch(cache, wanted[number])
    assert cached_hashes(cache) == {wanted[number][1].sha256 for number in (0, 2, 3)}
    fetch(cache, wanted[4])
    assert cached_hashes(cache) == {wanted[number][1].sha256 for number in (0, 3, 4)}


def test_evicted_shard_stays_readable_where_it_is_mapped(prefix, tmp_path):
    wanted = upload_files(prefix, tmp_path, 2)
    cache = ShardCache(tmp_path / "cache", limit_bytes=FILE_SIZE)
    with cache.local_path(*wanted[0]) as path, path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    fetch(cache, wanted[1])
    assert not path.exists()
    assert mapped[:] == file_content(0)
    mapped.close()


def test_shard_in_use_is_not_evicted_and_a_download_waits_for_its_space(prefix, tmp_path):
    wanted = upload_files(prefix, tmp_path, 2)
    cache = ShardCache(tmp_path / "cache", limit_bytes=FILE_SIZE)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with cache.local_path(*wanted[0]) as path:
            waiting = pool.submit(fetch, cache, wanted[1])
            with pytest.raises(concurrent.futures.TimeoutError):
                waiting.result(0.5)
            assert path.exists()
        assert waiting.result(60) == file_content(1)
    assert cached_hashes(cache) == {wanted[1][1].sha256}


def test_parallel_downloads_never_exceed_the_limit(prefix, tmp_path):
    wanted = upload_files(prefix, tmp_path, 8)
    cache = ShardCache(tmp_path / "cache", limit_bytes=2 * FILE_SIZE)
    largest, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            sizes = []
            for path in cache.folder.glob("*"):
                try:
                    sizes.append(path.stat().st_size if path.suffix in (".lmdb", ".partial") else 0)
                except FileNotFoundError:
                    continue
            largest[0] = max(largest[0], sum(sizes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: fetch(cache, wanted[n % 8]), range(24)))
    ended.set()
    watcher.join()
    assert found == [file_content(n % 8) for n in range(24)]
    # A file that is renamed during the glob counts twice.
    assert FILE_SIZE <= largest[0] <= 3 * FILE_SIZE
    assert len(cached_hashes(cache)) == 2


def test_error_for_a_shard_larger_than_the_cache_names_the_setting(prefix, tmp_path):
    (item,) = upload_files(prefix, tmp_path, 1)
    with pytest.raises(
        StorageError, match="is limited to 9.31e-06 GiB, but a shard needs 1.86e-05 GiB; raise CYCLESEP_CACHE_GIB"
    ):
        fetch(ShardCache(tmp_path / "cache", limit_bytes=FILE_SIZE // 2), item)


@pytest.mark.parametrize("free", [5, 6])
def test_five_percent_of_the_disk_are_kept_free_by_default(prefix, tmp_path, monkeypatch, free):
    (item,) = upload_files(prefix, tmp_path, 1)
    sizes = namedtuple("sizes", "total used free")(100 * 10 * FILE_SIZE, 0, free * 10 * FILE_SIZE)
    monkeypatch.setattr("cyclesep.data.shards.cache.shutil.disk_usage", lambda _: sizes)
    cache = ShardCache(tmp_path / "cache")
    if free > 5:
        assert fetch(cache, item) == file_content(0)
        return
    reason = "has 0.000931 GiB free and 5 % of it are kept free, but a shard needs 1.86e-05 GiB; free space, set"
    with pytest.raises(StorageError, match=f"/cache: the disk of the shard cache {reason} CYCLESEP_CACHE to a folder"):
        fetch(cache, item)


def test_damaged_download_is_never_kept(s3, prefix, tmp_path):
    (item,) = upload_files(prefix, tmp_path, 1)
    cache = ShardCache(tmp_path / "cache", LARGE)
    with s3.proxy.injecting(Fault("flip", contains="track-0", value=77)):
        assert fetch(cache, item) == file_content(0)
    cache.discard(item[1])
    with (
        s3.proxy.injecting(Fault("flip", contains="track-0", value=77, times=9)),
        pytest.raises(StorageError, match="track-0.lmdb: SHA-256 mismatch"),
    ):
        fetch(cache, item)
    assert not list(cache.folder.iterdir())


def test_replaced_object_is_cached_in_another_file_and_the_old_hash_is_an_error(prefix, tmp_path):
    ((uri, old),) = upload_files(prefix, tmp_path, 1)
    cache = ShardCache(tmp_path / "cache", LARGE)
    fetch(cache, (uri, old))
    new = file_description(1)
    (tmp_path / "new").write_bytes(file_content(1))
    upload([Upload(path=tmp_path / "new", uri=uri, sha256=new.sha256)])
    assert fetch(cache, (uri, new)) == file_content(1)
    assert fetch(cache, (uri, old)) == file_content(0)
    with pytest.raises(StorageError, match="ingest the corpus again"):
        fetch(ShardCache(tmp_path / "empty", LARGE), (uri, old))


def test_download_of_a_killed_process_is_resumed_and_its_reservation_ends(s3, prefix, tmp_path):
    size = 3 * 2**20
    wanted = upload_files(prefix, tmp_path, 2, size)
    folder = tmp_path / "cache"
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = [sys.argv[1]]\n"
        "from tests.support.shard_helpers import ShardCache, fetch, file_description\n"
        f"fetch(ShardCache(Path(sys.argv[2]), limit_bytes={size}), (sys.argv[3], file_description(0, {size})))\n"
    )
    release = threading.Event()
    held = Fault("hold", contains="track-0", value=release)
    with s3.proxy.injecting(Fault("cut", contains="track-0", value=2 * 2**20), held):
        arguments = [str(CHECKOUT), str(folder), wanted[0][0]]
        process = subprocess.Popen([sys.executable, "-c", script, *arguments])
        while not held.done:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        release.set()
    assert [path.read_text() for path in folder.glob("*.lock")] == [str(size)]
    (partial,) = folder.glob(".*.partial")
    assert partial.stat().st_size == 2 * 2**20
    s3.proxy.clear()
    cache = ShardCache(folder, limit_bytes=size)
    assert fetch(cache, wanted[0]) == file_content(0, size)
    (request,) = s3.proxy.seen("GET", "track-0")
    assert request.headers["range"] == f"bytes={2 * 2**20 - 1}-"
    assert fetch(cache, wanted[1]) == file_content(1, size)
    assert not list(folder.glob("*.lock"))


def test_orphaned_partial_downloads_count_and_are_evicted(prefix, tmp_path):
    wanted = upload_files(prefix, tmp_path, 2)
    cache = ShardCache(tmp_path / "cache", limit_bytes=2 * FILE_SIZE)
    cache.folder.mkdir()
    orphan = cache.folder / f".{'0' * 64}.lmdb.etag.partial"
    orphan.write_bytes(bytes(FILE_SIZE))
    for item in wanted:
        fetch(cache, item)
    assert not orphan.exists()
    assert len(cached_hashes(cache)) == 2


def test_prefetch_downloads_what_fits_and_processes_share_the_work(s3, prefix, tmp_path):
    wanted = upload_files(prefix, tmp_path, 6)
    cache = ShardCache(tmp_path / "cache", limit_bytes=4 * FILE_SIZE + 10)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(cache.prefetch, [wanted] * 3))
    deadline = time.monotonic() + 60
    while len(cached_hashes(cache)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cached_hashes(cache) == {shard.sha256 for _, shard in wanted[:4]}
    assert [len(s3.proxy.seen("GET", shard.name)) for _, shard in wanted] == [1, 1, 1, 1, 0, 0]


def test_prefetch_fails_silently_and_reading_raises_the_error(prefix, tmp_path):
    item = (f"{prefix}/nothing", file_description(0))
    cache = ShardCache(tmp_path / "cache", LARGE)
    cache.prefetch([item])
    with pytest.raises(ObjectNotFound, match=f"{prefix}/nothing: object not found"):
        fetch(cache, item)


def test_folder_and_limit_from_environment_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("CYCLESEP_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("CYCLESEP_CACHE_GIB", "1.5")
    assert ShardCache.from_environment() == ShardCache(tmp_path / "here", 3 * 2**29)
    monkeypatch.delenv("CYCLESEP_CACHE_GIB")
    assert ShardCache.from_environment().limit_bytes is None
    monkeypatch.delenv("CYCLESEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert ShardCache.from_environment().folder == tmp_path / "caches" / "cyclesep" / "shards"


@pytest.mark.parametrize("value", ["none", "-1", "0", "nan", "inf"])
def test_invalid_limit_is_an_error(monkeypatch, value):
    monkeypatch.setenv("CYCLESEP_CACHE_GIB", value)
    with pytest.raises(ConfigError, match=f"CYCLESEP_CACHE_GIB={value}: invalid value"):
        ShardCache.from_environment()


def test_error_for_an_unwritable_cache_names_the_setting(prefix, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StorageError, match="file/cache: downloads from S3 cannot be cached there .*; set CYCLESEP_CACHE"
    ):
        fetch(ShardCache(tmp_path / "file" / "cache"), (f"{prefix}/a", file_description(0)))
