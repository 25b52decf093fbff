"""Data of the audio player of an excerpt: MP3 audio, spectrograms, and scores over time."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cyclesep.audio.audio_io import Samples, Waveform, resample
from cyclesep.audio.spectrogram_image import frequency_marks, spectrogram_images
from cyclesep.evaluation.excerpts import Excerpt
from cyclesep.metrics import FRAME_METRICS
from cyclesep.reports.figures import LINE, page_style, series_colour, themed_svg
from cyclesep.reports.jinja import clock, number

# Sample rates of MPEG layer III.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
# Variable bit rate, from 0 (the highest) to 1: about 60 kbit/s for mono, 150 kB for 20 s at 44.1 kHz.
_MP3_COMPRESSION = 0.25
# Range of the score curves in dB; values outside are clipped.
_LOWEST_DB, _HIGHEST_DB = -15.0, 30.0


@dataclass(frozen=True, kw_only=True)
class FrameScores:
    """One metric of one target for each frame of a track."""

    times: NDArray[np.float64]
    """Start of each frame in seconds."""
    values: NDArray[np.float64]
    """dB; NaN where the metric is undefined."""


@dataclass(frozen=True, kw_only=True)
class ScoreLane:
    """SDR curves of all systems, aligned with the spectrograms."""

    svg: Markup
    marks: list[tuple[str, float]]
    """Labels of the axis and their heights, from 0 (bottom) to 1."""
    systems: list[tuple[str, int]]
    """Names and indices of their colours."""


@dataclass(frozen=True, kw_only=True)
class Player:
    """Content of the player of one excerpt."""

    excerpt: Excerpt
    note: str
    """Line below the title, such as the rank of the track."""
    images: dict[str, str]
    """Spectrogram of each signal, as a data URI."""
    frequencies: list[tuple[str, float]]
    """Labels of the frequency axis and their heights, from 0 to 1."""
    times: list[tuple[str, float]]
    """Labels of the time axis and their positions, from 0 to 1."""
    lanes: dict[str, ScoreLane]
    """By target."""
    audio: dict[str, str]
    """Base64-encoded MP3 of each signal."""
    frame_scores: dict[str, dict[str, list[float | None]]]
    """Scores of the frames of the excerpt, by target and metric."""
    frame_seconds: float

    @property
    def targets(self) -> list[str]:
        return list(self.excerpt.references)

    @property
    def num_bytes(self) -> int:
        """Size of the audio in the page."""
        return sum(map(len, self.audio.values()))


def make_player(
    excerpt: Excerpt,
    scores: Mapping[tuple[str, str, str], FrameScores],
    *,
    note: str,
    colours: Mapping[str, int],
    frame_seconds: float,
) -> Player:
    """Return the player of an excerpt.

    `scores` are those of the track by system, target and metric; `colours` those of the systems in the curves.
    """
    signals = excerpt.signals
    own = {key[1:]: _crop(each, excerpt, frame_seconds) for key, each in scores.items() if key[0] == excerpt.system}
    frame_scores: dict[str, dict[str, list[float | None]]] = {}
    for (target, metric), cropped in sorted(own.items(), key=lambda each: FRAME_METRICS.index(each[0][1])):
        values = [round(value, 2) if np.isfinite(value) else None for value in cropped.values.tolist()]
        frame_scores.setdefault(target, {})[metric] = values
    return Player(
        excerpt=excerpt,
        note=note,
        images=spectrogram_images(signals, excerpt.sample_rate),
        frequencies=frequency_marks(excerpt.sample_rate),
        times=_time_marks(excerpt),
        lanes={target: _score_lane(excerpt, scores, target, colours, frame_seconds) for target in excerpt.references},
        audio={name: _encode_mp3(samples, excerpt.sample_rate) for name, samples in signals.items()},
        frame_scores=frame_scores,
        frame_seconds=frame_seconds,
    )


def _encode_mp3(samples: Samples, sample_rate: int) -> str:
    wave = Waveform(samples=samples[None], sample_rate=sample_rate)
    if sample_rate not in _MP3_RATES:
        wave = resample(wave, next((rate for rate in _MP3_RATES if rate > sample_rate), _MP3_RATES[-1]))
    file = io.BytesIO()
    settings = {"compression_level": _MP3_COMPRESSION, "bitrate_mode": "VARIABLE"}
    soundfile.write(file, wave.samples[0], wave.sample_rate, "MPEG_LAYER_III", format="MP3", **settings)
    return base64.b64encode(file.getvalue()).decode()


def _crop(scores: FrameScores, excerpt: Excerpt, frame_seconds: float) -> FrameScores:
    """Return the frames of the excerpt, with times relative to its start."""
    times = scores.times - excerpt.start_seconds
    inside = (times > -frame_seconds / 2) & (times < excerpt.seconds)
    return FrameScores(times=times[inside], values=scores.values[inside])


def _time_marks(excerpt: Excerpt) -> list[tuple[str, float]]:
    step = 5 if excerpt.seconds > 8 else 1
    first = int(-excerpt.start_seconds % step)
    times = np.arange(first, excerpt.seconds, step)
    return [(clock(excerpt.start_seconds + time), float(time / excerpt.seconds)) for time in times]


@page_style()
def _score_lane(
    excerpt: Excerpt,
    scores: Mapping[tuple[str, str, str], FrameScores],
    target: str,
    colours: Mapping[str, int],
    frame_seconds: float,
) -> ScoreLane:
    curves = {
        system: _crop(each, excerpt, frame_seconds)
        for (system, name, metric), each in scores.items()
        if (name, metric) == (target, "SDR") and system in colours
    }
    low, high = _axis_range([curve.values for curve in curves.values()])
    figure = Figure(figsize=(10, 1.2))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1), frame_on=False)
    axes.set_axis_off()
    # Not near the edges, where labels would be cut off.
    levels = [level for level in range(-20, 40, 10) if low + 1 < level < high - 1]
    axes.hlines(levels, 0, excerpt.seconds, colors=LINE, linewidth=1)
    for system, curve in curves.items():
        # Points are at the middle of their frame; NaN interrupts the curve.
        x, own = curve.times + frame_seconds / 2, system == excerpt.system
        axes.plot(
            x, curve.values, color=series_colour(colours[system]), linewidth=3 if own else 1.5,
            marker="o", markersize=2, zorder=3 if own else 2,
        )  # fmt: skip
    axes.set_xlim(0, excerpt.seconds)
    axes.set_ylim(low, high)
    label = f"SDR of {target} over time: " + ", ".join(curves)
    return ScoreLane(
        svg=themed_svg(figure, label=label, stretched=True),
        marks=[(f"{number(level, 0)} dB", (level - low) / (high - low)) for level in levels],
        systems=[(system, colours[system]) for system in curves],
    )


def _axis_range(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return multiples of 5 dB that enclose the finite values."""
    combined = np.concatenate([*values, np.zeros(1)])
    finite = np.clip(combined[np.isfinite(combined)], _LOWEST_DB, _HIGHEST_DB)
    low, high = np.floor((finite.min() - 1) / 5) * 5, np.ceil((finite.max() + 1) / 5) * 5
    return float(low), float(high)
