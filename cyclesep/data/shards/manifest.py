"""The manifest of an ingested corpus: `manifest.json`, written last, lists all tracks and shards with their hashes."""

import dataclasses
import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from cyclesep.audio.stem_names import MIXTURE
from cyclesep.errors import ObjectNotFound, ShardError
from cyclesep.storage import s3_objects
from cyclesep.storage.atomic_io import is_name
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import is_remote, join_uri

MANIFEST_NAME = "manifest.json"
VERSION = 1

# Lowest level in decibels in a manifest; JSON has no minus infinity.
SILENCE_DB = -120.0

_SHARD_NAME = re.compile(r"[a-z0-9-]+\.lmdb")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One LMDB file: consecutive segments of one track."""

    name: str
    bytes: int
    sha256: str
    first_segment: int
    records: tuple[tuple[int, int], ...]
    """Position of each segment's record in the file: (offset, bytes)."""
    index_crc32: int
    """CRC-32 of everything in the file except the records, that is of LMDB's tree."""

    @property
    def num_segments(self) -> int:
        return len(self.records)


@dataclass(frozen=True, kw_only=True)
class TrackRecord:
    """One track of a corpus."""

    track_id: str
    split: str
    sample_rate: int
    channels: int
    num_samples: int
    stems: tuple[str, ...]
    """In the order of the payload; "mixture", if present, is the first."""
    gain: float
    """audio = int16 / 32768 * gain."""
    segment_samples: int
    shards: tuple[ShardFile, ...]
    loudness_db: dict[str, tuple[float, ...]]
    """Mean power of each second of each stem, dB re full scale; -120 for silence."""
    residual_db: float | None
    """Power of (mixture - sum of stems) relative to the mixture in dB; None without a mixture, or if it is silent."""
    clipped_samples: int = 0
    """Samples at full scale, three or more in a row, of all stems."""
    warnings: tuple[str, ...] = ()
    """Problems found by the ingest."""
    fingerprint: str = ""
    """Changes if the source changes."""

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate

    @property
    def num_segments(self) -> int:
        return -(-self.num_samples // self.segment_samples)

    def segment_length(self, index: int) -> int:
        """Return the number of samples in segment `index`; only the last segment can be shorter."""
        return min(self.segment_samples, self.num_samples - index * self.segment_samples)


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """A corpus: format version, settings and tracks, sorted by split and name."""

    version: int = VERSION
    sample_rate: int
    channels: int
    segment_samples: int
    tracks: tuple[TrackRecord, ...]

    @property
    def hours(self) -> float:
        return sum(track.seconds for track in self.tracks) / 3600

    @property
    def stems(self) -> tuple[str, ...]:
        """The names of all stems in order of first appearance, the mixture first."""
        names = dict.fromkeys(stem for track in self.tracks for stem in track.stems)
        return tuple(sorted(names, key=lambda name: name != MIXTURE))

    def split(self, name: str) -> tuple[TrackRecord, ...]:
        """Return the tracks of one split: "train", "valid" or "test"."""
        return tuple(track for track in self.tracks if track.split == name)

    @property
    def digest(self) -> str:
        """SHA-256 of file hashes and settings: equal for equal audio, independent of place and time of the ingest."""
        content: list[Any] = [self.version, self.sample_rate, self.channels, self.segment_samples]
        content += [[t.track_id, t.split, t.stems, t.gain, [s.sha256 for s in t.shards]] for t in self.tracks]
        return _sha256(content)


def make_manifest(tracks: Iterable[TrackRecord]) -> ShardManifest:
    """Return the manifest of `tracks` in any order; raise ValueError unless rate, channels and segments are equal."""
    ordered = tuple(sorted(tracks, key=lambda track: (track.split, track.track_id)))
    if len({(track.sample_rate, track.channels, track.segment_samples) for track in ordered}) != 1:
        raise ValueError("a manifest needs at least one track, and equal sample rate, channels and segment length")
    return ShardManifest(
        sample_rate=ordered[0].sample_rate,
        channels=ordered[0].channels,
        segment_samples=ordered[0].segment_samples,
        tracks=ordered,
    )


def write_manifest(folder: Path | str, manifest: ShardManifest) -> None:
    """Write manifest.json to `folder` or `s3://bucket/prefix`, after all shards; this publishes the corpus."""
    body = dataclasses.asdict(manifest)
    StoragePath.of(folder).write_text(MANIFEST_NAME, _with_checksum(body) + "\n")


def read_manifest(folder: Path | str) -> ShardManifest:
    """Read and validate manifest.json in `folder` or at `s3://bucket/prefix`.

    Raises ShardError if it is missing, damaged or has another version, StorageError if the bucket cannot be read.
    """
    path = join_uri(str(folder), MANIFEST_NAME)
    text, values = _read_json(path)
    if values.get("version") != VERSION:
        raise ShardError(f"{path}: {_other_version(values.get('version'))}")
    _verify_checksum(path, text, values)
    manifest: ShardManifest = _parse(ShardManifest, values, path)
    for track in manifest.tracks:
        fault = _contradiction(manifest, track)
        if fault is not None:
            raise ShardError(f"{path}: track {track.track_id!r}: {fault}; run the same ingest again")
    return manifest


def write_track_record(folder: StoragePath, name: str, track: TrackRecord) -> None:
    """Write the record of one finished track, so that an interrupted ingest can resume."""
    folder.write_text(name, _with_checksum(dataclasses.asdict(track)))


def read_track_record(path: Path | str) -> TrackRecord:
    """Read a record written by `write_track_record`; raise ShardError if it is damaged."""
    text, values = _read_json(str(path))
    _verify_checksum(str(path), text, values)
    track: TrackRecord = _parse(TrackRecord, values, str(path))
    return track


def track_file_stem(
    track_id: str, *, split: str, fingerprint: str, sample_rate: int, channels: int, segment_samples: int
) -> str:
    """Return the start of the file names of a track: readable, safe on any file system, unique for its content."""
    plain = unicodedata.normalize("NFKD", track_id).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48] or "track"
    identity = _sha256([VERSION, track_id, split, fingerprint, sample_rate, channels, segment_samples])
    return f"{slug}-{identity[:16]}"


