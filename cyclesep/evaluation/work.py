"""What the processes of an evaluation do: actors separate, tasks score. Plain code; `run` puts it on Ray."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclesep import checkpoints
from cyclesep.audio import Waveform, from_pcm16, pcm16_gain, to_pcm16, write_wav
from cyclesep.errors import CyclesepError
from cyclesep.evaluation.outcomes import Part, TrackOutcome
from cyclesep.evaluation.references import ReferenceTrack
from cyclesep.evaluation.systems import Comparison, System, with_accompaniment
from cyclesep.manifest import MIXTURE
from cyclesep.scoring import ScoreTable, score_track, write_museval_json
from cyclesep.separation import separate_waveform
from cyclesep.windowing import SeparationConfig, choose_device


@dataclass(frozen=True, kw_only=True)
class Item:
    """One track to be scored under one system, and where the results go."""

    system: System
    track: ReferenceTrack
    part: Part
    output: Path
    window_seconds: float
    save_estimates: bool

    @property
    def museval_json(self) -> Path:
        """Where museval's EvalStore looks: below the system, SPLIT/TRACK.json."""
        return self.output / "museval" / self.system.name / self.track.split / f"{_file_name(self.track)}.json"

    @property
    def estimates_folder(self) -> Path:
        """Where estimates are written, in the layout that `estimates` reads."""
        return self.output / "estimates" / self.system.name / self.track.split / _file_name(self.track)


@dataclass(frozen=True, kw_only=True)
class PackedEstimates:
    """Estimates on their way between processes: 16 bits are what is scored, and half of the memory."""

    stems: dict[str, tuple[NDArray[np.int16], float]]
    """By target `(channels, time)` and the gain of the samples."""
    sample_rate: int
    wall_seconds: float

    @classmethod
    def of(cls, estimates: Mapping[str, Waveform], *, wall_seconds: float) -> "PackedEstimates":
        gains = {name: pcm16_gain(float(np.abs(wave.samples).max(initial=0.0))) for name, wave in estimates.items()}
        return cls(
            stems={name: (to_pcm16(wave.samples, gain=gains[name]), gains[name]) for name, wave in estimates.items()},
            sample_rate=next(iter(estimates.values())).sample_rate,
            wall_seconds=wall_seconds,
        )

    def unpacked(self) -> dict[str, Waveform]:
        return {
            name: Waveform(samples=from_pcm16(pcm, gain=gain), sample_rate=self.sample_rate)
            for name, (pcm, gain) in self.stems.items()
        }


class SeparationActor:
    """Holds a separator and separates the mixtures of one track after the other."""

    def __init__(self, checkpoint: str, config: SeparationConfig, device: str) -> None:
        self._separator = checkpoints.load_separator(checkpoint, choose_device(device))
        self._config = config

    def separate(self, track: ReferenceTrack) -> PackedEstimates | str:
        """The estimates of all targets, or the reason why there are none."""
        try:
            mixture = track.read()[MIXTURE]
            began = time.monotonic()
            stems = separate_waveform(self._separator, mixture, self._config)
            wall_seconds = time.monotonic() - began
            estimates = {target: stems[target] for target in self._separator.targets}
            return PackedEstimates.of(with_accompaniment(estimates, mixture), wall_seconds=wall_seconds)
        except Exception as problem:
            return told(problem)


def score(item: Item, separated: PackedEstimates | str | None) -> TrackOutcome:
    """Score one track and keep the result on disk; a reason instead of scores is passed on, as is a failure here.

    `separated` is None for a system whose estimates are made here.
    """
    try:
        return _scored(item, separated) if not isinstance(separated, str) else failed(item, separated)
    except Exception as problem:
        return failed(item, told(problem))


def failed(item: Item, reason: str) -> TrackOutcome:
    """The outcome of a track that could not be scored."""
    return TrackOutcome(system=item.system.name, track_id=item.track.track_id, split=item.track.split, reason=reason)


def told(problem: Exception) -> str:
    """One line: our own errors speak for themselves, others are named."""
    text = " ".join(str(problem).split())
    return text if isinstance(problem, CyclesepError) else f"{type(problem).__name__}: {text}"


def _scored(item: Item, separated: PackedEstimates | None) -> TrackOutcome:
    began = time.monotonic()
    stems = item.track.read()
    estimates = _compared(item, stems) if separated is None else separated.unpacked()
    if item.save_estimates:
        _write_estimates(item, estimates)
    references = {name: stem for name, stem in stems.items() if name != MIXTURE}
    scores = score_track(
        references,
        estimates,
        window_seconds=item.window_seconds,
        track_id=item.track.track_id,
        split=item.track.split,
    )
    write_museval_json(scores, item.output / "museval" / item.system.name)
    outcome = TrackOutcome(
        system=item.system.name,
        track_id=item.track.track_id,
        split=item.track.split,
        seconds=stems[MIXTURE].seconds,
        separation_seconds=separated.wall_seconds if separated is not None else 0.0,
        scoring_seconds=time.monotonic() - began,
    )
    item.part.write(ScoreTable.from_scores(item.system.name, [scores]), outcome)
    return outcome


def _compared(item: Item, stems: Mapping[str, Waveform]) -> dict[str, Waveform]:
    assert isinstance(item.system, Comparison), "a separator's estimates come from its actor"
    return item.system.estimates(stems, item.track)


def _write_estimates(item: Item, estimates: Mapping[str, Waveform]) -> None:
    for target, wave in estimates.items():
        # Louder than full scale is kept by float samples; everything else as it is scored.
        loud = pcm16_gain(float(np.abs(wave.samples).max(initial=0.0))) > 1.0
        write_wav(item.estimates_folder / f"{target}.wav", wave, subtype="FLOAT" if loud else "PCM_16")


def _file_name(track: ReferenceTrack) -> str:
    return track.track_id.replace("/", "_")
