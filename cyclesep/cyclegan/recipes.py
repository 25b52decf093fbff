"""Recipes: which passes a training step makes, which terms they give and what the discriminators compare.

Each recipe is a function of networks and a batch at unit level. It makes the first pass and hands back the rest as
named terms that are computed only if they are wanted, and as pairs of real and fake waveforms to be judged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from cyclesep.cyclegan import losses
from cyclesep.cyclegan.config import MIXTURE, TARGET
from cyclesep.data.crops.dataset import Batch

Term = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class DiscriminatorPair:
    """What one discriminator compares; waveforms `(batch, channels, time)`."""

    real: Tensor
    fake: Tensor
    """With graph: what the generators made."""
    also_fake: Tensor | None = None
    """More that the discriminator must call fake; nothing for a generator to learn from."""
    aligned: bool = False
    """Whether `fake` estimates `real` sample by sample, so that their feature maps can be matched."""


@dataclass(frozen=True, kw_only=True)
class Passes:
    """One recipe applied to one batch."""

    estimate: Tensor
    """What the first pass made: estimates of the targets in the real mixtures, `(batch, targets, channels, time)`."""
    terms: Mapping[str, Term]
    judged: Mapping[str, DiscriminatorPair]


def remix(networks: Mapping[str, nn.Module], batch: Batch) -> Passes:
    """Close the cycle by arithmetic: put another song's target over the residual, and get it back.

    After Hoshen, "Towards unsupervised single-channel blind source separation using adversarial pair unmix-and-remix",
    2018. In `cycle` the residual keeps its graph: what is left of the target in it makes the second separation worse.
    But what is missing from it makes that easier, so that estimates take in more than the target. `bootstrap` is the
    same term without that graph, after Tzinis et al., "RemixIT: continual self-training of speech enhancement models
    via bootstrapped remixing", 2022.
    """
    separator = networks["separator"]
    estimate = separator(batch.mixture)
    guest = roll_half_batch(batch.target) if batch.paired else batch.target
    remixed = batch.mixture - estimate.sum(1) + guest.sum(1)
    terms: dict[str, Term] = {
        "cycle": lambda: losses.l1(separator(remixed), guest),
        "bootstrap": lambda: losses.l1(separator(remixed.detach()), guest),
        "identity": lambda: losses.l1(separator(batch.target.sum(1)), batch.target),
        "swap_cycle": lambda: _swap_cycle(separator, batch.mixture, estimate.sum(1)),
    }
    judged = {TARGET: _targets(batch, estimate), MIXTURE: DiscriminatorPair(real=batch.mixture, fake=remixed)}
    return Passes(estimate=estimate, terms=terms | _regression(batch, estimate), judged=judged)


def cyclegan(networks: Mapping[str, nn.Module], batch: Batch) -> Passes:
    """Two generators, mixture to target and target to mixture (Zhu et al., 2017): each way there and back again."""
    separator, mixer = networks["separator"], networks["mixer"]
    target_sum = batch.target.sum(1)
    estimate = separator(batch.mixture)
    fake_mixture = mixer(target_sum)[:, 0]
    terms: dict[str, Term] = {
        "cycle": lambda: (
            losses.l1(mixer(estimate.sum(1))[:, 0], batch.mixture) + losses.l1(separator(fake_mixture), batch.target)
        ),
        "identity": lambda: (
            losses.l1(separator(target_sum), batch.target) + losses.l1(mixer(batch.mixture)[:, 0], batch.mixture)
        ),
    }
    judged = {TARGET: _targets(batch, estimate), MIXTURE: DiscriminatorPair(real=batch.mixture, fake=fake_mixture)}
    return Passes(estimate=estimate, terms=terms | _regression(batch, estimate), judged=judged)


def paired(networks: Mapping[str, nn.Module], batch: Batch) -> Passes:
    """One generator and one discriminator, which must also tell raw mixtures from targets.

    An unpaired batch among paired ones gives the adversarial and identity terms alone (Stoller et al., "Adversarial
    semi-supervised audio source separation applied to singing voice extraction", 2018).
    """
    separator = networks["separator"]
    estimate = separator(batch.mixture)
    terms: dict[str, Term] = {"identity": lambda: losses.l1(separator(batch.target.sum(1)), batch.target)}
    mixtures = batch.mixture.repeat(1, batch.target.shape[1], 1)
    judged = {TARGET: _targets(batch, estimate, also_fake=mixtures)}
    return Passes(estimate=estimate, terms=terms | _regression(batch, estimate), judged=judged)


def supervised(networks: Mapping[str, nn.Module], batch: Batch) -> Passes:
    """Plain regression on aligned targets: the supervised baseline with which every adversarial run is compared."""
    estimate = networks["separator"](batch.mixture)
    return Passes(estimate=estimate, terms=_regression(batch, estimate), judged={})


def notebook(networks: Mapping[str, nn.Module], batch: Batch) -> Passes:
    """The original notebook's own step, kept for parity with what its notebook trained: not adversarial, whatever it looks like.

    The first pass gets the target instead of the mixture and leaves no graph, so that all terms but the cycle are
    constants to the separator.
    """
    separator = networks["separator"]
    with torch.no_grad():
        estimate = separator(batch.target.sum(1))
    remixed = batch.mixture - estimate.sum(1) + batch.target.sum(1)
    terms: dict[str, Term] = {
        "cycle": lambda: losses.l1(separator(remixed), batch.target),
        "identity": lambda: losses.l1(estimate, batch.target),
    }
    judged = {TARGET: _targets(batch, estimate), MIXTURE: DiscriminatorPair(real=batch.mixture, fake=remixed)}
    return Passes(estimate=estimate, terms=terms, judged=judged)


def roll_half_batch(crops: Tensor) -> Tensor:
    """Each crop exchanged for the one half a batch further on.

    Half a batch, because a worker, or a part of a batch that is accumulated, holds every n-th crop: turning its own
    crops by half gives each crop the same partner as turning the whole batch does, as long as its number is even.
    """
    return crops.roll(len(crops) // 2, dims=0)


def _swap_cycle(separator: nn.Module, mixture: Tensor, estimate: Tensor) -> Tensor:
    """Put each estimate over another residual, separate again, put the parts back: the mixtures must come out.

    After Saijo and Ogawa, "Remix-cycle-consistent learning on adversarially learned separator", 2022. An estimate of
    silence is an exact minimum, so this is for a separator that separates already.
    """
    swapped = estimate + roll_half_batch(mixture - estimate)
    again: Tensor = separator(swapped).sum(1)
    residual = swapped - again
    # The way back, which is another way than there if the number of crops is odd.
    returned = residual.roll(-(len(residual) // 2), dims=0)
    return losses.l1(again + returned, mixture)


def _regression(batch: Batch, estimate: Tensor) -> dict[str, Term]:
    if not batch.paired:
        return {}
    return {
        "reconstruction": lambda: losses.l1(estimate, batch.target),
        "spectral": lambda: losses.spectral(estimate, batch.target),
        "si_sdr": lambda: losses.negative_si_sdr(estimate, batch.target),
    }


def _targets(batch: Batch, estimate: Tensor, also_fake: Tensor | None = None) -> DiscriminatorPair:
    """All targets of a crop are judged together, as channels of one waveform."""
    return DiscriminatorPair(
        real=batch.target.flatten(1, 2), fake=estimate.flatten(1, 2), also_fake=also_fake, aligned=batch.paired
    )


FORWARD: Mapping[str, Callable[[Mapping[str, nn.Module], Batch], Passes]] = MappingProxyType(
    {"remix": remix, "cyclegan": cyclegan, "paired": paired, "supervised": supervised, "notebook": notebook}
)
