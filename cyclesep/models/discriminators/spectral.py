"""Discriminator on the complex spectrogram, after EnCodec (Défossez et al., 2022)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.2
DILATIONS = (1, 2)
KERNEL = (3, 9)


class SpectrogramDiscriminator(nn.Module):
    """2-D convolutions over frames and bins, with real and imaginary parts of all audio channels as input channels."""

    window: Tensor

    def __init__(self, channels: int, *, width: int, n_fft: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        first = nn.Conv2d(2 * channels, width, KERNEL, stride=(1, 4), padding=(1, 4))
        strided = [
            nn.Conv2d(width, width, KERNEL, stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4))
            for dilation in DILATIONS
        ]
        self.convs = nn.ModuleList([first, *strided])
        self.logits = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, waveform: Tensor, rng: torch.Generator | None) -> list[Tensor]:  # noqa: ARG002
        hidden = self._spectrum(waveform)
        maps = []
        for conv in self.convs:
            hidden = functional.leaky_relu(conv(hidden), SLOPE)
            maps.append(hidden)
        return [*maps, self.logits(hidden)]

    def _spectrum(self, waveform: Tensor) -> Tensor:
        """Return spectra `(batch, 2 * channels, frames, bins)`; unit-variance noise has unit variance in each bin."""
        precise = waveform.to(torch.promote_types(waveform.dtype, torch.float32))
        flat = functional.pad(precise, (0, max(0, self.n_fft - waveform.shape[-1]))).flatten(0, 1)
        spectrum = torch.stft(
            flat, self.n_fft, self.n_fft // 2, window=self.window, normalized=True, return_complex=True
        )
        parts = torch.view_as_real(spectrum.mT).unflatten(0, waveform.shape[:2])
        stacked: Tensor = parts.movedim(-1, 2).flatten(1, 2)
        return stacked
