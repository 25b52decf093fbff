import concurrent.futures
import hashlib
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

SIZE = 20_000
ROOM = 10**9
"""Bytes that a cache may hold whose limit does not matter: the default one depends on this machine's disk."""


def content(number: int, size: int = SIZE) -> bytes:
    return (hashlib.sha256(str(number).encode()).digest() * (size // 32 + 1))[:size]


def shard_of(number: int, size: int = SIZE) -> ShardFile:
    """The description of a file of which only size and hash matter here."""
    sha256 = hashlib.sha256(content(number, size)).hexdigest()
    return ShardFile(
        name=f"track-{number}.lmdb", bytes=size, sha256=sha256, first_segment=0, records=((0, 1),), index_crc32=0
    )


def stored(prefix: str, folder: Path, count: int, size: int = SIZE) -> list[tuple[str, ShardFile]]:
    """So many files in the bucket."""
    uploads, wanted = [], []
    for number in range(count):
        shard = shard_of(number, size)
        path = folder / shard.name
        path.write_bytes(content(number, size))
        uploads.append(Upload(path=path, uri=f"{prefix}/{shard.name}", sha256=shard.sha256))
        wanted.append((f"{prefix}/{shard.name}", shard))
    upload(uploads)
    return wanted


def fetch(cache: ShardCache, item: tuple[str, ShardFile]) -> bytes:
    with cache.local_path(*item) as path:
        return path.read_bytes()


def held_by(cache: ShardCache) -> set[str]:
    """Hashes of the whole shards in the cache."""
    return {path.stem for path in cache.folder.glob("*.lmdb")}


def test_a_shard_is_fetched_once_and_named_after_its_content(s3, prefix, tmp_path):
    ((uri, shard),) = stored(prefix, tmp_path, 1)
    cache = ShardCache(tmp_path / "cache", ROOM)
    for _ in range(3):
        assert fetch(cache, (uri, shard)) == content(0)
    assert [path.name for path in cache.folder.iterdir() if path.name != ".ledger"] == [f"{shard.sha256}.lmdb"]
    assert len(s3.proxy.seen("GET", shard.name)) == 1


def test_threads_and_processes_that_want_one_shard_download_it_once(s3, prefix, tmp_path):
    wanted = stored(prefix, tmp_path, 3)
    cache = ShardCache(tmp_path / "cache", ROOM)
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = [sys.argv[1]]\n"
        "from tests.data.shards.test_cache import SIZE, ShardCache, fetch, shard_of\n"
        "for number in range(3):\n"
        "    shard = shard_of(number)\n"
        "    fetch(ShardCache(Path(sys.argv[2]), 10**9), (f'{sys.argv[3]}/{shard.name}', shard))\n"
    )
    words = [str(Path(__file__).parent), str(cache.folder), prefix]
    processes = [subprocess.Popen([sys.executable, "-c", script, *words]) for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda n: fetch(cache, wanted[n % 3]), range(12))) == [content(n % 3) for n in range(12)]
    assert [process.wait(120) for process in processes] == [0, 0]
    for _, shard in wanted:
        assert len(s3.proxy.seen("GET", shard.name)) == 1


def test_the_shards_opened_longest_ago_go_when_the_limit_is_reached(prefix, tmp_path):
    wanted = stored(prefix, tmp_path, 5)
    cache = ShardCache(tmp_path / "cache", limit_bytes=3 * SIZE)
    for number in (0, 1, 2, 0, 3):
        fetch(cache, wanted[number])
    assert held_by(cache) == {wanted[number][1].sha256 for number in (0, 2, 3)}
    fetch(cache, wanted[4])
    assert held_by(cache) == {wanted[number][1].sha256 for number in (0, 3, 4)}


def test_an_evicted_shard_stays_readable_where_it_is_mapped(prefix, tmp_path):
    wanted = stored(prefix, tmp_path, 2)
    cache = ShardCache(tmp_path / "cache", limit_bytes=SIZE)
    with cache.local_path(*wanted[0]) as path, path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    fetch(cache, wanted[1])
    assert not path.exists()
    assert mapped[:] == content(0)
    mapped.close()


