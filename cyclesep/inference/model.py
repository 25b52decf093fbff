"""Separation from Python: `cyclesep.load("vocals").separate(audio, sample_rate)`."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from cyclesep.audio import audio_io
from cyclesep.audio.audio_io import Samples, Waveform
from cyclesep.checkpoints.separator import LoadedSeparator, load_separator
from cyclesep.config import settings
from cyclesep.errors import AudioError
from cyclesep.inference.chunked_inference import SeparationConfig, choose_device
from cyclesep.inference.stems import residual_name, separate_waveform

Device = Literal["auto", "cpu", "cuda"]

# More channels than any layout of loudspeakers: of an array with more of them than samples the axes are exchanged.
_MOST_CHANNELS = 32


class Model:
    """A trained separator, ready to separate arrays of any length, rate and level; `cyclesep.load` gives one."""

    def __init__(self, separator: LoadedSeparator, config: SeparationConfig) -> None:
        self._separator = separator
        self._config = config

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}: {', '.join(self.targets)} at {self.sample_rate} Hz)"

    @property
    def path(self) -> Path:
        """The checkpoint folder."""
        return self._separator.path

    @property
    def targets(self) -> tuple[str, ...]:
        """What the network extracts."""
        return self._separator.targets

    @property
    def stems(self) -> tuple[str, ...]:
        """What `separate` gives: the targets, and what they leave ("accompaniment" of one, "residual" of several)."""
        return (*self.targets, residual_name(self.targets))

    @property
    def sample_rate(self) -> int:
        """Hz at which the network works; `separate` takes any rate."""
        return self._separator.sample_rate

    @property
    def channels(self) -> int:
        """Channels of the network; one of 1 takes any number, each by itself."""
        return self._separator.channels

    def separate(self, audio: ArrayLike, sample_rate: int) -> dict[str, Samples]:
        """Separate `(channels, time)`, floating point with full scale at 1, into `stems`: float32 of the same shape.

        The stems add up to the input. The same input gives the same bits. Raises AudioError for an array of another
        kind or shape, that is empty, not finite, or of a channel count that the network cannot take, and for a rate
        that is no whole number of Hz from 1,000 to 768,000.
        """
        waveform = _waveform(audio, sample_rate)
        stems = separate_waveform(self._separator, waveform, self._config)
        return {name: stem.samples for name, stem in stems.items()}


def load_model(path: str | Path, *, device: Device = "auto", config: SeparationConfig | None = None) -> Model:
    """See `cyclesep.load`; `config` says how audio is cut into windows, and `device` is taken over its own."""
    config = settings.replace(config or SeparationConfig(), {"device": device})
    return Model(load_separator(path, choose_device(device)), config)


def _waveform(samples: ArrayLike, sample_rate: int) -> Waveform:
    array = np.asarray(samples)
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"audio: holds {array.dtype}, not floating point; divide integers by their full scale first")
    if array.ndim != 2:
        raise AudioError(f"audio: has shape {array.shape}, not (channels, time); give mono as audio[None]")
    if array.shape[0] == 0:
        raise AudioError(f"audio: has shape {array.shape}, no channels; give (channels, time)")
    if array.shape[0] > max(_MOST_CHANNELS, array.shape[1]) and array.shape[1] > 0:
        raise AudioError(f"audio: has shape {array.shape}, more channels than samples; give audio.T")
    rate = audio_io.checked_rate(
        sample_rate, name="sample_rate", remedy="give the samples per second of the audio, such as 44100"
    )
    with np.errstate(over="ignore"):
        narrowed = array.astype(np.float32, copy=False)
    return audio_io.checked(Waveform(samples=narrowed, sample_rate=rate), name="audio")
