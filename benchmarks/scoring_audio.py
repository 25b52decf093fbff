"""Audio of the scoring benchmark: one synthetic song and estimates with leakage, in memory-mapped files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyclesep.audio.audio_io import PCM16_SCALE, Waveform, resample
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import synthetic_tracks

STEMS = ("vocals", "drums", "bass", "other")
# Level of every other stem and of noise relative to full scale: SDR, SIR and SAR of 10 to 25 dB, as of good separators.
LEAKAGE = 0.1
NOISE = 0.002


@dataclass(frozen=True, kw_only=True)
class ScoredAudio:
    """References and estimates (stems, channels, time) in 16 bits, as read from wav files."""

    references: NDArray[np.int16]
    estimates: NDArray[np.int16]
    sample_rate: int

    @classmethod
    def compose(cls, *, seconds: float, stems: int, sample_rate: int) -> "ScoredAudio":
        """Return the first `stems` stems of a stereo song, and estimates with leakage and noise; deterministic."""
        (track,) = synthetic_tracks(SyntheticConfig(num_train=0, num_valid=0, num_test=1, seconds=seconds))
        song = track.read()
        references = np.stack([resample(song[name], sample_rate).samples for name in STEMS[:stems]])
        references = np.rint(references * PCM16_SCALE).clip(-32768, 32767)
        leaked = references + LEAKAGE * (references.sum(axis=0, keepdims=True) - references)
        noise = np.random.default_rng(0).standard_normal(references.shape, dtype=np.float32)
        estimates = np.rint(leaked + NOISE * PCM16_SCALE * noise).clip(-32768, 32767)
        return cls(
            references=references.astype(np.int16), estimates=estimates.astype(np.int16), sample_rate=sample_rate
        )

    @classmethod
    def load(cls, folder: Path) -> "ScoredAudio":
        """Memory-map the files written by `save`."""
        references, estimates = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("references", "estimates"))
        return cls(references=references, estimates=estimates, sample_rate=int((folder / "rate").read_text()))

    def save(self, folder: Path) -> None:
        """Write the audio to `folder`."""
        np.save(folder / "references.npy", self.references)
        np.save(folder / "estimates.npy", self.estimates)
        (folder / "rate").write_text(str(self.sample_rate))

    @property
    def seconds(self) -> float:
        return float(self.references.shape[2] / self.sample_rate)

    def waveforms(self) -> tuple[dict[str, Waveform], dict[str, Waveform]]:
        """Return references and estimates by name."""
        both = (self.references, self.estimates)
        first, second = ({name: self._waveform(x) for name, x in zip(STEMS, stems, strict=False)} for stems in both)
        return first, second

    def for_museval(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return references and estimates (stems, time, channels) in float64, as musdb reads them."""
        both = (self.references, self.estimates)
        first, second = (np.ascontiguousarray(x.transpose(0, 2, 1), dtype=np.float64) / PCM16_SCALE for x in both)
        return first, second

    def _waveform(self, pcm: NDArray[np.int16]) -> Waveform:
        return Waveform(samples=pcm.astype(np.float32) / np.float32(PCM16_SCALE), sample_rate=self.sample_rate)
