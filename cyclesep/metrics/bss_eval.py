"""BSS Eval v4 and v3 of source images, equal to museval 0.4.1 and more than thirty times as fast.

E. Vincent, R. Gribonval, C. Fevotte, "Performance measurement in blind audio source separation", IEEE TASLP 14, 2006;
F.-R. Stoter, A. Liutkus, N. Ito, "The 2018 signal separation evaluation campaign", LVA/ICA 2018.

An estimate is projected on its own reference and on all references, each delayed by 0 to `filters_len` - 1 samples;
what the projections leave is distortion of the image (ISR), interference (SIR) and artifacts (SAR). One set of filters
serves the track (v4) or a frame (v3). Everything follows from short correlations: see `correlations`,
`distortion_filters` and `energies`.
"""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cyclesep.audio.audio_io import PCM16_SCALE
from cyclesep.errors import ScoringError
from cyclesep.metrics.backend import Backend, NumpyBackend
from cyclesep.metrics.distortion_filters import Conditioning, Solution
from cyclesep.metrics.energies import Part, Projections, QuadraticForms, quadratic_forms
from cyclesep.metrics.framing import Span, frame_spans, tiling
from cyclesep.metrics.museval_equations import MusevalEquations
from cyclesep.metrics.projections import Projector
from cyclesep.metrics.si_sdr import TrackEnergies
from cyclesep.metrics.sources import Array, Pairing, Sources, are_on_grid, each_alone, require_finite
from cyclesep.metrics.whole_track import measured_energies, track_energies

Mode = Literal["v4", "v3"]

