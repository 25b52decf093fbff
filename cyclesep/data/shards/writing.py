"""Write the shards of a track atomically."""

import errno
import hashlib
import mmap
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import lmdb
import numpy as np

from cyclesep.audio.audio_io import Samples, common_pcm16_gain, decibels, to_pcm16
from cyclesep.audio.stem_names import MIXTURE
from cyclesep.data.shards import segments
from cyclesep.data.shards.manifest import SILENCE_DB, ShardFile, TrackRecord, track_file_stem
from cyclesep.errors import StorageError
from cyclesep.storage.atomic_io import replacing

MAX_SHARD_BYTES = 256 * 2**20


def write_track(
    folder: Path,
    stems: Mapping[str, Samples],
    *,
    track_id: str,
    split: str,
    sample_rate: int,
    segment_samples: int,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    clipped_samples: int = 0,
    warnings: Sequence[str] = (),
    fingerprint: str = "",
) -> TrackRecord:
    """Write the shards of one track to `folder` and return its record for the manifest.

    `stems`: equally shaped float32 `(channels, time)` by name; "mixture" is moved to the front. Nothing is clipped: a
    gain with which the loudest sample fits is stored. Raises StorageError if the folder is full or not writable.
    """
    names = tuple(sorted(stems, key=lambda name: name != MIXTURE))
    channels, num_samples = stems[names[0]].shape
    if num_samples == 0 or any(stems[name].shape != (channels, num_samples) for name in names):
        raise ValueError(f"the stems of {track_id!r} are empty or differ in shape")
    track = TrackRecord(
        track_id=track_id,
        split=split,
        sample_rate=sample_rate,
        channels=channels,
        num_samples=num_samples,
        stems=names,
        gain=common_pcm16_gain(stems.values()),
        segment_samples=segment_samples,
        shards=(),
        loudness_db={name: loudness_db(stems[name], sample_rate) for name in names},
        residual_db=residual_db(stems),
        clipped_samples=clipped_samples,
        warnings=tuple(warnings),
        fingerprint=fingerprint,
    )
    return replace(track, shards=_write_shards(folder, track, stems, max_shard_bytes))


def index_crc32(path: Path, records: Sequence[tuple[int, int]]) -> int:
    """Return the CRC-32 of everything between the records of a shard, that is of LMDB's tree.

    `records`: (offset, bytes) of each.
    """
    checksum = 0
    with path.open("rb", buffering=0) as file:
        position = 0
        for offset, length in [*sorted(records), (os.fstat(file.fileno()).st_size, 0)]:
            checksum = zlib.crc32(os.pread(file.fileno(), offset - position, position), checksum)
            position = offset + length
    return checksum


def loudness_db(stem: Samples, sample_rate: int) -> tuple[float, ...]:
    """Return the mean power of each second of `(channels, time)` in dB re full scale, rounded to 0.1, at least -120."""
    seconds = range(0, stem.shape[1], sample_rate)
    powers = [float(np.mean(np.square(stem[:, start : start + sample_rate], dtype=np.float64))) for start in seconds]
    return tuple(round(float(level), 1) for level in np.maximum(decibels(np.array(powers)), SILENCE_DB))


def residual_db(stems: Mapping[str, Samples]) -> float | None:
    """Return the power of (mixture - sum of stems) relative to the mixture in dB, at least -120; None if undefined."""
    if MIXTURE not in stems or len(stems) == 1:
        return None
    mixture = stems[MIXTURE].astype(np.float64)
    power = float(np.sum(np.square(mixture)))
    if power == 0.0:
        return None
    for name in stems.keys() - {MIXTURE}:
        mixture -= stems[name]
    return round(max(float(decibels(float(np.sum(np.square(mixture))) / power)), SILENCE_DB), 2)


def _write_shards(
    folder: Path, track: TrackRecord, stems: Mapping[str, Samples], max_shard_bytes: int
) -> tuple[ShardFile, ...]:
    stem_of_name = track_file_stem(
        track.track_id,
        split=track.split,
        fingerprint=track.fingerprint,
        sample_rate=track.sample_rate,
        channels=track.channels,
        segment_samples=track.segment_samples,
    )
    per_shard = max(1, max_shard_bytes // segments.pcm_bytes(track, 0))
    firsts = range(0, track.num_segments, per_shard)
    return tuple(
        _write_shard(
            folder / f"{stem_of_name}-{number}.lmdb",
            track,
            stems,
            range(first, min(first + per_shard, track.num_segments)),
        )
        for number, first in enumerate(firsts)
    )


def _write_shard(path: Path, track: TrackRecord, stems: Mapping[str, Samples], indices: range) -> ShardFile:
    with replacing(path) as partial:
        try:
            checksums = _write_lmdb(partial, track, stems, indices)
        except lmdb.Error as problem:
            reason = _reason(problem, partial, _map_size(track, indices))
            raise StorageError(
                f"{path}: cannot be written ({reason}); free space or choose another location"
            ) from problem
        records, sha256 = _read_back(partial, checksums, path)
        return ShardFile(
            name=path.name,
            bytes=partial.stat().st_size,
            sha256=sha256,
            first_segment=indices[0],
            records=records,
            index_crc32=index_crc32(partial, records),
        )


def _write_lmdb(
    partial: Path, track: TrackRecord, stems: Mapping[str, Samples], indices: range
) -> list[tuple[int, bytes, int]]:
    """Write the segments; return (length, first bytes, CRC-32) of each record, to find it in the file."""
    written = []
    with (
        lmdb.open(
            str(partial), subdir=False, lock=False, map_size=_map_size(track, indices), readahead=False
        ) as environment,
        environment.begin(write=True) as transaction,
    ):
        for index in indices:
            record = segments.encode(track, index, _pcm(track, stems, index))
            transaction.put(segments.key(index), record, append=True)
            written.append((len(record), record[:256], zlib.crc32(record)))
    return written


def _map_size(track: TrackRecord, indices: range) -> int:
    """Return an upper bound of the file size for LMDB: payloads, pages around each, and the tree."""
    return 2**20 + sum(segments.pcm_bytes(track, index) + 3 * mmap.PAGESIZE for index in indices)


def _reason(problem: lmdb.Error, partial: Path, num_bytes: int) -> str:
    # LMDB reports an input/output error if only part of a write fits on the disk.
    full = shutil.disk_usage(partial.parent).free < num_bytes
    return os.strerror(errno.ENOSPC) if full else str(problem)


def _pcm(track: TrackRecord, stems: Mapping[str, Samples], index: int) -> segments.Pcm16:
    start = index * track.segment_samples
    window = slice(start, start + track.segment_length(index))
    return np.stack([to_pcm16(stems[name][:, window], gain=track.gain) for name in track.stems])


def _read_back(
    partial: Path, written: Sequence[tuple[int, bytes, int]], path: Path
) -> tuple[tuple[tuple[int, int], ...], str]:
    """Return the position of each record and the SHA-256 of the file; raise StorageError if a record is not found."""
    records = []
    with partial.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position = 0
        for length, first_bytes, checksum in written:
            offset = content.find(first_bytes, position)
            if offset < 0:
                # Large records are consecutive; LMDB stores small ones, such as the last of a track, inside its tree.
                offset = content.find(first_bytes)
            if offset < 0 or zlib.crc32(content[offset : offset + length]) != checksum:
                raise StorageError(
                    f"{path}: reading back returned other data than was written; choose another location"
                )
            records.append((offset, length))
            position = offset + length
        return tuple(records), hashlib.sha256(content).hexdigest()
