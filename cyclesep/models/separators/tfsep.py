"""Separator that estimates masks of the complex spectrogram from bands.

The spectrum is split into bands that widen with frequency (Luo & Yu, "Music source separation with band-split RNN",
2022; Tong et al., "SCNet", 2024). Between splitting and merging, the small variant alternates convolutions over time
and neighbouring bands with a linear map over all bands (Choi et al., "Investigating U-Nets with various intermediate
blocks", 2020). The large variant is a U-Net over bands with an attention bottleneck (see `band_unet`) and adds an
estimated spectrum to the masked mixture, for content that a mask cannot recover.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from cyclesep.models.separators.band_unet import BandUNet
from cyclesep.models.separators.norm import RMSNorm
from cyclesep.models.separators.stft import Spectrogram

WINDOW_SECONDS = 0.0464
# (fraction of the spectrum, bins per band): narrow bands at low frequencies, wide bands above.
BAND_ZONES = ((1 / 4, 4), (1 / 4, 8), (1 / 2, 32))
EPSILON = 1e-4


class TFSep(nn.Module):
    """Map `(batch, channels, time)` of any length to `(batch, targets * channels, time)`.

    The Fourier window is the power of two nearest to 46 ms (1024 at 16 kHz, 2048 at 44.1 kHz), the hop a quarter of it.
    `levels` above 0 builds the large variant; width 64, depth 5, levels 2 has 6.4 M parameters.
    """

    def __init__(
        self, channels: int, targets: int, *, width: int, depth: int, sample_rate: int, levels: int = 0
    ) -> None:
        super().__init__()
        self.n_fft = max(256, 2 ** round(math.log2(WINDOW_SECONDS * sample_rate)))
        self.spectrogram = Spectrogram(self.n_fft)
        bands = band_widths(self.n_fft)
        self.targets = targets
        self.adds_residual = levels > 0
        self.split = BandSplit(bands, 3 * channels, width)
        self.blocks = (
            BandUNet(width, depth=depth, levels=levels)
            if levels
            else nn.Sequential(*(DualPathBlock(width, len(bands), 2**index) for index in range(depth)))
        )
        self.merge = BandMerge(bands, width, (4 if self.adds_residual else 2) * targets * channels)

    def forward(self, waveform: Tensor) -> Tensor:
        num_samples = waveform.shape[-1]
        spectrogram = self.spectrogram
        spectrum = spectrogram.spectrum(functional.pad(waveform, (0, max(0, self.n_fft - num_samples))))
        parts: Tensor = self.merge(self.blocks(self.split(input_features(spectrogram, spectrum))))
        spectra = spectrogram.from_parts(parts.float().unflatten(1, (-1, 2)).movedim(2, -1).contiguous())
        mask, *residual = spectra.chunk(2 if self.adds_residual else 1, dim=1)
        estimates = spectrogram.multiply(mask.unflatten(1, (self.targets, -1)), spectrum.unsqueeze(1)).flatten(1, 2)
        return spectrogram.waveform(sum(residual, estimates))[..., :num_samples]


class BandSplit(nn.Module):
    """Map the bins of each band to a vector: `(batch, features, frames, bins)` to `(batch, width, frames, bands)`."""

    def __init__(self, bands: list[int], inputs: int, width: int) -> None:
        super().__init__()
        self.zones = group_bands(bands)
        self.maps = nn.ModuleList(BandLinear(count, inputs * bins, width) for count, bins in self.zones)

    def forward(self, spectrum: Tensor) -> Tensor:
        parts = spectrum.split([count * bins for count, bins in self.zones], dim=-1)
        vectors = []
        for part, (count, bins), band_map in zip(parts, self.zones, self.maps, strict=True):
            grouped = part.unflatten(-1, (count, bins)).permute(3, 0, 2, 1, 4)
            vectors.append(band_map(grouped.flatten(3)))
        return torch.cat(vectors).permute(1, 3, 2, 0)


class BandMerge(nn.Module):
    """Map band vectors to bins: `(batch, width, frames, bands)` to `(batch, outputs, frames, bins)`."""

    def __init__(self, bands: list[int], width: int, outputs: int) -> None:
        super().__init__()
        self.zones = group_bands(bands)
        self.outputs = outputs
        self.norm = RMSNorm(width)
        self.hidden = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU())
        self.maps = nn.ModuleList(BandLinear(count, 2 * width, outputs * bins) for count, bins in self.zones)

    def forward(self, hidden: Tensor) -> Tensor:
        vectors = self.hidden(self.norm(hidden.permute(3, 0, 2, 1)))
        zones = vectors.split([count for count, _ in self.zones])
        parts = []
        for part, (_, bins), band_map in zip(zones, self.zones, self.maps, strict=True):
            spectrum = band_map(part).unflatten(-1, (self.outputs, bins))
            parts.append(spectrum.permute(1, 3, 2, 0, 4).flatten(3))
        return torch.cat(parts, dim=-1)


class BandLinear(nn.Module):
    """Linear map with weights shared by the bands of a zone, for robustness to transposition, and one bias per band.

    Maps `(bands, batch, frames, inputs)` to `(bands, batch, frames, outputs)`.
    """

    def __init__(self, bands: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(bands, 1, 1, outputs))

    def forward(self, vectors: Tensor) -> Tensor:
        mapped: Tensor = self.linear(vectors)
        return mapped + self.bias


class DualPathBlock(nn.Module):
    """Residual convolutions over time (dilated) and neighbouring bands, then a linear map over all bands."""

    def __init__(self, width: int, bands: int, dilation: int) -> None:
        super().__init__()
        self.local_norm = RMSNorm(width)
        self.local = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=(dilation, 1), dilation=(dilation, 1)),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.across_norm = RMSNorm(width)
        self.across = nn.Sequential(nn.Linear(bands, bands // 2), nn.GELU(), nn.Linear(bands // 2, bands))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.local(_normed(self.local_norm, hidden))
        across: Tensor = self.across(_normed(self.across_norm, hidden))
        return hidden + across


def input_features(spectrogram: Spectrogram, spectrum: Tensor) -> Tensor:
    """Return compressed real part, imaginary part and magnitude, `(batch, 3 * channels, frames, bins)`.

    Magnitudes are compressed to their square root, which preserves quiet partials.
    """
    real, imaginary = spectrogram.real, spectrogram.imaginary
    magnitude = (real(spectrum).square() + imaginary(spectrum).square() + EPSILON).sqrt()
    root = magnitude.sqrt()
    return torch.cat([real(spectrum) / root, imaginary(spectrum) / root, root], dim=1)


def band_widths(n_fft: int) -> list[int]:
    """Return bins per band from low to high, `n_fft // 2 + 1` in total; the Nyquist bin is a separate band."""
    half = n_fft // 2
    return [bins for fraction, bins in BAND_ZONES for _ in range(int(fraction * half) // bins)] + [1]


def group_bands(bands: list[int]) -> list[tuple[int, int]]:
    """Return runs of equal band widths as (number of bands, bins per band)."""
    return [(bands.count(bins), bins) for bins in dict.fromkeys(bands)]


def _normed(norm: nn.Module, hidden: Tensor) -> Tensor:
    normed: Tensor = norm(hidden.movedim(1, -1))
    return normed.movedim(-1, 1)
