"""Forward passes of the recipes: generator outputs, loss terms and the inputs of the discriminators.

Each forward pass is a function of the networks, a batch at unit level and the names of the active loss terms. It
computes the active terms only.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from cyclesep.cyclegan import losses
from cyclesep.cyclegan.config import MIXTURE_DISCRIMINATOR, TARGET_DISCRIMINATOR
from cyclesep.data.crops.dataset import Batch

Networks = Mapping[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class DiscriminatorPair:
    """Real and fake waveforms `(batch, channels, time)` that one discriminator compares."""

    real: Tensor
    fake: Tensor
    """Generator output, with its graph."""
    also_fake: Tensor | None = None
    """Further fakes for the discriminator only; the generators get no gradient from them."""
    aligned: bool = False
    """Whether `fake` estimates `real` sample by sample, which allows feature matching."""


@dataclass(frozen=True, kw_only=True)
class StepOutputs:
    """Outputs of a forward pass."""

    estimate: Tensor
    """Estimates of the targets in the mixtures, `(batch, targets, channels, time)`."""
    terms: dict[str, Tensor]
    """Active loss terms except the adversarial ones."""
    pairs: dict[str, DiscriminatorPair]
    """Waveforms for each discriminator."""


def remix(networks: Networks, batch: Batch, active: Collection[str]) -> StepOutputs:
    """Mix each residual with another target and separate that target again.

    After Hoshen, "Towards unsupervised single-channel blind source separation using adversarial pair unmix-and-remix",
    2018. In `cycle` the gradient passes through the residual: target left in the residual degrades the second
    separation. But content missing from the residual makes the second separation easier, so estimates take in more
    than the target. `bootstrap` is the same term without the gradient through the residual, after Tzinis et al.,
    "RemixIT: continual self-training of speech enhancement models via bootstrapped remixing", 2022.
    """
    separator = networks["separator"]
    estimate = separator(batch.mixture)
    other_target = roll_half_batch(batch.target) if batch.paired else batch.target
    remixed = batch.mixture - estimate.sum(1) + other_target.sum(1)
    pairs = {
        TARGET_DISCRIMINATOR: _target_pair(batch, estimate),
        MIXTURE_DISCRIMINATOR: DiscriminatorPair(real=batch.mixture, fake=remixed),
    }
    terms = {}
    if "cycle" in active:
        terms["cycle"] = losses.l1(separator(remixed), other_target)
    if "bootstrap" in active:
        terms["bootstrap"] = losses.l1(separator(remixed.detach()), other_target)
    if "identity" in active:
        terms["identity"] = losses.l1(separator(batch.target.sum(1)), batch.target)
    if "swap_cycle" in active:
        terms["swap_cycle"] = _swap_cycle(separator, batch.mixture, estimate.sum(1))
    return StepOutputs(estimate=estimate, terms=terms | _regression(batch, estimate, active), pairs=pairs)


def cyclegan(networks: Networks, batch: Batch, active: Collection[str]) -> StepOutputs:
    """Train two generators, mixture to target and target to mixture, with a forward and a backward cycle.

    After Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial networks", 2017.
    """
    separator, mixer = networks["separator"], networks["mixer"]
    target_sum = batch.target.sum(1)
    estimate = separator(batch.mixture)
    fake_mixture = mixer(target_sum)[:, 0]
    pairs = {
        TARGET_DISCRIMINATOR: _target_pair(batch, estimate),
        MIXTURE_DISCRIMINATOR: DiscriminatorPair(real=batch.mixture, fake=fake_mixture),
    }
    terms = {}
    if "cycle" in active:
        forward_cycle = losses.l1(mixer(estimate.sum(1))[:, 0], batch.mixture)
        terms["cycle"] = forward_cycle + losses.l1(separator(fake_mixture), batch.target)
    if "identity" in active:
        target_identity = losses.l1(separator(target_sum), batch.target)
        terms["identity"] = target_identity + losses.l1(mixer(batch.mixture)[:, 0], batch.mixture)
    return StepOutputs(estimate=estimate, terms=terms | _regression(batch, estimate, active), pairs=pairs)


def paired(networks: Networks, batch: Batch, active: Collection[str]) -> StepOutputs:
    """Train one generator against one discriminator, which gets raw mixtures as additional fakes.

    Unpaired batches have the adversarial and identity terms only (Stoller et al., "Adversarial semi-supervised audio
    source separation applied to singing voice extraction", 2018).
    """
    separator = networks["separator"]
    estimate = separator(batch.mixture)
    mixtures = batch.mixture.repeat(1, batch.target.shape[1], 1)
    pairs = {TARGET_DISCRIMINATOR: _target_pair(batch, estimate, also_fake=mixtures)}
    terms = {}
    if "identity" in active:
        terms["identity"] = losses.l1(separator(batch.target.sum(1)), batch.target)
    return StepOutputs(estimate=estimate, terms=terms | _regression(batch, estimate, active), pairs=pairs)


def supervised(networks: Networks, batch: Batch, active: Collection[str]) -> StepOutputs:
    """Regress on aligned targets: the supervised baseline of the adversarial recipes."""
    estimate = networks["separator"](batch.mixture)
    return StepOutputs(estimate=estimate, terms=_regression(batch, estimate, active), pairs={})


def notebook(networks: Networks, batch: Batch, active: Collection[str]) -> StepOutputs:
    """Reproduce the training step of the original notebook, in which only the cycle term has a gradient.

    The first pass receives the target instead of the mixture and runs without gradient, so the adversarial and
    identity terms are constants for the separator.
    """
    separator = networks["separator"]
    with torch.no_grad():
        estimate = separator(batch.target.sum(1))
    remixed = batch.mixture - estimate.sum(1) + batch.target.sum(1)
    pairs = {
        TARGET_DISCRIMINATOR: _target_pair(batch, estimate),
        MIXTURE_DISCRIMINATOR: DiscriminatorPair(real=batch.mixture, fake=remixed),
    }
    terms = {}
    if "cycle" in active:
        terms["cycle"] = losses.l1(separator(remixed), batch.target)
    if "identity" in active:
        terms["identity"] = losses.l1(estimate, batch.target)
    return StepOutputs(estimate=estimate, terms=terms, pairs=pairs)


FORWARD: Mapping[str, Callable[[Networks, Batch, Collection[str]], StepOutputs]] = MappingProxyType(
    {
        "remix": remix,
        "cyclegan": cyclegan,
        "paired": paired,
        "supervised": supervised,
        "notebook": notebook,
    }
)


def roll_half_batch(crops: Tensor) -> Tensor:
    """Return `crops` rolled by half the batch, so that each crop is exchanged for another one.

    A worker or a micro-batch holds every n-th crop of the batch. Rolling its crops by half gives each crop the same
    partner as rolling the whole batch does, if the number of its crops is even.
    """
    return crops.roll(len(crops) // 2, dims=0)


def _swap_cycle(separator: nn.Module, mixture: Tensor, estimate: Tensor) -> Tensor:
    """Swap estimates between crops, separate again, swap the new estimates back and compare with the mixtures.

    After Saijo and Ogawa, "Remix-cycle-consistent learning on adversarially learned separator", 2022. Silent estimates
    are an exact minimum, so this term is for a separator that already separates.
    """
    swapped = estimate + roll_half_batch(mixture - estimate)
    second_estimate: Tensor = separator(swapped).sum(1)
    residual = swapped - second_estimate
    # Rolling back differs from rolling forward if the number of crops is odd.
    own_residual = residual.roll(-(len(residual) // 2), dims=0)
    return losses.l1(second_estimate + own_residual, mixture)


def _regression(batch: Batch, estimate: Tensor, active: Collection[str]) -> dict[str, Tensor]:
    """Return the active regression terms; unpaired batches have none."""
    functions = {"reconstruction": losses.l1, "spectral": losses.spectral, "si_sdr": losses.negative_si_sdr}
    if not batch.paired:
        return {}
    return {name: function(estimate, batch.target) for name, function in functions.items() if name in active}


def _target_pair(batch: Batch, estimate: Tensor, also_fake: Tensor | None = None) -> DiscriminatorPair:
    """Return the pair of the target discriminator: all targets of a crop as the channels of one waveform."""
    return DiscriminatorPair(
        real=batch.target.flatten(1, 2), fake=estimate.flatten(1, 2), also_fake=also_fake, aligned=batch.paired
    )
