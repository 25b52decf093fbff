"""Waveforms to spectra and back, through torch's FFT or, where complex numbers are lacking, through convolutions.

Spectra are `(batch, channels, frames, bins)`: complex, or with both parts in a fifth axis. Only the methods of the
spectrogram that gave them tell the two apart.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Spectrogram(nn.Module):
    """Short-time Fourier transform of unit norm: Hann windows of `n_fft` samples, each a quarter after the last."""

    window: Tensor

    def __init__(self, n_fft: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop = n_fft // 4
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def spectrum(self, waveform: Tensor) -> Tensor:
        """Of `(batch, channels, time)` with at least `n_fft` samples; zeros fill the last hop."""
        flat = waveform.float().flatten(0, 1)
        spectrum = self._transform(functional.pad(flat, (0, -flat.shape[-1] % self.hop)))
        by_channel: Tensor = spectrum.unflatten(0, waveform.shape[:2])
        return by_channel

    def waveform(self, spectrum: Tensor) -> Tensor:
        """Whole hops of the waveform with this spectrum: `(batch, channels, time)`."""
        by_channel: Tensor = self._inverse(spectrum.flatten(0, 1)).unflatten(0, spectrum.shape[:2])
        return by_channel

    def real(self, spectrum: Tensor) -> Tensor:
        """Real part: `(batch, channels, frames, bins)`."""
        return spectrum.real

    def imaginary(self, spectrum: Tensor) -> Tensor:
        """Imaginary part: `(batch, channels, frames, bins)`."""
        return spectrum.imag

    def joined(self, parts: Tensor) -> Tensor:
        """The spectra whose real and imaginary parts are side by side in the last axis."""
        return torch.view_as_complex(parts)

    def product(self, mask: Tensor, spectrum: Tensor) -> Tensor:
        """Product of complex numbers."""
        return mask * spectrum

    def _transform(self, waveform: Tensor) -> Tensor:
        """Map `(rows, time)` to `(rows, frames, bins)`."""
        return torch.stft(waveform, self.n_fft, self.hop, window=self.window, normalized=True, return_complex=True).mT

    def _inverse(self, spectrum: Tensor) -> Tensor:
        """Map `(rows, frames, bins)` to `(rows, time)`."""
        return torch.istft(spectrum.mT, self.n_fft, self.hop, window=self.window, normalized=True)


class RealSpectrogram(Spectrogram):
    """The same numbers by convolutions with a Fourier matrix, for formats without complex numbers such as ONNX.

    One matrix serves both ways: the inverse of a transform of unit norm is its transpose, in which each bin but the
    first and the last also stands for its mirror image.
    """

    matrix: Tensor
    copies: Tensor

    def __init__(self, n_fft: int) -> None:
        super().__init__(n_fft)
        bins, samples = torch.arange(n_fft // 2 + 1), torch.arange(n_fft)
        # Whole turns are taken off as integers, which keeps the angles of high bins exact.
        angles = (bins[:, None] * samples % n_fft).double() * (2 * math.pi / n_fft)
        waves = torch.cat([angles.cos(), -angles.sin()]) * self.window / math.sqrt(n_fft)
        self.register_buffer("matrix", waves.float().unsqueeze(1), persistent=False)
        self.register_buffer("copies", torch.where(bins % (n_fft // 2) == 0, 1.0, 2.0), persistent=False)

    def real(self, spectrum: Tensor) -> Tensor:
        return spectrum[..., 0]

    def imaginary(self, spectrum: Tensor) -> Tensor:
        return spectrum[..., 1]

    def joined(self, parts: Tensor) -> Tensor:
        return parts

    def product(self, mask: Tensor, spectrum: Tensor) -> Tensor:
        (a, b), (c, d) = mask.unbind(-1), spectrum.unbind(-1)
        return torch.stack([a * c - b * d, a * d + b * c], dim=-1)

    def _transform(self, waveform: Tensor) -> Tensor:
        half = self.n_fft // 2
        padded = functional.pad(waveform.unsqueeze(1), (half, half), mode="reflect")
        parts: Tensor = functional.conv1d(padded, self.matrix, stride=self.hop).unflatten(1, (2, -1))
        return parts.permute(0, 3, 2, 1)

    def _inverse(self, spectrum: Tensor) -> Tensor:
        frames, half = spectrum.shape[1], self.n_fft // 2
        parts = (spectrum * self.copies[:, None]).permute(0, 3, 2, 1).flatten(1, 2)
        waveform = functional.conv_transpose1d(parts, self.matrix, stride=self.hop)
        power = self.window.square().expand(1, 1, -1)
        weight = functional.conv_transpose1d(power.new_ones(1, 1, frames), power, stride=self.hop)
        return waveform[:, 0, half:-half] / weight[:, 0, half:-half]


def without_complex_numbers(module: nn.Module) -> nn.Module:
    """Give every spectrogram within `module` the form that needs none; its estimates differ by rounding only."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Spectrogram):
                setattr(parent, name, RealSpectrogram(child.n_fft))
    return module
