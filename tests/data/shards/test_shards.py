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
from cyclesep.data.shards.mmap_cache import close_idle, open_shards
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.segment_pb2 import Segment
from cyclesep.data.shards.verification import verify
from cyclesep.data.shards.writing import write_track
from cyclesep.errors import ShardError, StorageError
from tests.support.paths import CHECKOUT

SAMPLE_RATE = 1000
SEGMENT = 400
STEMS = ("mixture", "vocals", "drums")


def pcm_of(number: int, num_samples: int, channels: int = 2) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(-32768, 32768, (len(STEMS), channels, num_samples), dtype=np.int16)


def write_corpus(folder: Path, lengths=(1234, 400, 37), **options) -> list[np.ndarray]:
    pcm = [pcm_of(number, length) for number, length in enumerate(lengths)]
    records = [
        write_track(
            folder,
            dict(zip(STEMS, samples.astype(np.float32) / 32768, strict=True)),
            track_id=f"Track {number}",
            split="train",
            sample_rate=SAMPLE_RATE,
            segment_samples=SEGMENT,
            **options,
        )
        for number, samples in enumerate(pcm)
    ]
    write_manifest(folder, make_manifest(records))
    return pcm


def read_all(folder: Path) -> list[np.ndarray]:
    reader = ShardReader(folder)
    return [reader.read(track, track.stems, 0, track.num_samples) for track in reader.manifest.tracks]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    # Small shards, so that the first track has several.
    return folder, write_corpus(folder, max_shard_bytes=2 * SEGMENT * 2 * len(STEMS) * 2)


@pytest.fixture
def fresh(tmp_path):
    """A corpus that a test may damage."""
    write_corpus(tmp_path)
    return tmp_path


def test_every_pcm16_sample_is_read_back_bit_for_bit(corpus):
    folder, pcm = corpus
    for expected, found in zip(pcm, read_all(folder), strict=True):
        np.testing.assert_array_equal(found, expected.astype(np.float32) / np.float32(32768))


def test_a_track_beyond_the_bound_has_several_shards_that_follow_each_other(corpus):
    folder, _ = corpus
    files = read_manifest(folder).tracks[0].shards
    assert [(file.first_segment, file.num_segments) for file in files] == [(0, 2), (2, 2)]
    assert all((folder / file.name).stat().st_size == file.bytes for file in files)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_crop_is_the_slice_of_the_track_whatever_borders_it_crosses(corpus, data):
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


def test_a_batch_is_its_crops_in_the_order_of_the_requests(corpus):
    folder, pcm = corpus
    reader = ShardReader(folder)
    first, second, _ = reader.manifest.tracks
    requests = [(second, 10), (first, 700), (first, 3), (second, 0)]
    out = np.full((4, 2, 2, 200), np.nan, dtype=np.float32)
    reader.read_batch(out, requests, ("drums", "mixture"))
    for crop, (track, start) in zip(out, requests, strict=True):
        source = pcm[0 if track is first else 1][[2, 0], :, start : start + 200]
        np.testing.assert_array_equal(crop, source.astype(np.float32) / 32768)


def test_audio_over_full_scale_keeps_its_peak_by_a_stored_gain(tmp_path):
    samples = np.linspace(-3.7, 3.7, 500, dtype=np.float32)[None]
    record = write_track(
        tmp_path, {"vocals": samples}, track_id="loud", split="test", sample_rate=SAMPLE_RATE, segment_samples=SEGMENT
    )
    write_manifest(tmp_path, make_manifest([record]))
    assert record.gain == 4.0
    found = ShardReader(tmp_path).read(record, ["vocals"], 0, 500)[0]
    assert np.abs(found - samples).max() <= 0.5 * 4 / 32768


def test_the_mixture_comes_first_and_levels_are_stored(tmp_path):
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


