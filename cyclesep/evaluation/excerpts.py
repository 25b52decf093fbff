"""Excerpts of scored tracks to listen to: mixture, references and estimates of the same seconds, as small FLAC files.

excerpts/NAME.mixture.flac, NAME.TARGET.reference.flac, NAME.TARGET.estimate.flac: mono, 16 bits
excerpts/NAME.json: metadata; written last
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from cyclesep.audio.audio_io import Samples, Waveform, common_pcm16_gain, to_pcm16
from cyclesep.audio.stem_names import ACCOMPANIMENT, MIXTURE, VOCALS
from cyclesep.errors import StorageError
from cyclesep.storage.path import StoragePath

EXCERPTS = "excerpts"
SECONDS = 20.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Some seconds of one track under one system; all signals are float32 `(time,)` with the same length."""

    system: str
    track_id: str
    split: str
    start_seconds: float
    """Start of the excerpt in the track."""
    sample_rate: int
    mixture: Samples
    references: Mapping[str, Samples]
    """By target."""
    estimates: Mapping[str, Samples]
    """By target, the same targets in the same order."""

    @property
    def seconds(self) -> float:
        return len(self.mixture) / self.sample_rate

    @property
    def signals(self) -> dict[str, Samples]:
        """All signals by the names in their file names."""
        signals = {MIXTURE: self.mixture}
        for target, reference in self.references.items():
            signals |= {f"{target}.reference": reference, f"{target}.estimate": self.estimates[target]}
        return signals

    def write(self, folder: StoragePath, name: str) -> None:
        """Write the excerpt below `folder`, its metadata last; `finished_excerpts` ignores it until then.

        If a signal exceeds full scale, all signals are divided by the same power of two. A failure to write is only a
        warning: a report without an excerpt is better than a track without scores.
        """
        try:
            self._write(folder, name)
        except (StorageError, soundfile.LibsndfileError) as problem:
            _log.warning("%s: %s: excerpt for the report not written (%s)", self.system, self.track_id, problem)

    def _write(self, folder: StoragePath, name: str) -> None:
        signals = self.signals
        gain = common_pcm16_gain(signals.values())
        for signal, samples in signals.items():
            with folder.replacing(f"{EXCERPTS}/{name}.{signal}.flac") as partial:
                soundfile.write(partial, to_pcm16(samples, gain=gain), self.sample_rate, "PCM_16", format="FLAC")
        metadata = {
            "system": self.system,
            "track_id": self.track_id,
            "split": self.split,
            "start_seconds": self.start_seconds,
            "targets": list(self.references),
        }
        folder.write_text(f"{EXCERPTS}/{name}.json", json.dumps(metadata, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: StoragePath, name: str) -> "Excerpt":
        """Read the excerpt that `write` wrote; raises StorageError if a file is missing or damaged."""
        prefix = f"{EXCERPTS}/{name}"
        try:
            metadata: dict[str, Any] = json.loads(folder.read_text(f"{prefix}.json"))
            targets = metadata.pop("targets")
            mixture, sample_rate = _read_flac(folder, f"{prefix}.{MIXTURE}.flac")
            return cls(
                mixture=mixture,
                sample_rate=sample_rate,
                references={target: _read_flac(folder, f"{prefix}.{target}.reference.flac")[0] for target in targets},
                estimates={target: _read_flac(folder, f"{prefix}.{target}.estimate.flac")[0] for target in targets},
                **metadata,
            )
        except (ValueError, KeyError, TypeError, soundfile.LibsndfileError) as problem:
            raise StorageError(
                f"{folder.file_uri(prefix)}: excerpt is damaged ({problem}); delete it, or evaluate again"
            ) from problem


def display_order(targets: Iterable[str]) -> list[str]:
    """Return the targets with vocals first and the accompaniment last."""
    return sorted(targets, key=lambda name: (name != VOCALS, name == ACCOMPANIMENT))


def finished_excerpts(folder: StoragePath) -> set[str]:
    """Return the names of all excerpts that were written completely."""
    return {file.removesuffix(".json") for file in folder.sizes(EXCERPTS) if file.endswith(".json")}


def delete_excerpts(folder: StoragePath, names: set[str]) -> None:
    """Delete excerpts, their metadata first."""
    files = [file for file in folder.sizes(EXCERPTS) if file.partition(".")[0] in names]
    for file in sorted(files, key=lambda file: not file.endswith(".json")):
        folder.delete(f"{EXCERPTS}/{file}")


def make_excerpt(
    stems: Mapping[str, Waveform], estimates: Mapping[str, Waveform], *, system: str, track_id: str, split: str
) -> Excerpt:
    """Return the `SECONDS` in which the first target in display order is loudest, of all estimates with a reference.

    `stems` are the references and the mixture, with the same sample rate and length.
    """
    mixture = stems[MIXTURE]
    candidates = {name: _reference(name, stems, estimates) for name in display_order(estimates)}
    references = {name: reference for name, reference in candidates.items() if reference is not None}
    rate, length = mixture.sample_rate, round(SECONDS * mixture.sample_rate)
    first = next(iter(references.values()), mixture.samples)
    start = _loudest(first, rate)
    num_samples = mixture.samples[:, start * rate : start * rate + length].shape[1]
    cut = slice(start * rate, start * rate + num_samples)
    return Excerpt(
        system=system,
        track_id=track_id,
        split=split,
        start_seconds=float(start),
        sample_rate=rate,
        mixture=_mono(mixture.samples[:, cut], num_samples),
        references={name: _mono(samples[:, cut], num_samples) for name, samples in references.items()},
        estimates={name: _mono(estimates[name].samples[:, cut], num_samples) for name in references},
    )


def _reference(target: str, stems: Mapping[str, Waveform], estimates: Mapping[str, Waveform]) -> Samples | None:
    """Return the reference of a target, or None; the accompaniment is the sum of all stems but the lead."""
    if target in stems:
        return stems[target].samples
    if target != ACCOMPANIMENT:
        return None
    # As in scoring: the lead is the only other target, or the vocals if there is none or several.
    leads = [name for name in estimates if name in stems and name not in (MIXTURE, ACCOMPANIMENT)]
    lead = leads[0] if len(leads) == 1 else VOCALS
    others = [wave.samples for name, wave in stems.items() if name not in (MIXTURE, lead)]
    total: Samples = np.sum(others, axis=0, dtype=np.float32)
    return total


def _loudest(samples: Samples, sample_rate: int) -> int:
    """Return the start, in whole seconds, of the `SECONDS` with the most energy that end within the track."""
    num_seconds = samples.shape[1] // sample_rate
    power = np.square(samples[:, : num_seconds * sample_rate], dtype=np.float64).reshape(
        len(samples), num_seconds, sample_rate
    )
    energy: NDArray[np.float64] = power.sum(axis=(0, 2))
    count = max(1, num_seconds - int(SECONDS) + 1)
    return int(np.argmax([energy[second : second + int(SECONDS)].sum() for second in range(count)]))


def _mono(samples: Samples, num_samples: int) -> Samples:
    """Return the mean of the channels, padded with zeros to `num_samples`."""
    mono: Samples = samples.mean(axis=0, dtype=np.float32)
    return np.pad(mono, (0, num_samples - len(mono)))


def _read_flac(folder: StoragePath, name: str) -> tuple[Samples, int]:
    with folder.reading(name) as path:
        samples, sample_rate = soundfile.read(path, dtype="float32")
    return samples, sample_rate
