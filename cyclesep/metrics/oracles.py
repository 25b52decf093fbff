"""Baselines without training: oracle masks (upper bounds), the mixture, and a rule-based separator.

The masks are those of SiSEC 2018's oracle systems (https://github.com/sigsep/sigsep-mus-oracle). They are computed from
the references and show roughly what a mask of their kind can reach. The mixture and the rule-based separator use the
mixture only.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import scipy.ndimage
import scipy.signal
from numpy.typing import NDArray

from cyclesep.audio.audio_io import Samples, Waveform
from cyclesep.audio.stem_names import ACCOMPANIMENT, MIXTURE
from cyclesep.errors import ScoringError

OracleMask = Literal["IRM1", "IRM2", "IBM", "MWF"]
Spectrogram = NDArray[np.complexfloating]
Real = NDArray[np.floating]

# At 44.1 kHz; other rates take the nearest power of two of the same duration.
STFT_SAMPLES = 2048
MEDIAN_BINS = 17
# Fraction of possible vocals that is taken as vocals in mono, where there is no centre channel.
MONO_FRACTION = 0.6
# Frames per block (24 s), and the margin on either side that affects them: windows overlap by three frames, and the
# median filter uses eight.
BLOCK_FRAMES, MARGIN_FRAMES = 2048, 4 + MEDIAN_BINS // 2
TINY = float(np.finfo(np.float32).tiny)


def separate_by_oracle(mask: OracleMask, references: Mapping[str, Waveform]) -> dict[str, Waveform]:
    """Estimate every reference by filtering the mixture with an oracle mask computed from the references.

    IRM1 and IRM2 are ratios of magnitudes and of powers, IBM selects the bins in which a reference has at least half of
    the power, MWF is the multichannel Wiener filter with one spatial covariance matrix per reference and frequency. The
    mixture is `references["mixture"]`, or the sum of the references. Raises ScoringError for an unknown mask, no
    references, or references that differ in format.
    """
    stems = {name: stem for name, stem in references.items() if name != MIXTURE}
    if not stems:
        raise ScoringError("an oracle needs references; specify the stems of the track")
    mixture = references.get(MIXTURE) or _sum(stems)
    for stem in stems.values():
        if stem.samples.shape != mixture.samples.shape or stem.sample_rate != mixture.sample_rate:
            raise ScoringError(
                f"a reference is {stem.samples.shape} at {stem.sample_rate} Hz, the mixture {mixture.samples.shape} at "
                f"{mixture.sample_rate} Hz (channels, time); they must be equal"
            )
    everything = {**stems, MIXTURE: mixture}
    if mask == "MWF":
        # Its covariances are computed over the whole track.
        return _masked(mask, everything)
    return _by_blocks(everything, lambda block: _masked(mask, block))


def mixture_as_estimate(mixture: Waveform, targets: tuple[str, ...], *, divisor: float = 1.0) -> dict[str, Waveform]:
    """Return the mixture divided by `divisor` as the estimate of every target, and the rest as "accompaniment".

    SiSEC's row "mixture" uses the number of stems as divisor. With 1, every estimate is the mixture, including that of
    the accompaniment. Scaling the mixture changes its SDR without any separation, so compare with both.
    """
    if divisor < 1.0:
        raise ScoringError(f"divisor={divisor}: must be at least 1, the number of parts of the mixture")
    part = Waveform(samples=mixture.samples / np.float32(divisor), sample_rate=mixture.sample_rate)
    estimates = {name: part for name in targets if name != ACCOMPANIMENT}
    rest = mixture.samples - part.samples if divisor > 1.0 else mixture.samples
    return estimates | {ACCOMPANIMENT: Waveform(samples=rest, sample_rate=mixture.sample_rate)}


def separate_by_rules(mixture: Waveform) -> dict[str, Waveform]:
    """Estimate vocals, drums, bass and other by fixed rules: a lower bound for learned separators.

    Drums and bass share the band below 250 Hz. Above it, drums are the percussive part by median filtering
    (D. FitzGerald, "Harmonic/percussive separation using median filtering", DAFx 2010). Vocals are the part of the rest
    up to 8 kHz that is equal in both channels, or a fixed fraction of it in mono. Other is the residual. The four
    estimates sum to the mixture.
    """
    return _by_blocks({MIXTURE: mixture}, lambda block: _separate_block_by_rules(block[MIXTURE]))


def _by_blocks(
    waveforms: Mapping[str, Waveform], separate: Callable[[Mapping[str, Waveform]], dict[str, Waveform]]
) -> dict[str, Waveform]:
    """Apply `separate` block by block, because the spectra of a whole track take gigabytes."""
    like = next(iter(waveforms.values()))
    hop = _Transform(like).stft.hop
    length, margin = BLOCK_FRAMES * hop, MARGIN_FRAMES * hop
    joined: dict[str, Samples] = {}
    for start in range(0, max(1, like.num_samples), length):
        begin = max(0, start - margin)
        block = {
            name: Waveform(samples=wave.samples[:, begin : start + length + margin], sample_rate=wave.sample_rate)
            for name, wave in waveforms.items()
        }
        for name, estimate in separate(block).items():
            whole = joined.setdefault(name, np.zeros_like(like.samples, dtype=np.float32))
            whole[:, start : start + length] = estimate.samples[:, start - begin :][:, :length]
    return {name: Waveform(samples=samples, sample_rate=like.sample_rate) for name, samples in joined.items()}


def _masked(mask: OracleMask, references: Mapping[str, Waveform]) -> dict[str, Waveform]:
    mixture = references[MIXTURE]
    stems = {name: stem for name, stem in references.items() if name != MIXTURE}
    transform = _Transform(mixture)
    mixed = transform.forward(mixture)
    targets = np.stack([transform.forward(stem) for stem in stems.values()])
    separated = _multichannel_wiener(targets, mixed) if mask == "MWF" else _mask(mask, np.abs(targets)) * mixed
    return {name: transform.backward(spectra) for name, spectra in zip(stems, separated, strict=True)}


def _separate_block_by_rules(mixture: Waveform) -> dict[str, Waveform]:
    transform = _Transform(mixture)
    mixed = transform.forward(mixture)
    power = (np.abs(mixed) ** 2).sum(axis=0)
    percussive = _percussive_mask(np.sqrt(power))
    low = _band(transform.frequencies, 0.0, 250.0)[:, None]
    middle = _band(transform.frequencies, 250.0, 8000.0)[:, None]
    masks = {
        "vocals": 0.7 * (1 - percussive) * middle * _centre_mask(mixed, power) ** 2,
        "drums": 0.5 * low + percussive**2 * (1 - low),
        "bass": 0.5 * low,
    }
    estimates = {name: transform.backward(mask * mixed) for name, mask in masks.items()}
    rest = mixture.samples - _sum(estimates).samples
    return estimates | {"other": Waveform(samples=rest, sample_rate=mixture.sample_rate)}


class _Transform:
    """The STFT for one track's sample rate and length, with perfect reconstruction."""

    def __init__(self, mixture: Waveform) -> None:
        self.mixture = mixture
        length = 1 << max(6, round(np.log2(STFT_SAMPLES * mixture.sample_rate / 44100)))
        window = scipy.signal.windows.hann(length, sym=False)
        self.stft = scipy.signal.ShortTimeFFT(window, hop=length // 4, fs=mixture.sample_rate)
        # The transform needs at least one window; the padding is removed again.
        self.padded = max(mixture.num_samples, length)

    @property
    def frequencies(self) -> Real:
        """Hz of each bin."""
        frequencies: Real = self.stft.f
        return frequencies

    def forward(self, waveform: Waveform) -> Spectrogram:
        """Return spectra (channels, frequencies, frames)."""
        padded = np.pad(waveform.samples, [(0, 0), (0, self.padded - waveform.num_samples)])
        spectra: Spectrogram = self.stft.stft(padded).astype(np.complex64)
        return spectra

    def backward(self, spectra: Spectrogram) -> Waveform:
        samples = self.stft.istft(spectra, k1=self.padded)[:, : self.mixture.num_samples]
        return Waveform(samples=np.ascontiguousarray(samples, dtype=np.float32), sample_rate=self.mixture.sample_rate)


def _mask(mask: OracleMask, magnitudes: Real) -> Real:
    """Return masks (targets, channels, frequencies, frames)."""
    if mask == "IBM":
        chosen: Real = (magnitudes**2 >= 0.5 * np.maximum((magnitudes**2).sum(axis=0), TINY)).astype(np.float32)
        return chosen
    if mask not in ("IRM1", "IRM2"):
        raise ScoringError(f"mask={mask!r}: known: IRM1, IRM2, IBM, MWF")
    sizes = magnitudes if mask == "IRM1" else magnitudes**2
    ratio: Real = sizes / np.maximum(sizes.sum(axis=0), TINY)
    return ratio


def _multichannel_wiener(targets: Spectrogram, mixed: Spectrogram) -> Spectrogram:
    """Filter by the local Gaussian model with the references' own power and spatial covariance.

    N. Q. K. Duong, E. Vincent and R. Gribonval, "Under-determined reverberant audio source separation using a full-rank
    spatial covariance model", IEEE TASLP 18, 2010.
    """
    channels = mixed.shape[0]
    power = (np.abs(targets) ** 2).mean(axis=1)
    outer = np.einsum("jcft,jdft->jfcd", targets, targets.conj(), optimize=True)
    spatial = outer / np.maximum(power.sum(axis=2), TINY)[:, :, None, None]
    separated = np.empty_like(targets)
    for f in range(mixed.shape[1]):
        covariance = np.einsum("jt,jcd->jtcd", power[:, f], spatial[:, f])
        total = covariance.sum(axis=0)
        level = np.trace(total, axis1=1, axis2=2).real / channels
        total += np.maximum(1e-6 * level, 1e-12)[:, None, None] * np.eye(channels)
        whitened = np.linalg.solve(total, mixed[:, f].T[:, :, None])
        separated[:, :, f] = (covariance @ whitened)[..., 0].transpose(0, 2, 1)
    return separated


def _percussive_mask(magnitude: Real) -> Real:
    """Return (frequencies, frames): the percussive fraction of each bin, wide in frequency and short in time."""
    along_time = scipy.ndimage.median_filter(magnitude, size=(1, MEDIAN_BINS), mode="nearest")
    across_frequency = scipy.ndimage.median_filter(magnitude, size=(MEDIAN_BINS, 1), mode="nearest")
    mask: Real = across_frequency**2 / np.maximum(along_time**2 + across_frequency**2, TINY)
    return mask


def _centre_mask(mixed: Spectrogram, power: Real) -> Real:
    """Return (frequencies, frames): the fraction of each bin that is equal in the first two channels."""
    if len(mixed) == 1:
        return np.full(power.shape, MONO_FRACTION)
    side = np.abs(mixed[0] - mixed[1]) ** 2
    middle = np.abs(mixed[0] + mixed[1]) ** 2
    mask: Real = np.maximum(middle - side, 0.0) / np.maximum(middle + side, TINY)
    return mask


def _band(frequencies: Real, low: float, high: float) -> Real:
    """Return 1 in the band and 0 outside, with raised-cosine edges a quarter of an octave wide."""
    edges = np.log2(np.maximum(frequencies, 1.0))
    rise: Real = np.ones_like(edges) if low <= 0 else _smooth_step((edges - np.log2(low)) * 4 + 0.5)
    fall = 1 - _smooth_step((edges - np.log2(high)) * 4 + 0.5)
    band: Real = rise * fall
    return band


def _smooth_step(position: Real) -> Real:
    step: Real = 0.5 - 0.5 * np.cos(np.pi * np.clip(position, 0.0, 1.0))
    return step


def _sum(stems: Mapping[str, Waveform]) -> Waveform:
    first = next(iter(stems.values()))
    samples: Samples = np.sum([stem.samples for stem in stems.values()], axis=0, dtype=np.float32)
    return Waveform(samples=samples, sample_rate=first.sample_rate)