def _read_json(path: str) -> tuple[str, dict[str, Any]]:
    try:
        text = s3_objects.read_text(path) if is_remote(path) else Path(path).read_bytes().decode()
        values = json.loads(text, parse_float=_Floats().__getitem__)
    except (FileNotFoundError, ObjectNotFound):
        folder, _, name = path.rpartition("/")
        raise ShardError(
            f"{folder}: {name} not found, so no ingest was finished here; run `cyclesep ingest` into it"
        ) from None
    except OSError as problem:
        raise ShardError(f"{path}: cannot be read ({problem.strerror}); check its permissions") from problem
    except (ValueError, RecursionError) as problem:
        raise ShardError(f"{path}: damaged, it is not JSON; run the same ingest again") from problem
    if not isinstance(values, dict):
        raise ShardError(f"{path}: damaged, it is not a JSON object; run the same ingest again")
    return text, values


class _Floats(dict[str, float]):
    """Interned numbers: a manifest consists mostly of levels with few distinct values, so this halves its memory."""

    def __missing__(self, text: str) -> float:
        number = self[text] = float(text)
        return number


def _verify_checksum(path: str, text: str, values: dict[str, Any]) -> None:
    """Remove the checksum from `values`; raise ShardError if it does not match the text."""
    checksum = values.pop("checksum", None)
    rest = text.removesuffix("\n").replace(f'"checksum":"{checksum}",', "", 1)
    if hashlib.sha256(rest.encode()).hexdigest() != checksum:
        raise ShardError(f"{path}: damaged, its checksum does not match; run the same ingest again")


def _other_version(found: Any) -> str:
    newer = isinstance(found, int) and found > VERSION
    remedy = "update cyclesep, or ingest into a new folder" if newer else "ingest into a new folder"
    return f"format version {found!r}, this version of cyclesep reads {VERSION}; {remedy}"


def _parse(kind: type, values: dict[str, Any], path: str) -> Any:
    try:
        return _adapter(kind).validate_python(values, extra="forbid")
    except pydantic.ValidationError as invalid:
        field = ".".join(str(part) for part in invalid.errors()[0]["loc"])
        raise ShardError(
            f"{path}: field {field} is invalid in this version of cyclesep; run the same ingest again"
        ) from invalid


@functools.cache
def _adapter(kind: type) -> pydantic.TypeAdapter[Any]:
    """Cached, because building an adapter takes longer than validating a track's record."""
    return pydantic.TypeAdapter(kind)


def _contradiction(manifest: ShardManifest, track: TrackRecord) -> str | None:
    """Return the first invalid or inconsistent field of a track as text, None if all are valid."""
    if min(track.sample_rate, track.channels, track.num_samples, track.segment_samples, len(track.stems)) < 1:
        return "a size is below 1"
    for stem in track.stems:
        # Stems become file names.
        if not is_name(stem):
            return f"stem {stem!r} is not a valid name"
    for name in ("sample_rate", "channels", "segment_samples"):
        if getattr(track, name) != getattr(manifest, name):
            return f"{name} is {getattr(track, name)}, but {getattr(manifest, name)} in the corpus"
    expected = 0
    for shard in track.shards:
        if not _SHA256.fullmatch(shard.sha256):
            return f"{shard.name} has no SHA-256"
        if not _SHARD_NAME.fullmatch(shard.name):
            return f"shard name {shard.name!r} is invalid"
        if shard.first_segment != expected:
            return f"{shard.name} starts at segment {shard.first_segment}, not {expected}"
        if not _fit(shard):
            return f"the records of {shard.name} overlap or exceed the file"
        expected += shard.num_segments
    return None if expected == track.num_segments else f"its shards contain {expected} of {track.num_segments} segments"


def _fit(shard: ShardFile) -> bool:
    """Return whether the records of a shard fit into its file without overlap."""
    end = 0
    for offset, length in sorted(shard.records):
        if offset < end:
            return False
        end = offset + length
    return end <= shard.bytes


def _with_checksum(values: dict[str, Any]) -> str:
    """Return a line of canonical JSON; its member "checksum" is the SHA-256 of the line without that member."""
    return _canonical({**values, "checksum": _sha256(values)})


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _sha256(values: Any) -> str:
    return hashlib.sha256(_canonical(values).encode()).hexdigest()
