"""The training step of the original notebook, reimplemented as the baseline of the step benchmark.

It performs the same operations in the same order, including unnecessary ones: gradients of three networks are cleared
and their `requires_grad` flags set before each of three updates, four discriminator passes have losses that reach no
weight, nearest-neighbour up-sampling is followed by a convolution of 25 taps at the full rate, and Adam has torch's
default implementation.
"""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.2
LEARNING_RATE = 2e-4
BETAS = (0.5, 0.9)
NUM_BLOCKS = 8


class NotebookStep:
    """One generator, two discriminators and three optimizers; `step` updates all of them with one paired batch."""

    def __init__(self, *, width: int, device: torch.device, bfloat16: bool = False) -> None:
        self.generator = NotebookGenerator(width).to(device)
        self.target_discriminator = NotebookDiscriminator(width).to(device)
        self.mixture_discriminator = NotebookDiscriminator(width).to(device)
        self.optimizer_d1 = torch.optim.Adam(self.target_discriminator.parameters(), lr=LEARNING_RATE, betas=BETAS)
        self.optimizer_d2 = torch.optim.Adam(self.mixture_discriminator.parameters(), lr=LEARNING_RATE, betas=BETAS)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=LEARNING_RATE, betas=BETAS)
        self._autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)

    def step(self, mixture: Tensor, single: Tensor) -> dict[str, Tensor]:
        """Update both discriminators, then the generator; waveforms `(batch, 1, 16384)`."""
        self._prepare(self.target_discriminator)
        with self._autocast:
            generated = self.generator(single)
            new_mixture = (mixture - generated) + single
            loss_d1 = self._discriminator_loss(self.target_discriminator, single, generated)
        loss_d1.backward()
        self.optimizer_d1.step()

        self._prepare(self.mixture_discriminator)
        with self._autocast:
            loss_d2 = self._discriminator_loss(self.mixture_discriminator, mixture, new_mixture)
        loss_d2.backward()
        self.optimizer_d2.step()

        self._prepare(self.generator)
        with self._autocast:
            loss_g = self._generator_loss(mixture, single, generated, new_mixture)
        loss_g.backward()
        self.optimizer_g.step()
        return {"discriminator_1": loss_d1.detach(), "discriminator_2": loss_d2.detach(), "generator": loss_g.detach()}

    def _prepare(self, trained: nn.Module) -> None:
        """Clear the gradients of all networks, and enable gradients for one of them only."""
        for net in self.networks():
            net.zero_grad()
        for net in self.networks():
            for parameter in net.parameters():
                parameter.requires_grad = False
        for parameter in trained.parameters():
            parameter.requires_grad = True

    def networks(self) -> Iterable[nn.Module]:
        """Return the generator, then the discriminators of targets and of mixtures."""
        return self.generator, self.target_discriminator, self.mixture_discriminator

    def optimizers(self) -> Iterable[torch.optim.Optimizer]:
        """Return the optimizers in the order of the networks."""
        return self.optimizer_g, self.optimizer_d1, self.optimizer_d2

    def _discriminator_loss(self, net: nn.Module, real_signal: Tensor, fake_signal: Tensor) -> Tensor:
        real, fake = net(real_signal), net(fake_signal.detach())
        return _relativistic(real, fake)

    def _generator_loss(self, mixture: Tensor, single: Tensor, generated: Tensor, new_mixture: Tensor) -> Tensor:
        # `generated` was computed while the generator was frozen, so only the cycle term has a graph.
        identity = functional.l1_loss(generated, single)
        adversarial = _relativistic(self.target_discriminator(generated), self.target_discriminator(single))
        adversarial += _relativistic(self.mixture_discriminator(new_mixture), self.mixture_discriminator(mixture))
        cycle = functional.l1_loss(self.generator(new_mixture), single)
        return 0.5 * identity + adversarial + 10 * cycle


class NotebookGenerator(nn.Module):
    """Maps windows `(batch, 1, 16384)` to windows of the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(1, width, 25, 4, padding=11),
            nn.LeakyReLU(SLOPE),
            nn.Conv1d(width, 2 * width, 25, 4, padding=11),
            nn.LeakyReLU(SLOPE),
        )
        self.blocks = nn.ModuleList(_block(2 * width) for _ in range(NUM_BLOCKS))
        self.decoder = nn.Sequential(*_upsampled(2 * width, width), *_upsampled(width, 1))

    def forward(self, window: Tensor) -> Tensor:
        hidden = self.encoder(window)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        estimate: Tensor = self.decoder(hidden)
        return estimate


class NotebookDiscriminator(nn.Module):
    """Maps windows `(batch, 1, 16384)` to one logit each; without phase shuffle, which the notebook never applied."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [1, *(width * 2**layer for layer in range(5))]
        self.convs = nn.ModuleList(nn.Conv1d(a, b, 25, 4, padding=11) for a, b in pairwise(widths))
        self.linear = nn.Linear(widths[-1] * 16, 1)

    def forward(self, window: Tensor) -> Tensor:
        hidden = window
        for conv in self.convs:
            hidden = functional.leaky_relu(conv(hidden), SLOPE)
        logit: Tensor = self.linear(hidden.flatten(1))
        return logit


def _relativistic(up: Tensor, down: Tensor) -> Tensor:
    return (torch.mean((up - torch.mean(down) - 1) ** 2) + torch.mean((down - torch.mean(up) + 1) ** 2)) / 2


def _block(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv1d(width, width, 21, padding=10), nn.BatchNorm1d(width), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def _upsampled(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Upsample(scale_factor=4), nn.ConstantPad1d(12, 0.0), nn.Conv1d(inputs, outputs, 25)