def test_equal_audio_gives_equal_files_and_an_equal_manifest_in_any_order(tmp_path):
    write_corpus(tmp_path / "one")
    write_corpus(tmp_path / "two")
    records = read_manifest(tmp_path / "two").tracks
    write_manifest(tmp_path / "two", make_manifest(reversed(records)))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_the_example_of_the_format_page_reads_shards_with_nothing_but_lmdb_and_the_generated_class(corpus, tmp_path):
    folder, pcm = corpus
    page = (CHECKOUT / "docs" / "shard-format.md").read_text()
    example = page.partition("```python\n")[2].partition("```")[0]
    told = """
import sys
assert {name for name in sys.modules if name.startswith("cyclesep")} == {"cyclesep", "cyclesep.data.shards.segment_pb2"}
np.savez(sys.argv[2], *(read_track(sys.argv[1], track) for track in read_manifest(sys.argv[1])["tracks"]))
"""
    out = tmp_path / "read.npz"
    subprocess.run([sys.executable, "-c", example + told, folder, out], check=True)
    with np.load(out) as read:
        for expected, found in zip(pcm, read.values(), strict=True):
            np.testing.assert_array_equal(found, expected.astype(np.float32) / 32768)


def test_the_format_page_names_every_field_of_manifest_and_record():
    page = (CHECKOUT / "docs" / "shard-format.md").read_text()
    kinds = (ShardManifest, TrackRecord, ShardFile)
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)} | {"checksum"}
    names |= set(Segment.DESCRIPTOR.fields_by_name)
    assert {name for name in names if f"| `{name}` |" not in page} == set()


def test_the_layout_of_a_record_is_what_the_format_page_says(corpus):
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


