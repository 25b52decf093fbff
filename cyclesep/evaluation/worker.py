"""What the processes of an evaluation do: separate and score. Plain code; `scheduler` runs it on Ray."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from cyclesep.audio.audio_io import Waveform, from_pcm16, pcm16_gain, to_pcm16, write_wav
from cyclesep.audio.stem_names import MIXTURE
from cyclesep.checkpoints.loaded_separator import LoadedSeparator, load_separator
from cyclesep.errors import CyclesepError
from cyclesep.evaluation.excerpts import make_excerpt
from cyclesep.evaluation.references import ReferenceTrack, digest_of
from cyclesep.evaluation.resource_usage import Stopwatch, peak_bytes, reset_peak_memory
from cyclesep.evaluation.systems import InlineSystem, SeparatorSystem, with_accompaniment
from cyclesep.evaluation.tasks import EvaluationTask
from cyclesep.evaluation.track_scores import TrackResult, track_rows
from cyclesep.inference.chunked_inference import choose_device
from cyclesep.inference.config import SeparationConfig
from cyclesep.inference.stems import separate_waveform
from cyclesep.metrics import ScoreTable, TrackScore, score_track, to_museval_json
from cyclesep.storage.atomic_io import as_name


@dataclass(frozen=True, kw_only=True)
class Pcm16Estimates:
    """Estimates as 16-bit samples, to pass between processes: the resolution that is scored, at half the memory."""

    stems: dict[str, tuple[NDArray[np.int16], float]]
    """By target, `(channels, time)` and the gain of the samples."""
    sample_rate: int

    @classmethod
    def of(cls, estimates: Mapping[str, Waveform]) -> "Pcm16Estimates":
        gains = {name: _gain(wave) for name, wave in estimates.items()}
        return cls(
            stems={name: (to_pcm16(wave.samples, gain=gains[name]), gains[name]) for name, wave in estimates.items()},
            sample_rate=next(iter(estimates.values())).sample_rate,
        )

    @property
    def num_bytes(self) -> int:
        return sum(pcm.nbytes for pcm, _ in self.stems.values())

    def to_waveforms(self) -> dict[str, Waveform]:
        return {
            name: Waveform(samples=from_pcm16(pcm, gain=gain), sample_rate=self.sample_rate)
            for name, (pcm, gain) in self.stems.items()
        }


@dataclass(frozen=True, kw_only=True)
class SeparationStats:
    """Outcome, time and memory of the separation of one track, without the estimates."""

    reason: str = ""
    """Why there are no estimates; empty if there are."""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    num_bytes: int = 0
    """Size of the estimates."""


class SeparationActor:
    """Holds a separator and separates tracks one at a time; the next track is read while one is separated."""

    def __init__(self, checkpoint: str, config: SeparationConfig, device: str) -> None:
        self._load = lru_cache(maxsize=1)(lambda: load_separator(checkpoint, choose_device(device)))
        self._config = config
        self._lock = threading.Lock()

    def load(self) -> None:
        """Load the separator; raises CheckpointError, or ConfigError if the device is not available."""
        self._load()

    def separate(self, track: ReferenceTrack) -> tuple[SeparationStats, Pcm16Estimates | None]:
        """Return the estimates of all targets, or the reason why there are none. Called from two threads at a time.

        Raises torch.AcceleratorError, after which this process cannot use its GPU and has to be replaced.
        """
        try:
            mixture = track.mixture()
            with self._lock:
                estimates, stats = _separate(self._load(), mixture, self._config)
            packed = Pcm16Estimates.of(estimates)
            return replace(stats, num_bytes=packed.num_bytes), packed
        except torch.AcceleratorError:
            raise
        except Exception as problem:
            return SeparationStats(reason=error_message(problem)), None


def score(
    task: EvaluationTask, stats: SeparationStats | None = None, estimates: Pcm16Estimates | None = None
) -> TrackResult:
    """Score one track and save the result; an exception becomes a failed result.

    Without `estimates` this process makes them itself.
    """
    try:
        return _score(task, stats, estimates)
    except Exception as problem:
        return task.failure(error_message(problem))


def error_message(problem: BaseException) -> str:
    """Return an exception as one line; types are named except cyclesep's own."""
    text = " ".join(str(problem).split())
    return text if isinstance(problem, CyclesepError) else f"{type(problem).__name__}: {text}"


