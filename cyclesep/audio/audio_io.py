"""Audio as float32 `(channels, time)`: check, write, resample and convert it."""

import numbers
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from cyclesep.errors import AudioError
from cyclesep.storage.atomic_io import replacing

Samples = NDArray[np.float32]

# int16 = round(float * 32768), as in soundfile, so that a 16-bit wav round-trips bit-exactly.
PCM16_SCALE = 32768.0

# Rates outside this range are typing errors (44.1 for 44100) or damaged headers, and resampling could fill the memory.
MIN_RATE, MAX_RATE = 1_000, 768_000

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp4", ".m4a", ".aac"}
    | {".aif", ".aiff", ".w64", ".caf", ".au", ".wma"}
)


@dataclass(frozen=True, kw_only=True)
class Waveform:
    """Audio in memory: `samples` is float32 `(channels, time)`, nominal range -1 to 1."""

    samples: Samples
    sample_rate: int

    @property
    def channels(self) -> int:
        return int(self.samples.shape[0])

    @property
    def num_samples(self) -> int:
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        return self.num_samples / self.sample_rate


def check_is_file(path: Path) -> None:
    """Raise AudioError unless `path` is a regular file."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(f"{path}: file not found; check the path") from None
    except OSError as problem:
        raise AudioError(f"{path}: cannot be opened ({problem.strerror}); check the path") from problem
    if stat.S_ISDIR(mode):
        raise AudioError(f"{path}: is a folder; specify an audio file")
    if not stat.S_ISREG(mode):
        raise AudioError(f"{path}: is a pipe or a device, which cannot be read twice; save it to a file first")


def check_rate(sample_rate: object, *, name: str, remedy: str = "export the file again") -> int:
    """Return `sample_rate` in Hz; raise AudioError unless it is an integer from MIN_RATE to MAX_RATE."""
    real = float(sample_rate) if isinstance(sample_rate, numbers.Real) else 0.0
    if not (MIN_RATE <= real <= MAX_RATE and real.is_integer()):
        raise AudioError(
            f"{name}: sample rate {sample_rate!r} is not an integer from {MIN_RATE} to {MAX_RATE} Hz; {remedy}"
        )
    return int(real)


def check_samples(waveform: Waveform, *, name: str) -> Waveform:
    """Return `waveform`; raise AudioError if it is empty or has NaN or infinite samples."""
    if waveform.num_samples == 0:
        raise AudioError(f"{name}: contains no samples; exclude the file or export it again")
    finite = np.isfinite(waveform.samples)
    if not finite.all():
        first = int(np.argmin(finite.all(axis=0)))
        raise AudioError(
            f"{name}: {int((~finite).sum())} samples are NaN or infinite, the first at "
            f"{first / waveform.sample_rate:.3f} s; export the file again"
        )
    return waveform


def write_wav(path: Path | str, waveform: Waveform, *, subtype: str = "FLOAT") -> None:
    """Write a wav file atomically; `subtype` is one of libsndfile's (PCM_16, PCM_24, FLOAT)."""
    with replacing(Path(path)) as partial:
        soundfile.write(partial, waveform.samples.T, waveform.sample_rate, subtype=subtype, format="WAV")


def resample(waveform: Waveform, sample_rate: int) -> Waveform:
    """Resample with soxr (high quality); the length becomes round(time * new / old)."""
    if sample_rate == waveform.sample_rate:
        return waveform
    samples = soxr.resample(waveform.samples.T, waveform.sample_rate, sample_rate, quality="HQ").T
    wanted = round(waveform.num_samples * sample_rate / waveform.sample_rate)
    return Waveform(samples=fit_length(samples, wanted), sample_rate=sample_rate)


def with_channels(waveform: Waveform, channels: int) -> Waveform:
    """Convert to mono by averaging channels, or from mono by repetition.

    Raises AudioError for any other conversion, such as six channels to stereo.
    """
    if channels == waveform.channels:
        return waveform
    if channels == 1:
        samples = waveform.samples.mean(axis=0, keepdims=True, dtype=np.float32)
    elif waveform.channels == 1:
        samples = np.repeat(waveform.samples, channels, axis=0)
    else:
        raise AudioError(
            f"cannot convert {waveform.channels} channels to {channels}; mix the file down to stereo first"
        )
    return Waveform(samples=samples, sample_rate=waveform.sample_rate)


def fit_length(samples: Samples, num_samples: int) -> Samples:
    """Cut or zero-pad the last axis to `num_samples`; returns contiguous float32."""
    missing = num_samples - samples.shape[-1]
    if missing > 0:
        samples = np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])
    return np.ascontiguousarray(samples[..., :num_samples], dtype=np.float32)


def to_pcm16(samples: Samples, *, gain: float = 1.0) -> NDArray[np.int16]:
    """Round `samples / gain` to int16; with `gain` from `pcm16_gain` nothing is clipped."""
    scaled = np.rint(samples.astype(np.float64) * (PCM16_SCALE / gain))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def from_pcm16(pcm: NDArray[np.int16], *, gain: float = 1.0) -> Samples:
    """Convert int16 from `to_pcm16` back to float32 of the same shape."""
    return pcm.astype(np.float32) * np.float32(gain / PCM16_SCALE)


def pcm16_gain(peak: float) -> float:
    """Return the gain to store with PCM16 audio of this absolute peak: 1 if it fits, else the smallest power of two."""
    if peak * PCM16_SCALE < 32767.5:
        return 1.0
    return float(2.0 ** np.ceil(np.log2(peak * PCM16_SCALE / 32767.0)))


def common_pcm16_gain(stems: Iterable[Samples]) -> float:
    """Return a gain with which all stems fit into PCM16; 1 for any 16-bit audio, whose lowest value is -32768."""
    peaks = ((float(stem.max()), -float(stem.min()) - 1.0 / PCM16_SCALE) for stem in stems)
    return pcm16_gain(max(max(peak) for peak in peaks))


def decibels(power: float | NDArray[np.floating]) -> NDArray[np.float64]:
    """Return 10 log10 of a power or a ratio of powers; minus infinity for 0."""
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(np.asarray(power, dtype=np.float64))