def test_a_shard_in_use_is_not_evicted_and_who_needs_its_room_waits(prefix, tmp_path):
    wanted = stored(prefix, tmp_path, 2)
    cache = ShardCache(tmp_path / "cache", limit_bytes=SIZE)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with cache.local_path(*wanted[0]) as path:
            waiting = pool.submit(fetch, cache, wanted[1])
            with pytest.raises(concurrent.futures.TimeoutError):
                waiting.result(0.5)
            assert path.exists()
        assert waiting.result(60) == content(1)
    assert held_by(cache) == {wanted[1][1].sha256}


def test_many_fetches_at_once_never_exceed_the_limit(prefix, tmp_path):
    wanted = stored(prefix, tmp_path, 8)
    cache = ShardCache(tmp_path / "cache", limit_bytes=2 * SIZE)
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
    assert found == [content(n % 8) for n in range(24)]
    # A file counts under two names for the moment of a glob in which it is renamed.
    assert SIZE <= largest[0] <= 3 * SIZE
    assert len(held_by(cache)) == 2


def test_a_shard_larger_than_the_cache_is_refused_with_the_setting_to_change(prefix, tmp_path):
    (item,) = stored(prefix, tmp_path, 1)
    with pytest.raises(
        StorageError, match="may hold 9.31e-06 GiB and a shard has 1.86e-05 GiB; raise CYCLESEP_CACHE_GIB"
    ):
        fetch(ShardCache(tmp_path / "cache", limit_bytes=SIZE // 2), item)


@pytest.mark.parametrize("free", [5, 6])
def test_five_percent_of_the_disk_stay_free_by_default(prefix, tmp_path, monkeypatch, free):
    (item,) = stored(prefix, tmp_path, 1)
    sizes = namedtuple("sizes", "total used free")(100 * 10 * SIZE, 0, free * 10 * SIZE)
    monkeypatch.setattr("cyclesep.data.shards.cache.shutil.disk_usage", lambda _: sizes)
    cache = ShardCache(tmp_path / "cache")
    if free > 5:
        assert fetch(cache, item) == content(0)
        return
    told = "has 0.000931 GiB free, of which 5 % of the disk stay free, and a shard has 1.86e-05 GiB; free space, set"
    with pytest.raises(StorageError, match=f"/cache: the disk of the shard cache {told} CYCLESEP_CACHE to a folder"):
        fetch(cache, item)


def test_damage_on_the_way_is_never_kept(s3, prefix, tmp_path):
    (item,) = stored(prefix, tmp_path, 1)
    cache = ShardCache(tmp_path / "cache", ROOM)
    with s3.proxy.injecting(Fault("flip", contains="track-0", value=77)):
        assert fetch(cache, item) == content(0)
    cache.discard(item[1])
    with (
        s3.proxy.injecting(Fault("flip", contains="track-0", value=77, times=9)),
        pytest.raises(StorageError, match="track-0.lmdb: SHA-256 mismatch"),
    ):
        fetch(cache, item)
    assert [path.name for path in cache.folder.iterdir()] == [".ledger"]


def test_another_object_under_the_name_is_refused_and_its_own_content_gets_a_file_of_its_own(prefix, tmp_path):
    ((uri, old),) = stored(prefix, tmp_path, 1)
    cache = ShardCache(tmp_path / "cache", ROOM)
    fetch(cache, (uri, old))
    new = shard_of(1)
    (tmp_path / "new").write_bytes(content(1))
    upload([Upload(path=tmp_path / "new", uri=uri, sha256=new.sha256)])
    assert fetch(cache, (uri, new)) == content(1)
    assert fetch(cache, (uri, old)) == content(0)
    with pytest.raises(StorageError, match="ingest the corpus again"):
        fetch(ShardCache(tmp_path / "empty", ROOM), (uri, old))


def test_what_a_killed_process_leaves_is_taken_up_and_its_promise_of_room_is_void(s3, prefix, tmp_path):
    size = 3 * 2**20
    wanted = stored(prefix, tmp_path, 2, size)
    folder = tmp_path / "cache"
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = [sys.argv[1]]\n"
        "from tests.data.shards.test_cache import ShardCache, fetch, shard_of\n"
        f"fetch(ShardCache(Path(sys.argv[2]), limit_bytes={size}), (sys.argv[3], shard_of(0, {size})))\n"
    )
    release = threading.Event()
    held = Fault("hold", contains="track-0", value=release)
    with s3.proxy.injecting(Fault("cut", contains="track-0", value=2 * 2**20), held):
        words = [str(Path(__file__).parent), str(folder), wanted[0][0]]
        process = subprocess.Popen([sys.executable, "-c", script, *words])
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
    assert fetch(cache, wanted[0]) == content(0, size)
    (request,) = s3.proxy.seen("GET", "track-0")
    assert request.headers["range"] == f"bytes={2 * 2**20 - 1}-"
    assert fetch(cache, wanted[1]) == content(1, size)
    assert not list(folder.glob("*.lock"))


def test_parts_that_nobody_fetches_any_more_count_and_are_evicted(prefix, tmp_path):
    wanted = stored(prefix, tmp_path, 2)
    cache = ShardCache(tmp_path / "cache", limit_bytes=2 * SIZE)
    cache.folder.mkdir()
    orphan = cache.folder / f".{'0' * 64}.lmdb.etag.partial"
    orphan.write_bytes(bytes(SIZE))
    for item in wanted:
        fetch(cache, item)
    assert not orphan.exists()
    assert len(held_by(cache)) == 2


def test_a_prefetch_fetches_what_fits_and_several_share_the_work(s3, prefix, tmp_path):
    wanted = stored(prefix, tmp_path, 6)
    cache = ShardCache(tmp_path / "cache", limit_bytes=4 * SIZE + 10)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        list(pool.map(cache.prefetch, [wanted] * 3))
    deadline = time.monotonic() + 60
    while len(held_by(cache)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert held_by(cache) == {shard.sha256 for _, shard in wanted[:4]}
    assert [len(s3.proxy.seen("GET", shard.name)) for _, shard in wanted] == [1, 1, 1, 1, 0, 0]


def test_a_prefetch_that_fails_says_nothing_and_the_reader_is_told(prefix, tmp_path):
    item = (f"{prefix}/nothing", shard_of(0))
    cache = ShardCache(tmp_path / "cache", ROOM)
    cache.prefetch([item])
    with pytest.raises(ObjectNotFound, match=f"{prefix}/nothing: object not found"):
        fetch(cache, item)


def test_the_environment_names_folder_and_limit(monkeypatch, tmp_path):
    monkeypatch.setenv("CYCLESEP_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("CYCLESEP_CACHE_GIB", "1.5")
    assert ShardCache.of_this_machine() == ShardCache(tmp_path / "here", 3 * 2**29)
    monkeypatch.delenv("CYCLESEP_CACHE_GIB")
    assert ShardCache.of_this_machine().limit_bytes is None
    monkeypatch.delenv("CYCLESEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert ShardCache.of_this_machine().folder == tmp_path / "caches" / "cyclesep" / "shards"


@pytest.mark.parametrize("told", ["none", "-1", "0", "nan", "inf"])
def test_a_limit_that_is_no_size_is_refused(monkeypatch, told):
    monkeypatch.setenv("CYCLESEP_CACHE_GIB", told)
    with pytest.raises(ConfigError, match=f"CYCLESEP_CACHE_GIB={told}: is no size"):
        ShardCache.of_this_machine()


def test_a_cache_that_cannot_be_written_says_which_setting_names_another(prefix, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/cache: the shard cache cannot be used .*; set CYCLESEP_CACHE"):
        fetch(ShardCache(tmp_path / "file" / "cache"), (f"{prefix}/a", shard_of(0)))
