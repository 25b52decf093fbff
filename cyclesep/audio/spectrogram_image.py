"""Spectrogram images: pixels for TensorBoard, small PNGs for HTML reports."""

import base64
import io
from collections.abc import Mapping

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cyclesep.audio.audio_io import Samples

_WIDTH, _HEIGHT = 720, 128
_LOWEST_HZ, _HIGHEST_HZ = 50.0, 16000.0
_RANGE_DB = 75.0
_WINDOW_SECONDS = 0.046
# Few enough for small files, without visible steps.
_SHADES = 64
_PALETTE = matplotlib.colormaps["magma"](np.linspace(0, 1, _SHADES), bytes=True)[:, :3]


def spectrogram_pixels(signals: Mapping[str, Samples], sample_rate: int) -> dict[str, NDArray[np.uint8]]:
    """Return spectrograms as pixels `(height, width, 3)`; see `spectrogram_images`."""
    return {name: _PALETTE[shades] for name, shades in _shades(signals, sample_rate).items()}


def spectrogram_images(signals: Mapping[str, Samples], sample_rate: int) -> dict[str, str]:
    """Return a PNG data URI for each signal `(time,)`, with a logarithmic frequency axis.

    All have the same scale of 75 dB below the loudest point of any of them.
    """
    return {name: _data_uri(shades) for name, shades in _shades(signals, sample_rate).items()}


def highest_hz(sample_rate: int) -> float:
    """Return the frequency at the upper edge of the images."""
    return min(_HIGHEST_HZ, sample_rate / 2)


def frequency_marks(sample_rate: int) -> list[tuple[str, float]]:
    """Return labels of frequencies and their heights, from 0 to 1."""
    top = highest_hz(sample_rate)
    names = {100.0: "100 Hz", 1000.0: "1 kHz", 10000.0: "10 kHz"}
    return [(name, float(np.log(hz / _LOWEST_HZ) / np.log(top / _LOWEST_HZ))) for hz, name in names.items() if hz < top]


def _power(samples: Samples, sample_rate: int) -> NDArray[np.float64]:
    """Return power `(rows, columns)`, highest frequency first; each row has the maximum over its bins."""
    size = 1 << round(np.log2(_WINDOW_SECONDS * sample_rate))
    padded = np.pad(samples, (size // 2, size))
    starts = np.linspace(0, max(len(samples) - 1, 0), _WIDTH).astype(int)
    window = np.hanning(size).astype(np.float32)
    spectrum = np.fft.rfft(padded[starts[:, None] + np.arange(size)] * window, axis=1)
    power = np.abs(spectrum).T ** 2
    edges = np.geomspace(_LOWEST_HZ, highest_hz(sample_rate), _HEIGHT + 1) * size / sample_rate
    low = np.minimum(np.floor(edges[:-1]).astype(int), len(power) - 1)
    high = np.minimum(np.maximum(np.ceil(edges[1:]).astype(int), low + 1), len(power))
    rows = [power[first:last].max(axis=0) for first, last in zip(low, high, strict=True)]
    return np.array(rows[::-1])


def _shades(signals: Mapping[str, Samples], sample_rate: int) -> dict[str, NDArray[np.uint8]]:
    """Return palette indices `(rows, columns)`."""
    powers = {name: _power(samples, sample_rate) for name, samples in signals.items()}
    loudest = max((float(power.max(initial=0.0)) for power in powers.values()), default=0.0) or 1.0
    decibels = {name: 10 * np.log10(np.maximum(power / loudest, 1e-12)) for name, power in powers.items()}
    return {
        name: np.clip(np.rint((values / _RANGE_DB + 1) * (_SHADES - 1)), 0, _SHADES - 1).astype(np.uint8)
        for name, values in decibels.items()
    }


def _data_uri(shades: NDArray[np.uint8]) -> str:
    image = Image.fromarray(shades, mode="P")
    image.putpalette(_PALETTE.tobytes())
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True, bits=6)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
