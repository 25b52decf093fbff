import dataclasses
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclesep.data.shards import segments
from cyclesep.data.shards.manifest import (
    MANIFEST_NAME,
    ShardFile,
    ShardManifest,
    TrackRecord,
    make_manifest,
    read_manifest,
    track_file_stem,
    write_manifest,
)
from cyclesep.data.shards.mmap_cache import close_idle, mapped_shards
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.segment_pb2 import Segment
from cyclesep.data.shards.verification import verify
from cyclesep.data.shards.writing import write_track
from cyclesep.errors import ShardError, StorageError
from tests.support.paths import CHECKOUT
from tests.support.shard_helpers import BYTES_PER_SEGMENT, SAMPLE_RATE, SEGMENT, STEMS, flip_bit, write_corpus


def read_all(folder: Path) -> list[np.ndarray]:
    reader = ShardReader(folder)
    return [reader.read(track, track.stems, 0, track.num_samples) for track in reader.manifest.tracks]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    # Small shards, so that the first track has two.
    return folder, write_corpus(folder, max_shard_bytes=2 * BYTES_PER_SEGMENT)


@pytest.fixture
def fresh(tmp_path):
    """A new corpus, which a test may damage."""
    write_corpus(tmp_path)
    return tmp_path


def test_pcm16_samples_are_read_bit_exactly(corpus):
    folder, pcm = corpus
    for expected, found in zip(pcm, read_all(folder), strict=True):
        np.testing.assert_array_equal(found, expected.astype(np.float32) / np.float32(32768))


def test_long_track_has_several_consecutive_shards(corpus):
    folder, _ = corpus
    files = read_manifest(folder).tracks[0].shards
    assert [(file.first_segment, file.num_segments) for file in files] == [(0, 2), (2, 2)]
    assert all((folder / file.name).stat().st_size == file.bytes for file in files)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_crops_match_slices_of_the_track_across_segments_and_shards(corpus, data):
    folder, pcm = corpus
    number = data.draw(st.integers(0, 2))
    length = pcm[number].shape[2]
    start = data.draw(st.integers(0, length - 1))
    num_samples = data.draw(st.integers(1, length - start))
    rows = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    reader = ShardReader(folder)
    crop = reader.read(reader.manifest.tracks[number], [STEMS[row] for row in rows], start, num_samples)
    expected = pcm[number][rows, :, start : start + num_samples].astype(np.float32) / 32768
    np.testing.assert_array_equal(crop, expected)


def test_batch_is_in_the_order_of_the_requests(corpus):
    folder, pcm = corpus
    reader = ShardReader(folder)
    first, second, _ = reader.manifest.tracks
    requests = [(second, 10), (first, 700), (first, 3), (second, 0)]
    out = np.full((4, 2, 2, 200), np.nan, dtype=np.float32)
    reader.read_batch(out, requests, ("drums", "mixture"))
    for crop, (track, start) in zip(out, requests, strict=True):
        source = pcm[0 if track is first else 1][[2, 0], :, start : start + 200]
        np.testing.assert_array_equal(crop, source.astype(np.float32) / 32768)


def test_audio_above_full_scale_is_stored_with_a_gain(tmp_path):
    samples = np.linspace(-3.7, 3.7, 500, dtype=np.float32)[None]
    record = write_track(
        tmp_path, {"vocals": samples}, track_id="loud", split="test", sample_rate=SAMPLE_RATE, segment_samples=SEGMENT
    )
    write_manifest(tmp_path, make_manifest([record]))
    assert record.gain == 4.0
    found = ShardReader(tmp_path).read(record, ["vocals"], 0, 500)[0]
    assert np.abs(found - samples).max() <= 0.5 * 4 / 32768


def test_mixture_is_the_first_stem_and_levels_are_stored(tmp_path):
    half = np.full((1, 2500), 0.5, dtype=np.float32)
    half[:, 1000:2000] = 0.0
    record = write_track(
        tmp_path,
        {"vocals": half, "mixture": half * 1.1},
        track_id="levels",
        split="train",
        sample_rate=SAMPLE_RATE,
        segment_samples=SEGMENT,
    )
    assert record.stems == ("mixture", "vocals")
    assert record.loudness_db["vocals"] == (-6.0, -120.0, -6.0)
    assert record.residual_db == pytest.approx(20 * np.log10(0.1 / 1.1), abs=0.01)


