"""A corpus never lies: whatever happens to its files, a reader gives what was written or an error that says where."""

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest

from cyclesep.data.shards.manifest import MANIFEST_NAME, ShardFile, TrackRecord, read_manifest, write_manifest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.verification import check, verify
from cyclesep.errors import ShardError
from tests.data.shards.test_shards import SEGMENT, flip, write_corpus

LENGTHS = (1000, 400, 37)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of three tracks, the first in two shards; no test changes it."""
    folder = tmp_path_factory.mktemp("whole")
    write_corpus(folder, lengths=LENGTHS, max_shard_bytes=10000)
    assert [len(track.shards) for track in read_manifest(folder).tracks] == [2, 1, 1]
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "copy")


def pieces(track: TrackRecord) -> Iterator[tuple[int, int, int]]:
    """(segment, start, samples) of each segment."""
    for segment in range(track.num_segments):
        yield segment, segment * track.segment_samples, track.segment_length(segment)


def read_what_is_left(folder: Path) -> tuple[dict[tuple[str, int], np.ndarray], dict[tuple[str, int], str]]:
    """Each segment's samples, or the error that stands in their place."""
    reader, served, refused = ShardReader(folder), {}, {}
    for track in reader.manifest.tracks:
        for segment, start, num_samples in pieces(track):
            try:
                served[track.track_id, segment] = reader.read(track, track.stems, start, num_samples)
            except ShardError as problem:
                refused[track.track_id, segment] = str(problem)
    return served, refused


@pytest.fixture(scope="module")
def truth(whole: Path) -> dict[tuple[str, int], np.ndarray]:
    served, refused = read_what_is_left(whole)
    assert refused == {}
    return served


def shards_of(folder: Path) -> list[tuple[TrackRecord, ShardFile]]:
    return [(track, shard) for track in read_manifest(folder).tracks for shard in track.shards]


def segments_in(track: TrackRecord, shard: ShardFile) -> set[tuple[str, int]]:
    return {(track.track_id, shard.first_segment + number) for number in range(shard.num_segments)}


def assert_only_these_are_refused(
    folder: Path, truth: dict[tuple[str, int], np.ndarray], expected: set[tuple[str, int]], shard: str
) -> None:
    """All other segments are served bit for bit; the reader and `verify` name shard, track and segment of these."""
    served, refused = read_what_is_left(folder)
    assert set(refused) == expected
    for place, samples in served.items():
        np.testing.assert_array_equal(samples, truth[place])
    for (track_id, _), told in refused.items():
        assert f"/{shard}: shard of track {track_id!r}" in told
        assert "; delete the file and run the same ingest again" in told
    assert {(Path(one.shard).name, one.track_id) for one in check(folder, num_threads=1).damage} == {
        (shard, track_id) for track_id, _ in expected
    }


# One bit


def random_flips(whole: Path, count: int) -> Iterator[tuple[str, str, int]]:
    """(kind of place, file, bit), seeded: as many in payloads and headers of records as in LMDB's tree and manifest."""
    rng = np.random.default_rng(3)
    shards = [shard for _, shard in shards_of(whole)]
    for number in range(count):
        if number % 3 == 2:
            yield "manifest", MANIFEST_NAME, int(rng.integers(8 * (whole / MANIFEST_NAME).stat().st_size))
            continue
        shard = shards[rng.integers(len(shards))]
        in_record = np.zeros(shard.bytes, dtype=bool)
        for offset, length in shard.records:
            in_record[offset : offset + length] = True
        kind = ("record", "index")[number % 3]
        byte = int(rng.choice(np.flatnonzero(in_record if kind == "record" else ~in_record)))
        yield kind, shard.name, 8 * byte + int(rng.integers(8))