def _score(task: EvaluationTask, stats: SeparationStats | None, packed: Pcm16Estimates | None) -> TrackResult:
    clock = Stopwatch()
    reset_peak_memory()
    stems = task.track.read()
    if packed is not None:
        estimates = packed.to_waveforms()
    elif isinstance(task.system, SeparatorSystem):
        separator = _load_cached(task.system.checkpoint)
        estimates, stats = _separate(separator, stems[MIXTURE], task.system.separation)
        clock.exclude(stats.wall_seconds, stats.cpu_seconds)
        # Bit-exactly what an actor would return. One target at a time, to save memory.
        for name in estimates:
            estimates |= Pcm16Estimates.of({name: estimates[name]}).to_waveforms()
        reset_peak_memory()
    else:
        assert isinstance(task.system, InlineSystem)
        estimates = task.system.estimates(stems, task.track)
    if task.save_estimates:
        _write_estimates(task, estimates)
    scores = score_track(
        {name: stem for name, stem in stems.items() if name != MIXTURE},
        estimates,
        frame_seconds=task.frame_seconds,
        track_id=task.track.track_id,
        split=task.track.split,
    )
    if task.save_excerpt:
        names = {"system": task.system.name, "track_id": task.track.track_id, "split": task.track.split}
        make_excerpt(stems, estimates, **names).write(task.results.folder, task.key.name)
    return _save_scores(task, stems, scores, stats or SeparationStats(), clock)


def _save_scores(
    task: EvaluationTask, stems: Mapping[str, Waveform], scores: TrackScore, stats: SeparationStats, clock: Stopwatch
) -> TrackResult:
    """Write museval's JSON and the track's result; returns the result."""
    table = ScoreTable.from_scores(task.system.name, [scores])
    task.results.folder.write_text(task.museval_json, to_museval_json(scores))
    rows = track_rows(
        task.system.name,
        scores,
        checkpoint=task.system.weights_digest,
        references=digest_of({name: stem for name, stem in stems.items() if name != MIXTURE}),
        seconds=stems[MIXTURE].seconds,
        separation_seconds=stats.wall_seconds,
        scoring_seconds=clock.wall_seconds,
        separation_cpu_seconds=stats.cpu_seconds,
        scoring_cpu_seconds=clock.cpu_seconds,
        separation_peak_bytes=stats.peak_bytes,
        scoring_peak_bytes=peak_bytes(),
    )
    result = TrackResult(rows=rows)
    task.results.save_track_result(task.key, table, result)
    return result


def _separate(
    separator: LoadedSeparator, mixture: Waveform, config: SeparationConfig
) -> tuple[dict[str, Waveform], SeparationStats]:
    """Return the estimates of all targets, with the accompaniment of a single one, and time and memory used."""
    clock = Stopwatch()
    reset_peak_memory()
    stems = separate_waveform(separator, mixture, config)
    estimates = with_accompaniment({target: stems[target] for target in separator.targets}, mixture)
    stats = SeparationStats(wall_seconds=clock.wall_seconds, cpu_seconds=clock.cpu_seconds, peak_bytes=peak_bytes())
    return estimates, stats


@lru_cache(maxsize=1)
def _load_cached(checkpoint: str) -> LoadedSeparator:
    """Load a separator on the CPU and keep it for the next track."""
    return load_separator(checkpoint)


def _write_estimates(task: EvaluationTask, estimates: Mapping[str, Waveform]) -> None:
    for target, wave in estimates.items():
        # Float samples above full scale, which 16 bits would clip; otherwise the samples that are scored.
        subtype = "FLOAT" if _gain(wave) > 1.0 else "PCM_16"
        with task.results.folder.replacing(f"{task.estimates_folder}/{as_name(target)}.wav") as partial:
            write_wav(partial, wave, subtype=subtype)


def _gain(wave: Waveform) -> float:
    return pcm16_gain(float(np.abs(wave.samples).max(initial=0.0)))