def test_equal_audio_gives_equal_files_and_manifest_in_any_order(tmp_path):
    write_corpus(tmp_path / "one")
    write_corpus(tmp_path / "two")
    records = read_manifest(tmp_path / "two").tracks
    write_manifest(tmp_path / "two", make_manifest(reversed(records)))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_documented_example_reads_shards_with_lmdb_and_the_generated_class_only(corpus, tmp_path):
    folder, pcm = corpus
    page = (CHECKOUT / "docs" / "shard-format.md").read_text()
    example = page.partition("```python\n")[2].partition("```")[0]
    check = """
import sys
packages = {"cyclesep", "cyclesep.data", "cyclesep.data.shards"}
assert {name for name in sys.modules if name.startswith("cyclesep")} == packages | {"cyclesep.data.shards.segment_pb2"}
np.savez(sys.argv[2], *(read_track(sys.argv[1], track) for track in read_manifest(sys.argv[1])["tracks"]))
"""
    out = tmp_path / "read.npz"
    subprocess.run([sys.executable, "-c", example + check, folder, out], check=True)
    with np.load(out) as read:
        for expected, found in zip(pcm, read.values(), strict=True):
            np.testing.assert_array_equal(found, expected.astype(np.float32) / 32768)


def test_all_fields_of_manifest_and_record_are_documented():
    page = (CHECKOUT / "docs" / "shard-format.md").read_text()
    kinds = (ShardManifest, TrackRecord, ShardFile)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)} | {"checksum"}
    names |= set(Segment.DESCRIPTOR.fields_by_name)
    assert {name for name in names if f"| `{name}` |" not in page} == set()


def test_records_have_the_documented_layout(corpus):
    folder, _ = corpus
    for track in read_manifest(folder).tracks:
        for shard in track.shards:
            content = (folder / shard.name).read_bytes()
            for number, (offset, length) in enumerate(shard.records):
                record = content[offset : offset + length]
                segment = Segment.FromString(record)
                assert segment.index == shard.first_segment + number
                assert segment.start == segment.index * SEGMENT
                assert record.endswith(segment.pcm)
                assert len(segment.pcm) == 2 * len(segment.stems) * segment.channels * segment.num_samples
                assert (length - len(segment.pcm)) % 16 == 0
                assert segment.crc32 == zlib.crc32(segment.pcm)


