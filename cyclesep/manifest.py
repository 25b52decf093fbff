"""What an ingested corpus holds: `manifest.json`, written last, names every track, shard and hash."""

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from cyclesep.errors import ShardError
from cyclesep.files import write_text

MANIFEST_NAME = "manifest.json"
VERSION = 1
MIXTURE = "mixture"

# The floor of every level in decibels that a manifest holds; JSON has no minus infinity.
SILENCE_DB = -120.0

_SHARD_NAME = re.compile(r"[a-z0-9-]+\.lmdb")


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One LMDB file: consecutive segments of one track."""

    name: str
    bytes: int
    sha256: str
    first_segment: int
    records: tuple[tuple[int, int], ...]
    """Where each segment's record lies in the file: (offset, bytes)."""
    index_crc32: int
    """CRC-32 of everything in the file that is not a record, which is LMDB's own tree."""

    @property
    def num_segments(self) -> int:
        return len(self.records)


@dataclass(frozen=True, kw_only=True)
class TrackRecord:
    """One track of a corpus as its shards hold it."""

    track_id: str
    split: str
    sample_rate: int
    channels: int
    num_samples: int
    stems: tuple[str, ...]
    """In the order of the payload; "mixture" first where there is one."""
    gain: float
    """audio = int16 / 32768 * gain."""
    segment_samples: int
    shards: tuple[ShardFile, ...]
    loudness_db: dict[str, tuple[float, ...]]
    """Mean power of each second of each stem, dB re full scale; -120 for silence."""
    residual_db: float | None
    """Power of (mixture - sum of stems) over power of the mixture; None where one of them is missing or silent."""
    clipped_samples: int = 0
    """Samples of all stems that sit at full scale three or more in a row."""
    warnings: tuple[str, ...] = ()
    """What the ingest found odd in the track, one sentence each."""
    fingerprint: str = ""
    """Changes when the source changes."""

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate

    @property
    def num_segments(self) -> int:
        return -(-self.num_samples // self.segment_samples)

    def segment_length(self, index: int) -> int:
        """Samples in segment `index`: all are equal but for the last."""
        return min(self.segment_samples, self.num_samples - index * self.segment_samples)


@dataclass(frozen=True, kw_only=True)
class ShardManifest:
    """A whole corpus: format, settings and tracks, sorted by split and name."""

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
        """The names of all stems in the order in which tracks first show them, the mixture first."""
        names = dict.fromkeys(stem for track in self.tracks for stem in track.stems)
        return tuple(sorted(names, key=lambda name: name != MIXTURE))

    def split(self, name: str) -> tuple[TrackRecord, ...]:
        """The tracks of one split: "train", "valid" or "test"."""
        return tuple(track for track in self.tracks if track.split == name)

    @property
    def digest(self) -> str:
        """SHA-256 of the files and what they mean: equal for equal audio, wherever and whenever it was ingested."""
        content: list[Any] = [self.version, self.sample_rate, self.channels, self.segment_samples]
        content += [[t.track_id, t.split, t.stems, t.gain, [s.sha256 for s in t.shards]] for t in self.tracks]
        return _sha256(content)


def make_manifest(tracks: Iterable[TrackRecord]) -> ShardManifest:
    """The manifest of `tracks`, which share rate, channels and segment length; their order does not matter."""
    ordered = tuple(sorted(tracks, key=lambda track: (track.split, track.track_id)))
    if len({(track.sample_rate, track.channels, track.segment_samples) for track in ordered}) != 1:
        raise ValueError("the tracks of a manifest share sample rate, channels and segment length, and there is one")
    return ShardManifest(
        sample_rate=ordered[0].sample_rate,
        channels=ordered[0].channels,
        segment_samples=ordered[0].segment_samples,
        tracks=ordered,
    )


def write_manifest(folder: Path, manifest: ShardManifest) -> None:
    """Make the corpus in `folder` readable; call it when all shards are in place."""
    body = dataclasses.asdict(manifest)
    write_text(folder / MANIFEST_NAME, _canonical({**body, "checksum": _sha256(body)}) + "\n")


def read_manifest(folder: Path) -> ShardManifest:
    """Read and check `folder`/manifest.json. Raises ShardError if it is missing, damaged or of another version."""
    path = folder / MANIFEST_NAME
    values = _read_json(path)
    if values.get("version") != VERSION:
        raise ShardError(
            f"{path}: format version {values.get('version')!r}, this cyclesep reads {VERSION}; ingest into a new folder"
        )
    if values.pop("checksum", None) != _sha256(values):
        raise ShardError(f"{path}: damaged, its checksum does not match; run the same ingest again")
    return _checked(_parse(ShardManifest, values, path), path)


def write_track_record(path: Path, track: TrackRecord) -> None:
    """Keep the record of one finished track, so that an ingest that was interrupted need not redo it."""
    body = dataclasses.asdict(track)
    write_text(path, _canonical({**body, "checksum": _sha256(body)}))


def read_track_record(path: Path) -> TrackRecord:
    """The inverse of `write_track_record`; raises ShardError for a damaged file."""
    values = _read_json(path)
    if values.pop("checksum", None) != _sha256(values):
        raise ShardError(f"{path}: damaged, its checksum does not match; run the same ingest again")
    track: TrackRecord = _parse(TrackRecord, values, path)
    return track


def track_file_stem(
    track_id: str, *, split: str, fingerprint: str, sample_rate: int, channels: int, segment_samples: int
) -> str:
    """The start of the names of a track's files: readable, safe on any file system, unique for its content."""
    plain = unicodedata.normalize("NFKD", track_id).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48] or "track"
    identity = _sha256([VERSION, track_id, split, fingerprint, sample_rate, channels, segment_samples])
    return f"{slug}-{identity[:16]}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ShardError(
            f"{path.parent}: holds no {path.name}, so no ingest was finished here; run `cyclesep ingest` into it"
        ) from None
    except OSError as problem:
        raise ShardError(f"{path}: cannot be read ({problem.strerror}); check its permissions") from problem
    except ValueError as problem:
        raise ShardError(f"{path}: damaged, it is not JSON; run the same ingest again") from problem
    if not isinstance(values, dict):
        raise ShardError(f"{path}: damaged, it holds no fields; run the same ingest again")
    return values


def _parse(kind: type, values: dict[str, Any], path: Path) -> Any:
    try:
        return pydantic.TypeAdapter(kind).validate_python(values, extra="forbid")
    except pydantic.ValidationError as invalid:
        field = ".".join(str(part) for part in invalid.errors()[0]["loc"])
        raise ShardError(
            f"{path}: field {field} is not what this cyclesep writes; run the same ingest again"
        ) from invalid


def _checked(manifest: ShardManifest, path: Path) -> ShardManifest:
    for shard in (shard for track in manifest.tracks for shard in track.shards):
        if not _SHARD_NAME.fullmatch(shard.name):
            raise ShardError(f"{path}: shard name {shard.name!r} is none that ingest writes; run the same ingest again")
    return manifest


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _sha256(values: Any) -> str:
    return hashlib.sha256(_canonical(values).encode()).hexdigest()