def test_a_thousand_flipped_bits_in_data_index_and_manifest_are_never_served(
    whole: Path, truth: dict[tuple[str, int], np.ndarray], tmp_path: Path
) -> None:
    kinds = {"record": 0, "index": 0, "manifest": 0}
    shards = {shard.name: (track, shard) for track, shard in shards_of(whole)}
    for number, (kind, name, bit) in enumerate(random_flips(whole, 1000)):
        # A folder of its own each time: a process checks a file once under one name.
        folder = shutil.copytree(whole, tmp_path / str(number))
        flip(folder / name, bit)
        if kind == "manifest":
            for read in (ShardReader, verify):
                with pytest.raises(ShardError, match=re.escape(str(folder / name))):
                    read(folder)
        else:
            track, shard = shards[name]
            hit = [offset <= bit // 8 < offset + length for offset, length in shard.records]
            expected = segments_in(track, shard)
            if kind == "record":
                expected = {(track.track_id, shard.first_segment + hit.index(True))}
            assert_only_these_are_refused(folder, truth, expected, name)
        kinds[kind] += 1
        shutil.rmtree(folder)
    assert kinds == {"record": 334, "index": 333, "manifest": 333}


def test_a_flip_that_changes_no_value_of_the_manifest_is_damage_too(copy: Path) -> None:
    path = copy / MANIFEST_NAME
    text = path.read_text()
    path.write_text(text.replace('"track_id":"Track 0"', '"track_id":"\\u0054rack 0"'))
    with pytest.raises(ShardError, match="damaged, its checksum does not match"):
        ShardReader(copy)


# Files cut, gone, swapped, strange


def lengths_to_cut_to(shard: ShardFile) -> set[int]:
    """Around each page and record, at both ends, and seeded ones between."""
    borders = [0, *range(0, shard.bytes, 4096), *(offset for offset, _ in shard.records), shard.bytes - 1]
    near = {border + step for border in borders for step in (-1, 0, 1)}
    near |= {int(length) for length in np.random.default_rng(1).integers(shard.bytes, size=20)}
    return {length for length in near if 0 <= length < shard.bytes}


def test_a_shard_cut_at_any_length_or_grown_is_refused(
    whole: Path, truth: dict[tuple[str, int], np.ndarray], tmp_path: Path
) -> None:
    track, shard = shards_of(whole)[0]
    lengths = sorted(lengths_to_cut_to(shard) | {shard.bytes + 1, shard.bytes + 4096})
    assert len(lengths) > 40
    for length in lengths:
        folder = shutil.copytree(whole, tmp_path / str(length))
        os.truncate(folder / shard.name, length)
        assert_only_these_are_refused(folder, truth, segments_in(track, shard), shard.name)
        shutil.rmtree(folder)


def test_a_manifest_cut_at_any_length_is_refused_by_its_name(whole: Path, copy: Path) -> None:
    content = (whole / MANIFEST_NAME).read_bytes()
    for length in [0, 1, 2, *range(10, len(content) - 1, 97), len(content) - 2]:
        (copy / MANIFEST_NAME).write_bytes(content[:length])
        with pytest.raises(ShardError, match=re.escape(str(copy / MANIFEST_NAME))):
            ShardReader(copy)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"\0" * 500, b"[" * 100_000, b'{"version": 1}'])
def test_a_manifest_that_is_something_else_is_refused_by_its_name(copy: Path, content: bytes) -> None:
    (copy / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ShardError, match=re.escape(str(copy / MANIFEST_NAME))):
        ShardReader(copy)


def replace_by_nothing(path: Path) -> None:
    path.unlink()


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_an_empty_lmdb(path: Path) -> None:
    path.unlink()
    lmdb.open(str(path), subdir=False, lock=False).close()


def replace_by_an_lmdb_of_someone_else(path: Path) -> None:
    """One that has the keys and the size of the shard."""
    size = path.stat().st_size
    path.unlink()
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as transaction:
        for index in range(4):
            transaction.put(index.to_bytes(4, "big"), b"an image, say")
    os.truncate(path, size)


def replace_by_zeros(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(b"")
    os.truncate(path, size)


def replace_by_text(path: Path) -> None:
    path.write_text("not a shard\n" * 1000)


@pytest.mark.parametrize(
    "replace",
    [
        replace_by_nothing,
        replace_by_a_folder,
        replace_by_an_empty_lmdb,
        replace_by_an_lmdb_of_someone_else,
        replace_by_zeros,
        replace_by_text,
    ],
)
def test_another_file_in_the_place_of_a_shard_is_refused_and_the_other_shards_are_read(
    copy: Path, truth: dict[tuple[str, int], np.ndarray], replace
) -> None:
    track, shard = shards_of(copy)[1]
    replace(copy / shard.name)
    assert_only_these_are_refused(copy, truth, segments_in(track, shard), shard.name)


def test_two_shards_of_equal_shape_that_were_swapped_are_both_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path, lengths=(800, 800, 800))
    (first, one), (second, two), (third, _) = shards_of(tmp_path)
    assert one.bytes == two.bytes
    (tmp_path / one.name).rename(tmp_path / "aside")
    (tmp_path / two.name).rename(tmp_path / one.name)
    (tmp_path / "aside").rename(tmp_path / two.name)
    served, refused = read_what_is_left(tmp_path)
    assert {track_id for track_id, _ in served} == {third.track_id}
    assert set(refused) == segments_in(first, one) | segments_in(second, two)
    assert {Path(damage.shard).name for damage in check(tmp_path).damage} == {one.name, two.name}


def test_a_shard_of_an_older_ingest_of_the_track_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "new", lengths=(800,))
    older = write_corpus(tmp_path / "old", lengths=(300, 800))
    assert len(older) == 2
    ((_, new),), (_, (track, old)) = shards_of(tmp_path / "new"), shards_of(tmp_path / "old")
    shutil.copy(tmp_path / "old" / old.name, tmp_path / "new" / new.name)
    _, refused = read_what_is_left(tmp_path / "new")
    assert set(refused) == {("Track 0", 0), ("Track 0", 1)}
    assert track.track_id == "Track 1"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_samples": 2 * SEGMENT + 1}, "its shards hold 1 of 3 segments"),
        ({"channels": 1}, "channels is 1, of the corpus 2"),
        ({"segment_samples": 0}, "a size is below 1"),
        ({"stems": ()}, "a size is below 1"),
        ({"shards": ()}, "its shards hold 0 of 1 segments"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused_by_name_and_track(copy: Path, changes: dict, told: str) -> None:
    manifest = read_manifest(copy)
    wrong = dataclasses.replace(manifest.tracks[1], **changes)
    write_manifest(copy, dataclasses.replace(manifest, tracks=(manifest.tracks[0], wrong)))
    with pytest.raises(ShardError, match=re.escape(f"{copy / MANIFEST_NAME}: track 'Track 1': {told}; run")):
        ShardReader(copy)