FILTERS_LEN = 512
TILE_SAMPLES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one pairing in dB, each (targets, frames): NaN in frames where any reference or estimate is silent."""

    sdr: Array
    isr: Array
    sir: Array
    sar: Array
    conditioning: Conditioning
    whole_track: tuple[TrackEnergies, ...]
    """One per target."""


def evaluate(
    references: ArrayLike,
    estimates: ArrayLike,
    win: float = 44100,
    hop: float = 44100,
    mode: Mode = "v4",
    padding: bool = True,
    *,
    filters_len: int = FILTERS_LEN,
    device: str | None = None,
    as_museval: bool = True,
) -> tuple[Array, Array, Array, Array]:
    """SDR, ISR, SIR, SAR in dB, each (sources, frames): a drop-in for `museval.evaluate`.

    `references` and `estimates` are (sources, time, channels) or (sources, time); with `padding`, estimates are cut or
    zero-padded to the length of the references. `win` and `hop` are in samples, infinite for the whole track. Frames
    where a source is silent are NaN for all sources, all frames where one is silent throughout (museval raises there).
    With `device`, a device of PyTorch such as "cuda", it is computed there in float64.

    References of more than 16 bits often make the equations so sensitive that museval's digits depend on its rounding
    errors. Those are repeated, bit for bit, which takes two thirds of its time; without `as_museval` it is as fast as
    for 16 bits, and off by up to a hundredth of a dB for 24 bits, by tenths for floats decoded from a lossy file.

    Raises ScoringError for shapes that do not match and for NaN or infinite samples.
    """
    ours, theirs = _three_dimensional(references, "references"), _three_dimensional(estimates, "estimates")
    if (len(ours), ours.shape[2]) != (len(theirs), theirs.shape[2]) or not (padding or ours.shape == theirs.shape):
        raise ScoringError(
            f"references are {ours.shape}, estimates {theirs.shape} (sources, time, channels); they must be equal"
        )
    if ours.size == 0:
        empty = np.array([])
        return empty, empty, empty, empty
    signals = tuple(signal.T for signal in (*ours, *theirs))
    names = [f"{kind} {j}" for kind in ("reference", "estimate") for j in range(len(ours))]
    require_finite(signals, names)
    # Nothing is rounded that is not on the grid already: it tells that sums of products are whole numbers.
    steps = PCM16_SCALE if are_on_grid(signals, PCM16_SCALE) else None
    sources = Sources(signals=signals, num_references=len(ours), steps=steps)
    (scores,) = score_sources(
        sources, (each_alone(len(ours)),), win=win, hop=hop, mode=mode, filters_len=filters_len, device=device,
        as_museval=as_museval,
    )  # fmt: skip
    return scores.sdr, scores.isr, scores.sir, scores.sar


def score_sources(
    sources: Sources,
    pairings: tuple[Pairing, ...],
    *,
    win: float,
    hop: float,
    mode: Mode = "v4",
    filters_len: int = FILTERS_LEN,
    device: str | None = None,
    as_museval: bool = True,
) -> tuple[Scores, ...]:
    """The scores of every pairing of the same finite signals, from one pass over the audio; see `evaluate`.

    Raises ScoringError for a mode, window, hop, filter length or device that there is not.
    """
    if mode not in ("v4", "v3"):
        raise ScoringError(f"mode={mode!r}: BSS Eval is v4 (one filter per track) or v3 (one per frame)")
    if not isinstance(filters_len, numbers.Integral) or filters_len < 1:
        raise ScoringError(
            f"filters_len={filters_len}: it must be a whole number of samples, 1 or more; museval's is {FILTERS_LEN}"
        )
    frames = frame_spans(sources.num_samples, win, hop)
    backend = _backend(sources, filters_len, device)
    if mode == "v3":
        return _with_filters_per_frame(backend, pairings, frames, as_museval)
    return _with_filters_per_track(backend, pairings, frames, as_museval)


def _backend(sources: Sources, lags: int, device: str | None) -> Backend:
    if device is None:
        return NumpyBackend(sources, lags)
    from cyclesep.metrics.torch_backend import TorchBackend

    return TorchBackend(sources, lags, device)


def _with_filters_per_track(
    backend: Backend, pairings: tuple[Pairing, ...], frames: list[Span], as_museval: bool
) -> tuple[Scores, ...]:
    sources = backend.sources
    track = _WholeTrack.of(backend, pairings, frames)
    whole = (0, sources.num_samples)
    scorers = [_Scorer.of(backend, pairing, track.correlations, whole, as_museval) for pairing in pairings]
    energies: list[list[Array]] = [[] for _ in pairings]
    for spans in _batches(frames, backend.spans_at_once):
        statistics = track.kept.pop(spans[0], None) or backend.statistics(spans, pairings)
        for number, scorer in enumerate(scorers):
            energies[number].append(scorer.energies(spans, statistics, statistics.silent[:, number]))
    return tuple(
        _scores(
            np.concatenate(energies[number]),
            scorer.conditioning,
            track_energies(sources, pairings[number], track.correlations[0], track.estimate_products),
        )
        for number, scorer in enumerate(scorers)
    )


def _with_filters_per_frame(
    backend: Backend, pairings: tuple[Pairing, ...], frames: list[Span], as_museval: bool
) -> tuple[Scores, ...]:
    energies: list[list[Array]] = [[] for _ in pairings]
    conditioning = [Conditioning.EXACT] * len(pairings)
    for span in frames:
        statistics = backend.statistics([span], pairings)
        correlations, _ = backend.totals(statistics)
        for number, pairing in enumerate(pairings):
            if statistics.silent[0, number]:
                energies[number].append(np.full((1, len(Part), pairing.num_targets), np.nan))
                continue
            scorer = _Scorer.of(backend, pairing, correlations, span, as_museval)
            energies[number].append(scorer.energies([span], statistics, statistics.silent[:, number]))
            conditioning[number] = max(conditioning[number], scorer.conditioning)
    return tuple(
        _scores(np.concatenate(each), worst, measured_energies(backend.sources, pairing))
        for each, worst, pairing in zip(energies, conditioning, pairings, strict=True)
    )


@dataclass(frozen=True, kw_only=True)
class _WholeTrack:
    """Sums over the track, and the statistics of as many batches of frames as may be kept, by their first frame."""

    correlations: Array
    estimate_products: Array
    kept: dict[Span, Any]

    @classmethod
    def of(cls, backend: Backend, pairings: tuple[Pairing, ...], frames: list[Span]) -> "_WholeTrack":
        tiles = tiling(frames, backend.sources.num_samples, TILE_SAMPLES)
        adjoin = tiles[: len(frames)] == frames
        batches = _batches(frames, backend.spans_at_once) if adjoin else []
        batches += _batches(tiles[len(frames) :] if adjoin else tiles, backend.spans_at_once)
        correlations: Any = backend.across_seams(tiles)
        estimate_products: Any = 0.0
        kept: dict[Span, Any] = {}
        room = backend.kept_bytes if adjoin else 0
        for spans in batches:
            statistics = backend.statistics(spans, pairings)
            total, products = backend.totals(statistics)
            correlations, estimate_products = correlations + total, estimate_products + products
            room -= statistics.correlations.nbytes
            if room >= 0:
                kept[spans[0]] = statistics
        return cls(correlations=correlations, estimate_products=estimate_products, kept=kept)


def _batches(spans: list[Span], count: int) -> list[list[Span]]:
    return [spans[first : first + count] for first in range(0, len(spans), count)]


@dataclass(frozen=True, kw_only=True)
class _Scorer:
    """The filters of one pairing, ready to give energies of frames."""

    backend: Backend
    forms: QuadraticForms
    projector: Projector
    conditioning: Conditioning

    @classmethod
    def of(cls, backend: Backend, pairing: Pairing, correlations: Array, span: Span, as_museval: bool) -> "_Scorer":
        """Solve for the filters by the correlations of `span`."""
        sources = backend.sources
        mixing = pairing.reference_mixing(sources)
        gram = mixing @ correlations[:, :, : sources.reference_channels] @ mixing.T
        right = mixing @ correlations[:, :, sources.reference_channels :] @ pairing.estimate_mixing(sources).T
        twins = pairing.twins(sources, span)
        equations = MusevalEquations(sources=sources, pairing=pairing, span=span, lags=len(gram))

        def solved(targets: range, twins: list[int]) -> Solution:
            some = slice(targets.start * sources.channels, targets.stop * sources.channels)
            solution = backend.solve(gram[:, some, some], right[:, some, some], twins)
            return equations.instead_of(solution, targets) if as_museval else solution

        on_all = solved(range(pairing.num_targets), twins)
        on_own, worst = np.zeros_like(right), on_all.conditioning
        for target in range(pairing.num_targets):
            own = slice(target * sources.channels, (target + 1) * sources.channels)
            # A twin in another target is none here.
            near = [first - own.start if first >= own.start else p for p, first in enumerate(twins[own])]
            solution = on_all if pairing.num_targets == 1 else solved(range(target, target + 1), near)
            on_own[:, own, own] = solution.filters
            worst = max(worst, solution.conditioning)
        # One equation for each sample of a projection, which is longer than the audio by the filter.
        if span[1] - span[0] + len(gram) - 1 <= len(gram) * len(set(twins)):
            worst = Conditioning.UNDERDETERMINED
        projections = Projections(pairing=pairing, on_all=mixing.T @ on_all.filters, on_own=mixing.T @ on_own)
        return cls(
            backend=backend,
            forms=quadratic_forms(sources, projections),
            projector=Projector(sources=sources, projections=projections),
            conditioning=worst,
        )

    def energies(self, spans: Sequence[Span], statistics: Any, silent: NDArray[np.bool_]) -> Array:
        """(frames, parts, targets), NaN where a frame is silent."""
        energies = self.backend.energies(self.forms, statistics)
        for i in np.flatnonzero(~energies.trusted & ~silent).tolist():
            energies.values[i] = self.projector.energies(spans[i])
        energies.values[silent] = np.nan
        return energies.values


def _scores(energies: Array, conditioning: Conditioning, whole_track: tuple[TrackEnergies, ...]) -> Scores:
    """Ratios of energies (frames, parts, targets)."""
    parts = energies.transpose(1, 2, 0)
    return Scores(
        sdr=_ratio_db(parts[Part.REFERENCE], parts[Part.ERROR]),
        isr=_ratio_db(parts[Part.REFERENCE], parts[Part.SPATIAL]),
        sir=_ratio_db(parts[Part.OWN], parts[Part.INTERFERENCE]),
        sar=_ratio_db(parts[Part.ALL], parts[Part.ARTIFACTS]),
        conditioning=conditioning,
        whole_track=whole_track,
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
