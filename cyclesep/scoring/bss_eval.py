"""BSS Eval v4 and v3 of source images, equal to museval 0.4.1 and more than thirty times as fast.

E. Vincent, R. Gribonval, C. Fevotte, "Performance measurement in blind audio source separation", IEEE TASLP 14, 2006;
F.-R. Stoter, A. Liutkus, N. Ito, "The 2018 signal separation evaluation campaign", LVA/ICA 2018.

An estimate is projected on its own reference and on all references, each delayed by 0 to `filters_len` - 1 samples;
what the projections leave is distortion of the image (ISR), interference (SIR) and artifacts (SAR). One set of filters
serves the track (v4) or a frame (v3). Everything follows from short correlations: see `correlations`,
`distortion_filters` and `energies`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclesep.errors import ScoringError
from cyclesep.scoring.correlations import Correlator, SpanStatistics
from cyclesep.scoring.distortion_filters import Conditioning, solve
from cyclesep.scoring.energies import Part, Projections, QuadraticForms, quadratic_forms
from cyclesep.scoring.framing import Span, frame_spans, tiling
from cyclesep.scoring.projections import Projector
from cyclesep.scoring.sources import Array, Pairing, Sources, each_alone, require_finite

Mode = Literal["v4", "v3"]

FILTERS_LEN = 512
FRAMES_AT_ONCE = 8
TILE_SAMPLES = 1 << 16
# Statistics of frames that do not fit in here are computed again when their turn comes.
CACHE_BYTES = 128 << 20


@dataclass(frozen=True, kw_only=True)
class FrameScores:
    """Scores in dB, each (targets, frames): NaN in frames where any reference or estimate is silent."""

    sdr: Array
    isr: Array
    sir: Array
    sar: Array
    conditioning: Conditioning


def evaluate(
    references: ArrayLike,
    estimates: ArrayLike,
    win: float = 44100,
    hop: float = 44100,
    mode: Mode = "v4",
    padding: bool = True,
    *,
    filters_len: int = FILTERS_LEN,
) -> tuple[Array, Array, Array, Array]:
    """SDR, ISR, SIR, SAR in dB, each (sources, frames): a drop-in for `museval.evaluate`.

    `references` and `estimates` are (sources, time, channels) or (sources, time); with `padding`, estimates are cut or
    zero-padded to the length of the references. `win` and `hop` are in samples, infinite for the whole track. Frames
    where a source is silent are NaN for all sources, all frames where one is silent throughout (museval raises there).

    Raises ScoringError for shapes that do not match and for NaN or infinite samples.
    """
    ours, theirs = _three_dimensional(references, "references"), _three_dimensional(estimates, "estimates")
    if padding:
        theirs = _fit_length(theirs, ours.shape[1])
    if ours.shape != theirs.shape:
        raise ScoringError(
            f"references are {ours.shape}, estimates {theirs.shape} (sources, time, channels); they must be equal"
        )
    if ours.size == 0:
        empty = np.array([])
        return empty, empty, empty, empty
    signals = tuple(signal.T for signal in (*ours, *theirs))
    names = [f"{kind} {j}" for kind in ("reference", "estimate") for j in range(len(ours))]
    require_finite(signals, names)
    sources = Sources(signals=signals, num_references=len(ours))
    (scores,) = score_sources(sources, (each_alone(len(ours)),), win=win, hop=hop, mode=mode, filters_len=filters_len)
    return scores.sdr, scores.isr, scores.sir, scores.sar


def score_sources(
    sources: Sources,
    pairings: tuple[Pairing, ...],
    *,
    win: float,
    hop: float,
    mode: Mode = "v4",
    filters_len: int = FILTERS_LEN,
) -> tuple[FrameScores, ...]:
    """The scores of every pairing of the same finite signals, from one pass over the audio."""
    if mode not in ("v4", "v3"):
        raise ScoringError(f"mode={mode!r}: BSS Eval is v4 (one filter per track) or v3 (one per frame)")
    frames = frame_spans(sources.num_samples, win, hop)
    correlator = Correlator(sources=sources, lags=filters_len)
    if mode == "v3":
        return _with_filters_per_frame(correlator, pairings, frames)
    return _with_filters_per_track(correlator, pairings, frames)


def _with_filters_per_track(
    correlator: Correlator, pairings: tuple[Pairing, ...], frames: list[Span]
) -> tuple[FrameScores, ...]:
    sources = correlator.sources
    correlations, kept = _whole_track(correlator, pairings, frames)
    scorers = [_Scorer.of(sources, pairing, correlations, (0, sources.num_samples)) for pairing in pairings]
    energies = [np.full((len(frames), len(Part), pairing.num_targets), np.nan) for pairing in pairings]
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        spans = frames[first : first + FRAMES_AT_ONCE]
        statistics = [kept.pop(span) if span in kept else correlator.span(span, pairings) for span in spans]
        for number, scorer in enumerate(scorers):
            sounding = [i for i, frame in enumerate(statistics) if not frame.silent[number]]
            where = [first + i for i in sounding]
            energies[number][where] = scorer.energies([spans[i] for i in sounding], [statistics[i] for i in sounding])
    return tuple(_scores(e, scorer.conditioning) for e, scorer in zip(energies, scorers, strict=True))


def _with_filters_per_frame(
    correlator: Correlator, pairings: tuple[Pairing, ...], frames: list[Span]
) -> tuple[FrameScores, ...]:
    energies = [np.full((len(frames), len(Part), pairing.num_targets), np.nan) for pairing in pairings]
    conditioning = [Conditioning.EXACT] * len(pairings)
    for k, span in enumerate(frames):
        statistics = correlator.span(span, pairings)
        for number, pairing in enumerate(pairings):
            if not statistics.silent[number]:
                scorer = _Scorer.of(correlator.sources, pairing, statistics.correlations, span)
                energies[number][k] = scorer.energies([span], [statistics])[0]
                conditioning[number] = max(conditioning[number], scorer.conditioning)
    return tuple(_scores(e, worst) for e, worst in zip(energies, conditioning, strict=True))


def _whole_track(
    correlator: Correlator, pairings: tuple[Pairing, ...], frames: list[Span]
) -> tuple[Array, dict[Span, SpanStatistics]]:
    """The correlations of the track, and the statistics of as many frames as the cache holds."""
    tiles = tiling(frames, correlator.sources.num_samples, TILE_SAMPLES)
    correlations = correlator.across_seams(tiles)
    kept: dict[Span, SpanStatistics] = {}
    room, wanted = CACHE_BYTES, set(frames)
    for tile in tiles:
        statistics = correlator.span(tile, pairings)
        correlations += statistics.correlations
        if tile in wanted and statistics.correlations.nbytes <= room:
            room -= statistics.correlations.nbytes
            kept[tile] = statistics
    return correlations, kept


@dataclass(frozen=True, kw_only=True)
class _Scorer:
    """The filters of one pairing, ready to give energies of frames."""

    forms: QuadraticForms
    projector: Projector
    conditioning: Conditioning

    @classmethod
    def of(cls, sources: Sources, pairing: Pairing, correlations: Array, span: Span) -> "_Scorer":
        """Solve for the filters by the correlations of `span`."""
        mixing = pairing.reference_mixing(sources)
        gram = mixing @ correlations[:, :, : sources.reference_channels] @ mixing.T
        right = mixing @ correlations[:, :, sources.reference_channels :] @ pairing.estimate_mixing(sources).T
        twins = pairing.twins(sources, span)
        on_all = solve(gram, right, twins)
        on_own, worst = np.zeros_like(right), on_all.conditioning
        for start in range(0, len(twins), sources.channels):
            own = slice(start, start + sources.channels)
            # A twin in another target is none here.
            near = [first - start if first >= start else p for p, first in enumerate(twins[own])]
            solution = on_all if pairing.num_targets == 1 else solve(gram[:, own, own], right[:, own, own], near)
            on_own[:, own, own] = solution.filters
            worst = max(worst, solution.conditioning)
        projections = Projections(pairing=pairing, on_all=mixing.T @ on_all.filters, on_own=mixing.T @ on_own)
        return cls(
            forms=quadratic_forms(sources, projections),
            projector=Projector(sources=sources, projections=projections),
            conditioning=worst,
        )

    def energies(self, spans: Sequence[Span], statistics: Sequence[SpanStatistics]) -> Array:
        """(frames, parts, targets) of frames that sound."""
        if not spans:
            return np.empty((0, len(Part), self.forms.num_targets))
        energies = self.forms.evaluate(statistics)
        for i in np.flatnonzero(~energies.trusted).tolist():
            energies.values[i] = self.projector.energies(spans[i])
        return energies.values


def _scores(energies: Array, conditioning: Conditioning) -> FrameScores:
    """Ratios of energies (frames, parts, targets)."""
    parts = energies.transpose(1, 2, 0)
    return FrameScores(
        sdr=_ratio_db(parts[Part.REFERENCE], parts[Part.ERROR]),
        isr=_ratio_db(parts[Part.REFERENCE], parts[Part.SPATIAL]),
        sir=_ratio_db(parts[Part.OWN], parts[Part.INTERFERENCE]),
        sar=_ratio_db(parts[Part.ALL], parts[Part.ARTIFACTS]),
        conditioning=conditioning,
    )


def _ratio_db(wanted: Array, unwanted: Array) -> Array:
    """10 log10 of the ratio; infinite where nothing is unwanted, even of nothing, as in museval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10.0 * np.log10(wanted / unwanted)
    return np.where(unwanted == 0.0, np.inf, ratio)


def _three_dimensional(signals: ArrayLike, name: str) -> NDArray[np.number]:
    try:
        array = np.asarray(signals)
    except ValueError as problem:
        raise ScoringError(
            f"{name}: the sources differ in shape; pad them to one length and channel count"
        ) from problem
    if array.dtype.kind not in "fiub" or array.ndim > 3:
        raise ScoringError(
            f"{name}: got {array.ndim} dimensions of {array.dtype}; give real numbers (sources, time, channels)"
        )
    return np.atleast_3d(array)


def _fit_length(estimates: NDArray[np.number], num_samples: int) -> NDArray[np.number]:
    missing = num_samples - estimates.shape[1]
    if missing > 0:
        return np.pad(estimates, [(0, 0), (0, missing), (0, 0)])
    return estimates[:, :num_samples]
