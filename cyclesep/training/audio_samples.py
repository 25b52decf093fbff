"""Audio of validation crops with spectrograms: mixture, estimates and references."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cyclesep.audio.audio_io import Samples
from cyclesep.audio.spectrogram_image import spectrogram_pixels
from cyclesep.audio.stem_names import MIXTURE


@dataclass(frozen=True, kw_only=True)
class AudioSample:
    """A waveform `(channels, time)` of a crop and its spectrogram `(height, width, 3)`."""

    name: str
    """For example `samples/crop-0/vocals-estimate`."""
    samples: Samples
    image: NDArray[np.uint8]


def audio_samples(
    separator: nn.Module, mixtures: Tensor, targets: Tensor, names: tuple[str, ...], sample_rate: int
) -> Iterator[AudioSample]:
    """Separate crops `(crops, channels, time)` with targets `(crops, targets, channels, time)`.

    All spectrograms of a crop have the same scale.
    """
    device = next(separator.parameters()).device
    for index, (mixture, references) in enumerate(zip(mixtures, targets, strict=True)):
        with torch.no_grad():
            estimates = separator(mixture[None].to(device))[0].cpu()
        waveforms = {MIXTURE: mixture}
        for name, estimate, reference in zip(names, estimates, references, strict=True):
            waveforms |= {f"{name}-estimate": estimate, f"{name}-reference": reference}
        signals = {name: waveform.mean(0).numpy() for name, waveform in waveforms.items()}
        images = spectrogram_pixels(signals, sample_rate)
        for name, waveform in waveforms.items():
            yield AudioSample(name=f"samples/crop-{index}/{name}", samples=waveform.numpy(), image=images[name])
