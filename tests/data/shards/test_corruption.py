"""Corrupted corpora: a reader returns what was written, or raises an error that names shard, track and segment."""

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
from tests.support.shard_helpers import SEGMENT, flip_bit, write_corpus

LENGTHS = (1000, 400, 37)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of three tracks, the first in two shards; tests must not change it."""
    folder = tmp_path_factory.mktemp("intact")
    write_corpus(folder, lengths=LENGTHS, max_shard_bytes=10000)
    assert [len(track.shards) for track in read_manifest(folder).tracks] == [2, 1, 1]
    return folder


@pytest.fixture
def copy(intact: Path, tmp_path: Path) -> Path:
    """A copy of the corpus, which a test may damage."""
    return shutil.copytree(intact, tmp_path / "copy")


def segments_of(track: TrackRecord) -> Iterator[tuple[int, int, int]]:
    """Yield (segment, start, number of samples) of each segment."""
    for segment in range(track.num_segments):
        yield segment, segment * track.segment_samples, track.segment_length(segment)


def read_segments(folder: Path) -> tuple[dict[tuple[str, int], np.ndarray], dict[tuple[str, int], str]]:
    """Return the samples of all readable segments, and the errors of all others."""
    reader, samples, errors = ShardReader(folder), {}, {}
    for track in reader.manifest.tracks:
        for segment, start, num_samples in segments_of(track):
            try:
                samples[track.track_id, segment] = reader.read(track, track.stems, start, num_samples)
            except ShardError as problem:
                errors[track.track_id, segment] = str(problem)
    return samples, errors


@pytest.fixture(scope="module")
def expected_samples(intact: Path) -> dict[tuple[str, int], np.ndarray]:
    samples, errors = read_segments(intact)
    assert errors == {}
    return samples


def all_shards(folder: Path) -> list[tuple[TrackRecord, ShardFile]]:
    return [(track, shard) for track in read_manifest(folder).tracks for shard in track.shards]


def segments_in(track: TrackRecord, shard: ShardFile) -> set[tuple[str, int]]:
    return {(track.track_id, shard.first_segment + number) for number in range(shard.num_segments)}


def assert_damage(
    folder: Path, expected_samples: dict[tuple[str, int], np.ndarray], expected: set[tuple[str, int]], shard: str
) -> None:
    """Check that errors of these segments name shard and track, and that all other segments are read bit-exactly."""
    samples, errors = read_segments(folder)
    assert set(errors) == expected
    for key, found in samples.items():
        np.testing.assert_array_equal(found, expected_samples[key])
    for (track_id, _), error in errors.items():
        assert f"/{shard}: shard of track {track_id!r}" in error
        assert "; delete the file and run the same ingest again" in error
    assert {(Path(one.shard).name, one.track_id) for one in check(folder, num_threads=1).damage} == {
        (shard, track_id) for track_id, _ in expected
    }


# One bit


def random_flips(intact: Path, count: int) -> Iterator[tuple[str, str, int]]:
    """Yield random (kind, file, bit), one third each in records, LMDB's trees and the manifest."""
    rng = np.random.default_rng(3)
    shards = [shard for _, shard in all_shards(intact)]
    for number in range(count):
        if number % 3 == 2:
            yield "manifest", MANIFEST_NAME, int(rng.integers(8 * (intact / MANIFEST_NAME).stat().st_size))
            continue
        shard = shards[rng.integers(len(shards))]
        in_record = np.zeros(shard.bytes, dtype=bool)
        for offset, length in shard.records:
            in_record[offset : offset + length] = True
        kind = ("record", "index")[number % 3]
        byte = int(rng.choice(np.flatnonzero(in_record if kind == "record" else ~in_record)))
        yield kind, shard.name, 8 * byte + int(rng.integers(8))


def test_flipped_bits_in_records_index_and_manifest_are_never_returned(
    intact: Path, expected_samples: dict[tuple[str, int], np.ndarray], tmp_path: Path
) -> None:
    kinds = {"record": 0, "index": 0, "manifest": 0}
    shards = {shard.name: (track, shard) for track, shard in all_shards(intact)}
    for number, (kind, name, bit) in enumerate(random_flips(intact, 1000)):
        # A new folder each time, because a process checks a file at a path only once.
        folder = shutil.copytree(intact, tmp_path / str(number))
        flip_bit(folder / name, bit)
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
            assert_damage(folder, expected_samples, expected, name)
        kinds[kind] += 1
        shutil.rmtree(folder)
    assert kinds == {"record": 334, "index": 333, "manifest": 333}


def test_change_of_the_manifest_without_effect_on_its_values_is_damage(copy: Path) -> None:
    path = copy / MANIFEST_NAME
    text = path.read_text()
    path.write_text(text.replace('"track_id":"Track 0"', '"track_id":"\\u0054rack 0"'))
    with pytest.raises(ShardError, match="damaged, its checksum does not match"):
        ShardReader(copy)


