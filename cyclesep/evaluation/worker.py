"""What the processes of an evaluation do: separate and score. Plain code; `schedule` puts it on Ray."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from cyclesep import checkpoints
from cyclesep.audio.audio_io import Waveform, from_pcm16, pcm16_gain, to_pcm16, write_wav
from cyclesep.data.shards.manifest import MIXTURE
from cyclesep.errors import CyclesepError
from cyclesep.evaluation.excerpts import make_excerpt
from cyclesep.evaluation.references import ReferenceTrack, digest_of
from cyclesep.evaluation.resource_usage import Stopwatch, peak_bytes, reset_peak_memory
from cyclesep.evaluation.results import Part, Results
from cyclesep.evaluation.systems import Comparison, Separator, System, with_accompaniment
from cyclesep.evaluation.track_result import TrackResult
from cyclesep.evaluation.track_scores import rows_of
from cyclesep.inference.chunked_inference import SeparationConfig, choose_device
from cyclesep.inference.stems import separate_waveform
from cyclesep.metrics import ScoreTable, TrackScore, score_track, to_museval_json
from cyclesep.storage.atomic_io import as_name


@dataclass(frozen=True, kw_only=True)
class Item:
    """One track to be scored under one system, and where the results go."""

    system: System
    track: ReferenceTrack
    part: Part
    results: Results
    frame_seconds: float
    save_estimates: bool
    keep_excerpt: bool = False
    """Whether some seconds are kept for the report."""

    @property
    def museval_json(self) -> str:
        """Where museval's EvalStore looks: below the system, SPLIT/TRACK.json."""
        return f"museval/{as_name(self.system.name)}/{self.track.split}/{self._track_name}.json"

    @property
    def estimates_folder(self) -> str:
        """Where estimates are written, in the layout that `estimates` reads."""
        return f"estimates/{as_name(self.system.name)}/{self.track.split}/{self._track_name}"

    @property
    def _track_name(self) -> str:
        return as_name(self.track.track_id)


