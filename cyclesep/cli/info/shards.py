"""Statistics of shards, from the manifest alone or, for loudness, from the audio."""

import statistics
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from cyclesep.cli.info.descriptions import CorpusDescription, SplitStatistics, StemStatistics
from cyclesep.data.shards.manifest import ShardManifest, TrackRecord, read_manifest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.storage.uri import display_path

# BS.1770 gates blocks of 0.4 s; loudness is undefined for a shorter track.
_MIN_SECONDS = 0.4


def describe_shards(path: str, *, silence_threshold_db: float = -60.0, audio: bool = False) -> CorpusDescription:
    """Describe the shards in a folder or at `s3://bucket/prefix`; `audio` reads all of their audio to measure loudness.

    Raises ShardError if the shards are missing or damaged, StorageError if a bucket cannot be read.
    """
    manifest = read_manifest(path)
    lufs = _loudness(ShardReader(path)) if audio else {}
    return CorpusDescription(
        path=display_path(path),
        sample_rate=manifest.sample_rate,
        channels=manifest.channels,
        tracks=len(manifest.tracks),
        hours=manifest.hours,
        splits=tuple(_split(manifest, name) for name in dict.fromkeys(track.split for track in manifest.tracks)),
        stems=tuple(_stem(manifest, name, silence_threshold_db, lufs.get(name, ())) for name in manifest.stems),
        silence_threshold_db=silence_threshold_db,
        clipped_tracks=sum(track.clipped_samples > 0 for track in manifest.tracks),
        warned_tracks=sum(bool(track.warnings) for track in manifest.tracks),
        disk_bytes=sum(shard.bytes for track in manifest.tracks for shard in track.shards),
        digest=manifest.digest,
    )


def _split(manifest: ShardManifest, name: str) -> SplitStatistics:
    tracks = manifest.split(name)
    return SplitStatistics(name=name, tracks=len(tracks), hours=sum(track.seconds for track in tracks) / 3600)


def _stem(manifest: ShardManifest, name: str, silence_threshold_db: float, lufs: Sequence[float]) -> StemStatistics:
    tracks = [track for track in manifest.tracks if name in track.stems]
    levels = np.array([level for track in tracks for level in track.loudness_db[name]])
    audible = levels[levels >= silence_threshold_db]
    return StemStatistics(
        name=name,
        tracks=len(tracks),
        hours=sum(track.seconds for track in tracks) / 3600,
        level_db=float(10 * np.log10(np.mean(10 ** (audible / 10)))) if audible.size else None,
        silent_fraction=float(1 - audible.size / levels.size) if levels.size else 1.0,
        lufs=statistics.median(lufs) if lufs else None,
    )


def _loudness(reader: ShardReader) -> dict[str, list[float]]:
    """Return by stem the integrated loudness in each track that is long and loud enough to have one."""
    loudness_by_stem: dict[str, list[float]] = {}
    for track in reader.manifest.tracks:
        if track.seconds >= _MIN_SECONDS:
            for stem, loudness in _track_loudness(reader, track):
                loudness_by_stem.setdefault(stem, []).append(loudness)
    return loudness_by_stem


def _track_loudness(reader: ShardReader, track: TrackRecord) -> Iterator[tuple[str, float]]:
    """Yield each stem of a track with its loudness in LUFS."""
    import pyloudnorm

    meter = pyloudnorm.Meter(track.sample_rate)
    for stem in track.stems:
        samples = reader.read(track, [stem], 0, track.num_samples)[0]
        # BS.1770 defines weights for five channels; further channels are ignored.
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            loudness = float(meter.integrated_loudness(samples[:5].T.astype(np.float64)))
        if np.isfinite(loudness):
            yield stem, loudness
