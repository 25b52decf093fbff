"""Synthetic output folders of `cyclesep evaluate` for tests of the HTML reports."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclesep.audio.audio_io import Samples
from cyclesep.config import settings
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.excerpts import Excerpt
from cyclesep.evaluation.results import ResultKey, Results
from cyclesep.evaluation.track_scores import TrackResult, TrackScores, track_rows
from cyclesep.metrics import ScoreTable, TargetScore, TrackScore
from cyclesep.storage.path import StoragePath

RATE = 16000
LEVELS = {"mixture": -4.0, "separator": 5.0, "IRM2": 11.0}
HOSTILE = "</script><script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'> \"$x^2$\" & \x07"


def tone(hertz: float, amplitude: float, seconds: float = 4.0) -> Samples:
    """Return a sine `(time,)` that starts at zero."""
    return np.float32(amplitude * np.sin(2 * np.pi * hertz * np.arange(round(RATE * seconds)) / RATE))


def write_evaluation(
    folder: Path | str,
    tracks: Sequence[str],
    *,
    seconds: int = 6,
    silent: Sequence[str] = (),
    excerpts: Sequence[str] = (),
) -> StoragePath:
    """Write an evaluation of the systems in `LEVELS`; all frames of `silent` tracks are NaN.

    Tracks in `excerpts` have an excerpt: the mixture is a 500 Hz tone, the vocals reference the same at half the
    amplitude, the vocals estimate 1000 Hz, the accompaniment 2000 Hz.
    """
    rng = np.random.default_rng(0)
    results, rows, keys = Results(folder=StoragePath.of(folder)), [], []
    for system, level in LEVELS.items():
        for track in tracks:
            score = _score(track, rng.normal(level, 2.0, seconds), silent=track in silent)
            table = ScoreTable.from_scores(system, [score])
            result = TrackResult(rows=track_rows(system, score, seconds=float(seconds)))
            keys.append(ResultKey.of(system, track, []))
            results.save_track_result(keys[-1], table, result)
            rows += result.rows
    names = [f"separator-{number}" for number, _ in enumerate(excerpts)]
    for name, track in zip(names, excerpts, strict=True):
        write_excerpt(results.folder, name, track)
    results.join_scores(keys)
    results.write_tracks(TrackScores(rows=tuple(rows)))
    results.folder.write_text("summary.json", json.dumps(_summary(len(tracks), seconds, names)))
    return results.folder


def write_excerpt(folder: StoragePath, name: str, track: str) -> None:
    """Write an excerpt of four seconds that starts at one second."""
    Excerpt(
        system="separator",
        track_id=track,
        split="test",
        start_seconds=1.0,
        sample_rate=RATE,
        mixture=tone(500, 0.5),
        references={"vocals": tone(500, 0.25), "accompaniment": tone(2000, 0.25)},
        estimates={"vocals": tone(1000, 0.5), "accompaniment": tone(2000, 0.25)},
    ).write(folder, name)


def _score(track: str, sdr: NDArray[np.float64], *, silent: bool) -> TrackScore:
    """Return scores with the accompaniment 3 dB above the vocals."""
    targets = []
    for target, offset in {"vocals": 0.0, "accompaniment": 3.0}.items():
        own = np.full(len(sdr), np.nan) if silent else sdr + offset
        targets.append(
            TargetScore(
                target=target,
                scoring_group=("vocals", "accompaniment"),
                sdr=own,
                isr=own + 4,
                sir=own + 6,
                sar=own + 2,
                si_sdr=float(own.mean()),
                usdr=float(own.mean()),
                conditioning="exact",
            )
        )
    return TrackScore(
        track_id=track, split="test", sample_rate=RATE, frame_seconds=1.0, hop_seconds=1.0, targets=tuple(targets)
    )


def _summary(tracks: int, seconds: int, excerpts: Sequence[str]) -> dict[str, object]:
    metadata = {"step": 10, "targets": ["vocals"], "sample_rate": RATE, "channels": 1, "commit": "abc"}
    card = {"path": "runs/x/step-10", "metadata": metadata, "config": {"seed": 7, "steps": 10}}
    kinds = {"mixture": "MixtureBaseline", "separator": "SeparatorSystem", "IRM2": "IdealMask"}
    return {
        "version": "0",
        "commit": "abcdef",
        "hardware": "a machine",
        "config": settings.to_dict(EvaluateConfig(checkpoint="runs/x", shards="data/x")),
        "systems": [
            {"name": name, "kind": kinds[name], "card": card if name == "separator" else {}} for name in LEVELS
        ],
        "tracks": tracks,
        "corpus_digest": "0123",
        "failed": ["separator: Lost: its process died <b>3</b> times"],
        "num_reused": 0,
        "wall_seconds": 1.0,
        "audio_seconds": float(tracks * seconds),
        "excerpts": list(excerpts),
    }