# Truncated, missing, swapped and foreign files


def truncated_lengths(shard: ShardFile) -> set[int]:
    """Return lengths around the borders of pages and records, and random ones."""
    borders = [0, *range(0, shard.bytes, 4096), *(offset for offset, _ in shard.records), shard.bytes - 1]
    near = {border + step for border in borders for step in (-1, 0, 1)}
    near |= {int(length) for length in np.random.default_rng(1).integers(shard.bytes, size=20)}
    return {length for length in near if 0 <= length < shard.bytes}


def test_truncated_or_longer_shard_is_an_error(
    intact: Path, expected_samples: dict[tuple[str, int], np.ndarray], tmp_path: Path
) -> None:
    track, shard = all_shards(intact)[0]
    lengths = sorted(truncated_lengths(shard) | {shard.bytes + 1, shard.bytes + 4096})
    assert len(lengths) > 40
    for length in lengths:
        folder = shutil.copytree(intact, tmp_path / str(length))
        os.truncate(folder / shard.name, length)
        assert_damage(folder, expected_samples, segments_in(track, shard), shard.name)
        shutil.rmtree(folder)


def test_truncated_manifest_is_an_error(intact: Path, copy: Path) -> None:
    content = (intact / MANIFEST_NAME).read_bytes()
    for length in [0, 1, 2, *range(10, len(content) - 1, 97), len(content) - 2]:
        (copy / MANIFEST_NAME).write_bytes(content[:length])
        with pytest.raises(ShardError, match=re.escape(str(copy / MANIFEST_NAME))):
            ShardReader(copy)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"\0" * 500, b"[" * 100_000, b'{"version": 1}'])
def test_manifest_with_other_content_is_an_error(copy: Path, content: bytes) -> None:
    (copy / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ShardError, match=re.escape(str(copy / MANIFEST_NAME))):
        ShardReader(copy)


def delete(path: Path) -> None:
    path.unlink()


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_an_empty_lmdb(path: Path) -> None:
    path.unlink()
    lmdb.open(str(path), subdir=False, lock=False).close()


def replace_by_another_lmdb(path: Path) -> None:
    """Replace a shard by an LMDB file with the same keys and size."""
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
        delete,
        replace_by_a_folder,
        replace_by_an_empty_lmdb,
        replace_by_another_lmdb,
        replace_by_zeros,
        replace_by_text,
    ],
)
def test_replaced_shard_is_an_error_and_other_shards_are_read(
    copy: Path, expected_samples: dict[tuple[str, int], np.ndarray], replace
) -> None:
    track, shard = all_shards(copy)[1]
    replace(copy / shard.name)
    assert_damage(copy, expected_samples, segments_in(track, shard), shard.name)


def test_swapped_shards_are_errors(tmp_path: Path) -> None:
    write_corpus(tmp_path, lengths=(800, 800, 800))
    (first, one), (second, two), (third, _) = all_shards(tmp_path)
    assert one.bytes == two.bytes
    (tmp_path / one.name).rename(tmp_path / "aside")
    (tmp_path / two.name).rename(tmp_path / one.name)
    (tmp_path / "aside").rename(tmp_path / two.name)
    samples, errors = read_segments(tmp_path)
    assert {track_id for track_id, _ in samples} == {third.track_id}
    assert set(errors) == segments_in(first, one) | segments_in(second, two)
    assert {Path(damage.shard).name for damage in check(tmp_path).damage} == {one.name, two.name}


def test_shard_of_an_older_ingest_is_an_error(tmp_path: Path) -> None:
    write_corpus(tmp_path / "new", lengths=(800,))
    older = write_corpus(tmp_path / "old", lengths=(300, 800))
    assert len(older) == 2
    ((_, new),), (_, (track, old)) = all_shards(tmp_path / "new"), all_shards(tmp_path / "old")
    shutil.copy(tmp_path / "old" / old.name, tmp_path / "new" / new.name)
    _, errors = read_segments(tmp_path / "new")
    assert set(errors) == {("Track 0", 0), ("Track 0", 1)}
    assert track.track_id == "Track 1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 2 * SEGMENT + 1}, "its shards contain 1 of 3 segments"),
        ({"channels": 1}, "channels is 1, but 2 in the corpus"),
        ({"segment_samples": 0}, "a size is below 1"),
        ({"stems": ()}, "a size is below 1"),
        ({"shards": ()}, "its shards contain 0 of 1 segments"),
    ],
)
def test_inconsistent_manifest_is_an_error_with_file_and_track(copy: Path, changes: dict, message: str) -> None:
    manifest = read_manifest(copy)
    wrong = dataclasses.replace(manifest.tracks[1], **changes)
    write_manifest(copy, dataclasses.replace(manifest, tracks=(manifest.tracks[0], wrong)))
    with pytest.raises(ShardError, match=re.escape(f"{copy / MANIFEST_NAME}: track 'Track 1': {message}; run")):
        ShardReader(copy)
