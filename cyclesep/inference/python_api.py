"""The model for use from Python: `cyclesep.load("vocals").separate(audio, sample_rate)`."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from cyclesep.audio import audio_io
from cyclesep.audio.audio_io import Samples, Waveform
from cyclesep.checkpoints.loaded_separator import LoadedSeparator, load_separator
from cyclesep.config import settings
from cyclesep.errors import AudioError
from cyclesep.inference.chunked_inference import choose_device
from cyclesep.inference.config import Device, SeparationConfig
from cyclesep.inference.stems import residual_name, separate_waveform
from cyclesep.storage.uri import display_path

# More channels than any loudspeaker layout: an array with more than these, and fewer samples than channels, is
# probably transposed.
_MAX_CHANNELS = 32


class Model:
    """A trained separator for arrays of any length, sample rate and level; returned by `cyclesep.load`."""

    def __init__(self, separator: LoadedSeparator, config: SeparationConfig) -> None:
        self._separator = separator
        self._config = config

    def __repr__(self) -> str:
        return f"Model({display_path(self.path)!r}: {', '.join(self.targets)} at {self.sample_rate} Hz)"

    @property
    def path(self) -> Path:
        """The checkpoint folder."""
        return self._separator.path

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the stems that the network extracts."""
        return self._separator.targets

    @property
    def stems(self) -> tuple[str, ...]:
        """Names that `separate` returns: the targets, and "accompaniment" (one target) or "residual" (several)."""
        return (*self.targets, residual_name(self.targets))

    @property
    def sample_rate(self) -> int:
        """Sample rate of the network in Hz; `separate` accepts any rate."""
        return self._separator.sample_rate

    @property
    def channels(self) -> int:
        """Channels of the network; a mono network separates each channel of any number independently."""
        return self._separator.channels

    def separate(self, audio: ArrayLike, sample_rate: int) -> dict[str, Samples]:
        """Separate floating-point `(channels, time)` with full scale at 1 into `stems`: float32 of the same shape.

        The stems add up to the input; results are bitwise reproducible. Raises AudioError for an array of another dtype
        or shape, that is empty or not finite, or whose channel count the network does not support, and for a sample
        rate that is not a whole number of Hz from 1,000 to 768,000.
        """
        waveform = _waveform(audio, sample_rate)
        stems = separate_waveform(self._separator, waveform, self._config)
        return {name: stem.samples for name, stem in stems.items()}


def load_model(path: str | Path, *, device: Device = "auto", config: SeparationConfig | None = None) -> Model:
    """Load a model, see `cyclesep.load`; `config` sets the segments, and `device` overrides its device."""
    config = settings.replace(config or SeparationConfig(), {"device": device})
    return Model(load_separator(path, choose_device(device)), config)


def _waveform(samples: ArrayLike, sample_rate: int) -> Waveform:
    array = np.asarray(samples)
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"audio: has dtype {array.dtype}, not floating point; divide integers by their full scale")
    if array.ndim != 2:
        raise AudioError(f"audio: has shape {array.shape}, not (channels, time); give mono as audio[None]")
    if array.shape[0] == 0:
        raise AudioError(f"audio: has shape {array.shape}, without channels; give (channels, time)")
    if array.shape[0] > max(_MAX_CHANNELS, array.shape[1]) and array.shape[1] > 0:
        raise AudioError(f"audio: has shape {array.shape}, more channels than samples; give audio.T")
    rate = audio_io.check_rate(
        sample_rate, name="sample_rate", remedy="give the sample rate of the audio in Hz, such as 44100"
    )
    with np.errstate(over="ignore"):
        narrowed = array.astype(np.float32, copy=False)
    return audio_io.check_samples(Waveform(samples=narrowed, sample_rate=rate), name="audio")
