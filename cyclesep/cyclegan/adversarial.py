"""Adversarial loss terms of the generators and of the discriminators."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cyclesep.cyclegan import losses
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.cyclegan.distributed import DistributedContext
from cyclesep.cyclegan.losses import FeatureMaps
from cyclesep.cyclegan.recipes import DiscriminatorPair


class AdversarialLoss:
    """Loss terms computed through the discriminators, each of which compares one pair of waveforms."""

    def __init__(
        self,
        config: MethodConfig,
        discriminators: Mapping[str, nn.Module],
        parallel: Mapping[str, nn.Module],
        ranks: DistributedContext,
    ) -> None:
        """`parallel` holds the same discriminators as data-parallel modules, which train them."""
        assert config.adversarial_loss is not None
        self._config, self._form = config.discriminator, config.adversarial_loss
        self._discriminators, self._parallel, self._ranks = discriminators, parallel, ranks

    def generator_terms(
        self, pairs: Mapping[str, DiscriminatorPair], rng: torch.Generator, active: Collection[str]
    ) -> dict[str, Tensor]:
        """Return the active adversarial and feature-matching terms of the generators, through frozen discriminators."""
        terms: dict[str, list[Tensor]] = {"adversarial": [], "feature_matching": []}
        with _frozen(self._discriminators.values()):
            for name, pair in pairs.items():
                fake = self._discriminators[name](pair.fake, rng)
                match_features = pair.aligned and "feature_matching" in active
                real = None
                if match_features or self._form == "relativistic":
                    with torch.no_grad():
                        real = self._discriminators[name](pair.real, rng)
                real_logits = None if real is None else _logits(real)
                terms["adversarial"].append(
                    losses.generator_loss(self._form, _logits(fake), real_logits, self._ranks.mean)
                )
                if match_features and real is not None:
                    terms["feature_matching"].append(losses.feature_matching(real, fake, self._ranks.mean))
        return {name: torch.stack(values).sum() for name, values in terms.items() if values and name in active}

    def discriminator_terms(
        self, pairs: Mapping[str, DiscriminatorPair], rng: torch.Generator, *, step: int, autocast: torch.autocast
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the weighted loss terms of the discriminators, and metrics to log; real and fake share a pass."""
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for name, pair in pairs.items():
            fakes = pair.fake if pair.also_fake is None else torch.cat([pair.fake, pair.also_fake])
            with autocast:
                logits = _logits(self._parallel[name](torch.cat([pair.real, fakes.detach()]), rng))
            real, fake = zip(*(each.split([len(pair.real), len(fakes)]) for each in logits), strict=True)
            loss = losses.discriminator_loss(self._form, real, fake, self._ranks.mean)
            terms[f"{name}/adversarial"] = loss
            metrics[f"{name}/adversarial"] = loss.detach()
            metrics[f"{name}/logit_gap"] = _mean(real) - _mean(fake)
            if self._config.r1_gamma > 0 and step % self._config.r1_interval == 0:
                penalty = self._gradient_penalty(name, pair.real)
                terms[f"{name}/gradient_penalty"] = self._config.r1_gamma / 2 * self._config.r1_interval * penalty
                metrics[f"{name}/gradient_penalty"] = penalty.detach()
        return terms, metrics

    def _gradient_penalty(self, name: str, real: Tensor) -> Tensor:
        """Return the R1 penalty of a discriminator, without autocast: second derivatives need the range of float32."""
        real = real.detach().requires_grad_()
        return losses.gradient_penalty(real, _logits(self._parallel[name](real, None)))


@contextmanager
def _frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let gradients pass through modules without computing gradients of their weights."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _logits(outputs: FeatureMaps) -> list[Tensor]:
    return [maps[-1] for maps in outputs]


def _mean(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.detach().float().mean() for each in logits]).mean()