def test_every_flip_of_a_bit_in_a_record_is_found_be_it_header_padding_or_payload(fresh):
    track = read_manifest(fresh).tracks[2]
    ((offset, length),) = track.shards[0].records
    record = bytearray((fresh / track.shards[0].name).read_bytes()[offset : offset + length])
    assert segments.find_fault(track, 0, memoryview(record)) is None
    for bit in range(8 * length):
        record[bit // 8] ^= 1 << bit % 8
        assert segments.find_fault(track, 0, memoryview(record)) is not None, bit
        record[bit // 8] ^= 1 << bit % 8


def test_records_with_a_field_that_a_later_format_adds_are_read(tmp_path, monkeypatch):
    encode, added = segments.encode, bytes([10 << 3 | 2, 5]) + b"later"
    monkeypatch.setattr(segments, "encode", lambda *arguments: added + encode(*arguments))
    pcm = write_corpus(tmp_path)
    np.testing.assert_array_equal(read_all(tmp_path)[0], pcm[0].astype(np.float32) / 32768)
    assert verify(tmp_path) == read_manifest(tmp_path)


@pytest.mark.parametrize("track_id", ["../../etc/passwd", "a/b\\c:*?\0\n", "ÄÖÜ 音楽", "", "." * 300, "CON"])
def test_no_track_name_leaves_the_folder_or_breaks_a_file_name(tmp_path, track_id):
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


def test_tracks_whose_readable_names_agree_get_different_files():
    same = {"split": "train", "fingerprint": "", "sample_rate": 1, "channels": 1, "segment_samples": 1}
    assert track_file_stem("a b", **same) != track_file_stem("a-b", **same)


# Damage


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(content)


def test_damage_names_shard_track_and_segment_and_other_segments_are_still_read(fresh):
    track = read_manifest(fresh).tracks[0]
    offset, length = track.shards[0].records[2]
    flip(fresh / track.shards[0].name, 8 * (offset + length - 5))
    reader = ShardReader(fresh)
    reader.read(track, STEMS, 0, 2 * SEGMENT)
    with pytest.raises(ShardError, match=rf"{track.shards[0].name}.*'Track 0', segment 2: its checksum"):
        reader.read(track, STEMS, 2 * SEGMENT - 1, 2)


def test_a_record_of_another_track_is_refused_although_its_checksum_holds(tmp_path):
    write_corpus(tmp_path, lengths=(400, 400))
    manifest = read_manifest(tmp_path)
    first, second = manifest.tracks
    swapped = [dataclasses.replace(first, shards=second.shards), second]
    write_manifest(tmp_path, make_manifest(swapped))
    reader = ShardReader(tmp_path)
    with pytest.raises(ShardError, match="header is not what the manifest says"):
        reader.read(reader.manifest.tracks[0], ["vocals"], 0, 10)


def test_a_folder_without_manifest_says_what_to_run(tmp_path):
    with pytest.raises(ShardError, match=r"holds no manifest\.json.*cyclesep ingest"):
        ShardReader(tmp_path)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [("7", "update cyclesep, or ingest into a new folder"), ("0", "ingest into a new folder"), ("null", "ingest")],
)
def test_another_format_version_is_refused_with_both_numbers(fresh, version, remedy):
    path = fresh / MANIFEST_NAME
    path.write_text(path.read_text().replace('"version":1', f'"version":{version}'))
    told = version.replace("null", "None")
    with pytest.raises(ShardError, match=rf"format version {told}, this cyclesep reads 1; {remedy}"):
        ShardReader(fresh)


def test_a_manifest_cannot_name_a_file_outside_its_folder(fresh):
    track = read_manifest(fresh).tracks[0]
    outside = dataclasses.replace(track.shards[0], name="../outside.lmdb")
    write_manifest(fresh, make_manifest([dataclasses.replace(track, shards=(outside,))]))
    with pytest.raises(ShardError, match=r"'\.\./outside\.lmdb'"):
        ShardReader(fresh)


def test_unknown_stems_and_crops_beyond_the_track_are_refused(corpus):
    folder, _ = corpus
    reader = ShardReader(folder)
    track = reader.manifest.tracks[1]
    with pytest.raises(ShardError, match="holds no stem 'piano', only mixture, vocals, drums"):
        reader.read(track, ["vocals", "piano"], 0, 10)
    for start, num_samples in ((-1, 10), (track.num_samples - 9, 10)):
        with pytest.raises(IndexError):
            reader.read(track, ["vocals"], start, num_samples)


def test_a_disk_that_refuses_to_take_more_is_a_storage_error_and_leaves_nothing(tmp_path):
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
def test_a_reader_in_use_goes_to_another_process(corpus, method):
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


def test_a_pickled_reader_and_its_original_read_side_by_side(corpus):
    reader = ShardReader(corpus[0])
    expected = checksum_of(reader)
    assert checksum_of(pickle.loads(pickle.dumps(reader))) == expected
    assert checksum_of(ShardReader(os.path.relpath(corpus[0]))) == expected


def test_the_number_of_open_files_is_bounded_and_threads_survive_eviction(fresh, monkeypatch):
    monkeypatch.setattr(open_shards, "limit", 1)
    reader = ShardReader(fresh)
    expected = checksum_of(reader)
    assert len(open_shards) == 1
    totals: list[float] = []
    threads = [threading.Thread(target=lambda: totals.extend(checksum_of(reader) for _ in range(40))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals == [expected] * 160
    # A thread that finds the files of the other three in use opens one more.
    assert sum(str(fresh) in os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()) <= 4
    assert checksum_of(ShardReader(fresh)) == expected


def test_a_corpus_ingested_anew_in_place_is_read_by_a_new_reader(fresh):
    before = read_all(fresh)
    for path in fresh.iterdir():
        path.unlink()
    write_corpus(fresh, lengths=(500,))
    assert [samples.shape for samples in read_all(fresh)] == [(3, 2, 500)]
    assert len(before) == 3


def test_a_track_that_nobody_reads_any_more_can_be_unmapped_and_is_read_again(corpus):
    folder, _ = corpus
    reader = ShardReader(folder)
    track = reader.manifest.tracks[0]
    before = reader.read(track, track.stems, 0, 100)
    assert len(open_shards) > 0
    close_idle()
    assert len(open_shards) == 0
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert np.array_equal(reader.read(track, track.stems, 0, 100), before)
