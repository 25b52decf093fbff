"""STFT and inverse STFT through torch's FFT, or through convolutions for formats without complex numbers.

Spectra have shape `(batch, channels, frames, bins)` and are complex, or have real and imaginary parts in a fifth axis;
the methods of the spectrogram hide the difference.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Spectrogram(nn.Module):
    """Normalized short-time Fourier transform with Hann windows of `n_fft` samples and a hop of a quarter of it."""

    window: Tensor

    def __init__(self, n_fft: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop = n_fft // 4
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def spectrum(self, waveform: Tensor) -> Tensor:
        """Return the spectrum of `(batch, channels, time)` with at least `n_fft` samples; zeros fill the last hop."""
        flat = waveform.float().flatten(0, 1)
        spectrum = self._transform(functional.pad(flat, (0, -flat.shape[-1] % self.hop)))
        by_channel: Tensor = spectrum.unflatten(0, waveform.shape[:2])
        return by_channel

    def waveform(self, spectrum: Tensor) -> Tensor:
        """Return the waveform `(batch, channels, time)` of a spectrum, a whole number of hops long."""
        by_channel: Tensor = self._inverse(spectrum.flatten(0, 1)).unflatten(0, spectrum.shape[:2])
        return by_channel

    def real(self, spectrum: Tensor) -> Tensor:
        """Return the real part, `(batch, channels, frames, bins)`."""
        return spectrum.real

    def imaginary(self, spectrum: Tensor) -> Tensor:
        """Return the imaginary part, `(batch, channels, frames, bins)`."""
        return spectrum.imag

    def from_parts(self, parts: Tensor) -> Tensor:
        """Return the spectrum whose real and imaginary parts are in the last axis."""
        return torch.view_as_complex(parts)

    def multiply(self, mask: Tensor, spectrum: Tensor) -> Tensor:
        """Return the complex product of a mask and a spectrum."""
        return mask * spectrum

    def _transform(self, waveform: Tensor) -> Tensor:
        """Map `(rows, time)` to `(rows, frames, bins)`."""
        return torch.stft(waveform, self.n_fft, self.hop, window=self.window, normalized=True, return_complex=True).mT

    def _inverse(self, spectrum: Tensor) -> Tensor:
        """Map `(rows, frames, bins)` to `(rows, time)`."""
        return torch.istft(spectrum.mT, self.n_fft, self.hop, window=self.window, normalized=True)


class RealSpectrogram(Spectrogram):
    """The same transform as convolutions with a Fourier matrix, for formats without complex numbers such as ONNX.

    The inverse uses the same matrix: the inverse of a normalized transform is its transpose, in which each bin except
    the first and the last also represents its mirror image.
    """

    matrix: Tensor
    multiplicity: Tensor

    def __init__(self, n_fft: int) -> None:
        super().__init__(n_fft)
        bins, samples = torch.arange(n_fft // 2 + 1), torch.arange(n_fft)
        # Full turns are removed in integer arithmetic, which keeps the angles of high bins exact.
        angles = (bins[:, None] * samples % n_fft).double() * (2 * math.pi / n_fft)
        waves = torch.cat([angles.cos(), -angles.sin()]) * self.window / math.sqrt(n_fft)
        self.register_buffer("matrix", waves.float().unsqueeze(1), persistent=False)
        self.register_buffer("multiplicity", torch.where(bins % (n_fft // 2) == 0, 1.0, 2.0), persistent=False)

    def real(self, spectrum: Tensor) -> Tensor:
        return spectrum[..., 0]

    def imaginary(self, spectrum: Tensor) -> Tensor:
        return spectrum[..., 1]

    def from_parts(self, parts: Tensor) -> Tensor:
        return parts

    def multiply(self, mask: Tensor, spectrum: Tensor) -> Tensor:
        (a, b), (c, d) = mask.unbind(-1), spectrum.unbind(-1)
        return torch.stack([a * c - b * d, a * d + b * c], dim=-1)

    def _transform(self, waveform: Tensor) -> Tensor:
        half = self.n_fft // 2
        padded = functional.pad(waveform.unsqueeze(1), (half, half), mode="reflect")
        parts: Tensor = functional.conv1d(padded, self.matrix, stride=self.hop).unflatten(1, (2, -1))
        return parts.permute(0, 3, 2, 1)

    def _inverse(self, spectrum: Tensor) -> Tensor:
        frames, half = spectrum.shape[1], self.n_fft // 2
        parts = (spectrum * self.multiplicity[:, None]).permute(0, 3, 2, 1).flatten(1, 2)
        waveform = functional.conv_transpose1d(parts, self.matrix, stride=self.hop)
        power = self.window.square().expand(1, 1, -1)
        weight = functional.conv_transpose1d(power.new_ones(1, 1, frames), power, stride=self.hop)
        return waveform[:, 0, half:-half] / weight[:, 0, half:-half]


def replace_spectrograms(module: nn.Module) -> nn.Module:
    """Replace all spectrograms in `module` by real-valued ones; estimates differ by rounding only."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Spectrogram):
                setattr(parent, name, RealSpectrogram(child.n_fft))
    return module