@dataclass(frozen=True, kw_only=True)
class Pcm16Estimates:
    """Estimates on their way between processes: 16 bits are what is scored, and half of the memory."""

    stems: dict[str, tuple[NDArray[np.int16], float]]
    """By target `(channels, time)` and the gain of the samples."""
    sample_rate: int

    @classmethod
    def of(cls, estimates: Mapping[str, Waveform]) -> "Pcm16Estimates":
        gains = {name: pcm16_gain(float(np.abs(wave.samples).max(initial=0.0))) for name, wave in estimates.items()}
        return cls(
            stems={name: (to_pcm16(wave.samples, gain=gains[name]), gains[name]) for name, wave in estimates.items()},
            sample_rate=next(iter(estimates.values())).sample_rate,
        )

    @property
    def num_bytes(self) -> int:
        return sum(pcm.nbytes for pcm, _ in self.stems.values())

    def unpacked(self) -> dict[str, Waveform]:
        return {
            name: Waveform(samples=from_pcm16(pcm, gain=gain), sample_rate=self.sample_rate)
            for name, (pcm, gain) in self.stems.items()
        }


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How the separation of one track went; the estimates travel beside it."""

    reason: str = ""
    """Why there are no estimates; empty if there are."""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    num_bytes: int = 0
    """Of the estimates."""


class SeparationActor:
    """Holds a separator and separates one track after the other; the next one is read while one is separated."""

    def __init__(self, checkpoint: str, config: SeparationConfig, device: str) -> None:
        self._load = lru_cache(maxsize=1)(lambda: checkpoints.load_separator(checkpoint, choose_device(device)))
        self._config = config
        self._separating = threading.Lock()

    def load(self) -> None:
        """Load the separator; raises CheckpointError, or ConfigError if the device is not there."""
        self._load()

    def separate(self, track: ReferenceTrack) -> tuple[Separation, Pcm16Estimates | None]:
        """The estimates of all targets, or the reason why there are none. Two threads may be here at once.

        Raises torch.AcceleratorError: after it a process can use its GPU no more, and has to be replaced.
        """
        try:
            mixture = track.mixture()
            with self._separating:
                estimates, separation = _separated(self._load(), mixture, self._config)
            packed = Pcm16Estimates.of(estimates)
            return replace(separation, num_bytes=packed.num_bytes), packed
        except torch.AcceleratorError:
            raise
        except Exception as problem:
            return Separation(reason=told(problem)), None


def score(item: Item, separation: Separation | None = None, estimates: Pcm16Estimates | None = None) -> TrackResult:
    """Score one track and keep the result; a failure is an outcome too.

    Without `estimates` they are made here, by the separator or whatever else the system is.
    """
    try:
        return _scored(item, separation, estimates)
    except Exception as problem:
        return failed(item, told(problem))


def failed(item: Item, reason: str) -> TrackResult:
    """The outcome of a track that could not be scored."""
    return TrackResult.failure(
        system=item.system.name,
        checkpoint=item.system.weights_digest,
        track_id=item.track.track_id,
        split=item.track.split,
        targets=item.system.targets,
        reason=reason,
    )


def told(problem: Exception) -> str:
    """One line: our own errors speak for themselves, others are named."""
    text = " ".join(str(problem).split())
    return text if isinstance(problem, CyclesepError) else f"{type(problem).__name__}: {text}"


def _scored(item: Item, separation: Separation | None, packed: Pcm16Estimates | None) -> TrackResult:
    clock = Stopwatch()
    reset_peak_memory()
    stems = item.track.read()
    if packed is not None:
        estimates = packed.unpacked()
    elif isinstance(item.system, Separator):
        system = item.system
        estimates, separation = _separated(_loaded(system.checkpoint), stems[MIXTURE], system.windows)
        clock.leave_out(separation.wall_seconds, separation.cpu_seconds)
        # As they would be after their way from an actor, to the bit; one at a time, for the sake of memory.
        for name in estimates:
            estimates |= Pcm16Estimates.of({name: estimates[name]}).unpacked()
        reset_peak_memory()
    else:
        assert isinstance(item.system, Comparison)
        estimates = item.system.estimates(stems, item.track)
    if item.save_estimates:
        _write_estimates(item, estimates)
    scores = score_track(
        {name: stem for name, stem in stems.items() if name != MIXTURE},
        estimates,
        frame_seconds=item.frame_seconds,
        track_id=item.track.track_id,
        split=item.track.split,
    )
    if item.keep_excerpt:
        about = {"system": item.system.name, "track_id": item.track.track_id, "split": item.track.split}
        make_excerpt(stems, estimates, **about).write(item.results.folder, item.part.name)
    return _kept(item, stems, scores, separation or Separation(), clock)


def _kept(
    item: Item, stems: Mapping[str, Waveform], scores: TrackScore, separation: Separation, clock: Stopwatch
) -> TrackResult:
    """Write museval's JSON and the part; gives the outcome."""
    table = ScoreTable.from_scores(item.system.name, [scores])
    item.results.folder.write_text(item.museval_json, to_museval_json(scores))
    rows = rows_of(
        table,
        checkpoint=item.system.weights_digest,
        references=digest_of({name: stem for name, stem in stems.items() if name != MIXTURE}),
        seconds=stems[MIXTURE].seconds,
        separation_seconds=separation.wall_seconds,
        scoring_seconds=clock.wall_seconds,
        separation_cpu_seconds=separation.cpu_seconds,
        scoring_cpu_seconds=clock.cpu_seconds,
        separation_peak_bytes=separation.peak_bytes,
        scoring_peak_bytes=peak_bytes(),
    )
    outcome = TrackResult(rows=rows)
    item.results.write_part(item.part, table, outcome)
    return outcome


def _separated(
    separator: checkpoints.LoadedSeparator, mixture: Waveform, config: SeparationConfig
) -> tuple[dict[str, Waveform], Separation]:
    """The estimates of all targets, one joined by its accompaniment, and what they took."""
    clock = Stopwatch()
    reset_peak_memory()
    stems = separate_waveform(separator, mixture, config)
    estimates = with_accompaniment({target: stems[target] for target in separator.targets}, mixture)
    took = Separation(wall_seconds=clock.wall_seconds, cpu_seconds=clock.cpu_seconds, peak_bytes=peak_bytes())
    return estimates, took


@lru_cache(maxsize=1)
def _loaded(checkpoint: str) -> checkpoints.LoadedSeparator:
    """Kept from one track to the next by the processes that separate on a CPU and score."""
    return checkpoints.load_separator(checkpoint)


def _write_estimates(item: Item, estimates: Mapping[str, Waveform]) -> None:
    for target, wave in estimates.items():
        # Louder than full scale is kept by float samples; everything else as it is scored.
        loud = pcm16_gain(float(np.abs(wave.samples).max(initial=0.0))) > 1.0
        with item.results.folder.replacing(f"{item.estimates_folder}/{as_name(target)}.wav") as partial:
            write_wav(partial, wave, subtype="FLOAT" if loud else "PCM_16")
