"""A generated catalogue: records of tracks without audio, and results as long as those of real tracks."""

from collections.abc import Iterator

import numpy as np

from cyclesep.data.shards.manifest import ShardFile, TrackRecord
from cyclesep.evaluation.references import ReferenceTrack
from cyclesep.evaluation.systems import MixtureBaseline
from cyclesep.evaluation.tasks import EvaluationTask
from cyclesep.evaluation.track_scores import METRICS, TrackResult, TrackRow
from cyclesep.metrics import ScoreTable, TargetScore, TrackScore

SECONDS, SAMPLE_RATE, SEGMENT_SECONDS = 240, 44100, 4
STEMS = ("mixture", "vocals", "drums", "bass", "other")
TARGETS = STEMS[1:]
SYSTEM = MixtureBaseline(name="mixture", targets=TARGETS)

# Size of 16-bit stereo audio and the other fields.
_RECORD_BYTES = len(STEMS) * 2 * 2 * SEGMENT_SECONDS * SAMPLE_RATE + 64
# LMDB's index pages of a file of this size.
_INDEX_BYTES = 65536
_DIGEST = "0123456789abcdef" * 4


def records(number: int) -> Iterator[TrackRecord]:
    """Yield records of `number` test tracks, 44.1 kHz stereo, with the level of each second of each stem."""
    rng = np.random.default_rng(0)
    num_segments = SECONDS // SEGMENT_SECONDS
    places = tuple((_INDEX_BYTES + index * _RECORD_BYTES, _RECORD_BYTES) for index in range(num_segments))
    for track in range(number):
        levels = np.round(rng.normal(-20.0, 6.0, (len(STEMS), SECONDS)), 1)
        shard = ShardFile(
            name=f"artist-{track // 10}-song-{track}-0.lmdb",
            bytes=_INDEX_BYTES + num_segments * _RECORD_BYTES,
            sha256=f"{track:064x}",
            first_segment=0,
            records=places,
            index_crc32=track,
        )
        yield TrackRecord(
            track_id=f"Artist {track // 10} - Song {track}",
            split="test",
            sample_rate=SAMPLE_RATE,
            channels=2,
            num_samples=SECONDS * SAMPLE_RATE,
            stems=STEMS,
            gain=1.0,
            segment_samples=SEGMENT_SECONDS * SAMPLE_RATE,
            shards=(shard,),
            loudness_db=dict(zip(STEMS, map(tuple, levels.tolist()), strict=True)),
            residual_db=-40.0,
            fingerprint=_DIGEST,
        )


def frames_of(track: ReferenceTrack) -> TrackScore:
    """Return scores of every second of every target."""
    rng = np.random.default_rng(1)
    targets = tuple(
        TargetScore(
            target=target,
            scoring_group=TARGETS,
            **{name: rng.normal(5.0, 3.0, SECONDS) for name in ("sdr", "isr", "sir", "sar")},
            si_sdr=5.0,
            usdr=5.0,
            conditioning="exact",
        )
        for target in TARGETS
    )
    return TrackScore(
        track_id=track.track_id,
        split=track.split,
        sample_rate=SAMPLE_RATE,
        frame_seconds=1.0,
        hop_seconds=1.0,
        targets=targets,
    )


def table_of(task: EvaluationTask) -> ScoreTable:
    """Return the frames of one track as saved by an evaluation."""
    return ScoreTable.from_scores(task.system.name, [frames_of(task.track)])


def outcome_of(task: EvaluationTask, *_: object) -> TrackResult:
    """Return rows as of a scored track, in place of a real task."""
    rows = tuple(
        TrackRow(
            system=task.system.name,
            track_id=task.track.track_id,
            split=task.track.split,
            target=target,
            scoring_group="+".join(TARGETS),
            conditioning="exact",
            values=dict.fromkeys(METRICS, 5.0),
            frames=SECONDS,
            references=_DIGEST,
            seconds=float(SECONDS),
            scoring_seconds=3.0,
            scoring_cpu_seconds=3.0,
            scoring_peak_bytes=10**9,
        )
        for target in TARGETS
    )
    return TrackResult(rows=rows)