def test_any_flipped_bit_in_a_record_is_detected(fresh):
    track = read_manifest(fresh).tracks[2]
    ((offset, length),) = track.shards[0].records
    record = bytearray((fresh / track.shards[0].name).read_bytes()[offset : offset + length])
    assert segments.find_fault(track, 0, memoryview(record)) is None
    for bit in range(8 * length):
        record[bit // 8] ^= 1 << bit % 8
        assert segments.find_fault(track, 0, memoryview(record)) is not None, bit
        record[bit // 8] ^= 1 << bit % 8


def test_records_with_unknown_fields_of_a_later_format_are_read(tmp_path, monkeypatch):
    encode, added = segments.encode, bytes([10 << 3 | 2, 5]) + b"later"
    monkeypatch.setattr(segments, "encode", lambda *arguments: added + encode(*arguments))
    pcm = write_corpus(tmp_path)
    np.testing.assert_array_equal(read_all(tmp_path)[0], pcm[0].astype(np.float32) / 32768)
    assert verify(tmp_path) == read_manifest(tmp_path)


@pytest.mark.parametrize("track_id", ["../../etc/passwd", "a/b\\c:*?\0\n", "ÄÖÜ 音楽", "", "." * 300, "CON"])
def test_track_names_never_produce_invalid_paths(tmp_path, track_id):
    folder = tmp_path / "inside"
    record = write_track(
        folder,
        {"vocals": np.zeros((1, 10), np.float32)},
        track_id=track_id,
        split="train",
        sample_rate=SAMPLE_RATE,
        segment_samples=SEGMENT,
    )
    write_manifest(folder, make_manifest([record]))
    assert sorted(path.name for path in folder.iterdir()) == sorted([record.shards[0].name, MANIFEST_NAME])
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert verify(folder).tracks[0].track_id == track_id


def test_tracks_with_equal_readable_names_get_different_files():
    same = {"split": "train", "fingerprint": "", "sample_rate": 1, "channels": 1, "segment_samples": 1}
    assert track_file_stem("a b", **same) != track_file_stem("a-b", **same)


# Damage


def test_damage_error_has_shard_track_and_segment_and_other_segments_are_readable(fresh):
    track = read_manifest(fresh).tracks[0]
    offset, length = track.shards[0].records[2]
    flip_bit(fresh / track.shards[0].name, 8 * (offset + length - 5))
    reader = ShardReader(fresh)
    reader.read(track, STEMS, 0, 2 * SEGMENT)
    with pytest.raises(ShardError, match=rf"{track.shards[0].name}.*'Track 0', segment 2: its checksum"):
        reader.read(track, STEMS, 2 * SEGMENT - 1, 2)


def test_record_of_another_track_is_an_error_despite_its_valid_checksum(tmp_path):
    write_corpus(tmp_path, lengths=(400, 400))
    manifest = read_manifest(tmp_path)
    first, second = manifest.tracks
    swapped = [dataclasses.replace(first, shards=second.shards), second]
    write_manifest(tmp_path, make_manifest(swapped))
    reader = ShardReader(tmp_path)
    with pytest.raises(ShardError, match="header does not match the manifest"):
        reader.read(reader.manifest.tracks[0], ["vocals"], 0, 10)


def test_error_for_a_folder_without_manifest_has_a_remedy(tmp_path):
    with pytest.raises(ShardError, match=r"manifest\.json not found.*cyclesep ingest"):
        ShardReader(tmp_path)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [("7", "update cyclesep, or ingest into a new folder"), ("0", "ingest into a new folder"), ("null", "ingest")],
)
def test_error_for_another_format_version_has_both_versions(fresh, version, remedy):
    path = fresh / MANIFEST_NAME
    path.write_text(path.read_text().replace('"version":1', f'"version":{version}'))
    found = version.replace("null", "None")
    with pytest.raises(ShardError, match=rf"format version {found}, this version of cyclesep reads 1; {remedy}"):
        ShardReader(fresh)


def test_manifest_with_a_file_outside_its_folder_is_an_error(fresh):
    track = read_manifest(fresh).tracks[0]
    outside = dataclasses.replace(track.shards[0], name="../outside.lmdb")
    write_manifest(fresh, make_manifest([dataclasses.replace(track, shards=(outside,))]))
    with pytest.raises(ShardError, match=r"'\.\./outside\.lmdb'"):
        ShardReader(fresh)


def test_unknown_stems_and_crops_beyond_the_track_are_errors(corpus):
    folder, _ = corpus
    reader = ShardReader(folder)
    track = reader.manifest.tracks[1]
    with pytest.raises(ShardError, match="has no stem 'piano', only mixture, vocals, drums"):
        reader.read(track, ["vocals", "piano"], 0, 10)
    for start, num_samples in ((-1, 10), (track.num_samples - 9, 10)):
        with pytest.raises(IndexError):
            reader.read(track, ["vocals"], start, num_samples)


def test_failed_write_is_a_storage_error_and_leaves_no_file(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        with pytest.raises(StorageError, match=r"\.lmdb: cannot be written \(.*\); free space or choose another"):
            write_corpus(tmp_path, lengths=(20000,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


# Processes and threads


def checksum_of(reader: ShardReader, queue=None) -> float:
    total = float(sum(np.abs(reader.read(t, t.stems, 0, t.num_samples)).sum() for t in reader.manifest.tracks))
    if queue is not None:
        queue.put(total)
    return total


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_reader_in_use_works_in_child_processes(corpus, method):
    reader = ShardReader(corpus[0])
    expected = checksum_of(reader)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=checksum_of, args=(reader, queue)) for _ in range(2)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [expected, expected]
    for child in children:
        child.join()
    assert checksum_of(reader) == expected


def test_pickled_reader_and_its_original_read_in_one_process(corpus):
    reader = ShardReader(corpus[0])
    expected = checksum_of(reader)
    assert checksum_of(pickle.loads(pickle.dumps(reader))) == expected
    assert checksum_of(ShardReader(os.path.relpath(corpus[0]))) == expected


def test_number_of_open_files_is_limited_with_threads(fresh, monkeypatch):
    monkeypatch.setattr(mapped_shards, "limit", 1)
    reader = ShardReader(fresh)
    expected = checksum_of(reader)
    assert len(mapped_shards) == 1
    totals: list[float] = []
    threads = [threading.Thread(target=lambda: totals.extend(checksum_of(reader) for _ in range(40))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals == [expected] * 160
    # Each of the four threads may have one file in use.
    assert sum(str(fresh) in os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()) <= 4
    assert checksum_of(ShardReader(fresh)) == expected


def test_new_reader_reads_a_replaced_corpus(fresh):
    before = read_all(fresh)
    for path in fresh.iterdir():
        path.unlink()
    write_corpus(fresh, lengths=(500,))
    assert [samples.shape for samples in read_all(fresh)] == [(3, 2, 500)]
    assert len(before) == 3


def test_idle_shards_can_be_unmapped_and_read_again(corpus):
    folder, _ = corpus
    reader = ShardReader(folder)
    track = reader.manifest.tracks[0]
    before = reader.read(track, track.stems, 0, 100)
    assert len(mapped_shards) > 0
    close_idle()
    assert len(mapped_shards) == 0
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert np.array_equal(reader.read(track, track.stems, 0, 100), before)
