"""The discriminators of a recipe: what they make the generators lose, and what they learn themselves."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cyclesep.cyclegan import losses
from cyclesep.cyclegan.config import MethodConfig
from cyclesep.cyclegan.discriminator_input import matched
from cyclesep.cyclegan.distributed import DistributedContext
from cyclesep.cyclegan.losses import FeatureMaps
from cyclesep.cyclegan.recipes import DiscriminatorPair
from cyclesep.cyclegan.replay_buffer import ReplayBuffer


class AdversarialLoss:
    """Both halves of the adversarial game over pairs of real and fake waveforms, one pair for each discriminator."""

    def __init__(
        self,
        config: MethodConfig,
        discriminators: Mapping[str, nn.Module],
        wrapped: Mapping[str, nn.Module],
        *,
        sample_rate: int,
        seed: int,
        ranks: DistributedContext,
    ) -> None:
        """`wrapped` are the same discriminators as data-parallel modules, for the passes that train them."""
        assert config.adversarial_loss is not None
        self._config, self._form = config, config.adversarial_loss
        self._discriminators, self._wrapped = discriminators, wrapped
        self._sample_rate, self._ranks = sample_rate, ranks
        self.pools = {
            name: ReplayBuffer(config.replay_buffer_size, seed=seed + index, ranks=ranks)
            for index, name in enumerate(discriminators)
            if config.replay_buffer_size
        }

    def prepared(
        self, judged: Mapping[str, DiscriminatorPair], rng: torch.Generator, *, paired: bool
    ) -> dict[str, DiscriminatorPair]:
        """Pairs cut to what is judged of them, and brought to one level and band (see `DiscriminatorInputConfig`)."""
        matching, rate = self._config.discriminator_input, self._sample_rate
        return {
            name: matched(matching, self._cut(pair, rng), paired=paired, sample_rate=rate)
            for name, pair in judged.items()
        }

    def generator_terms(
        self, judged: Mapping[str, DiscriminatorPair], rng: torch.Generator, *, feature_matching: bool
    ) -> dict[str, Tensor]:
        """Adversarial and feature-matching terms of the generators, through frozen discriminators."""
        terms: dict[str, list[Tensor]] = {"adversarial": [], "feature_matching": []}
        with _frozen(self._discriminators.values()):
            for name, pair in judged.items():
                fake = self._discriminators[name](pair.fake, rng)
                matching = pair.aligned and feature_matching
                compares = matching or self._form == "relativistic"
                real = self._judged_real(name, pair, rng) if compares else None
                real_logits = None if real is None else _logits(real)
                terms["adversarial"].append(
                    losses.generator_loss(self._form, _logits(fake), real_logits, self._ranks.mean)
                )
                if matching and real is not None:
                    terms["feature_matching"].append(losses.feature_matching(real, fake, self._ranks.mean))
        return {name: torch.stack(values).sum() for name, values in terms.items() if values}

    def discriminator_loss(
        self, judged: Mapping[str, DiscriminatorPair], rng: torch.Generator, *, step: int, autocast: torch.autocast
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What all discriminators minimise together, and its parts by name; real and fake share each pass."""
        values: dict[str, Tensor] = {}
        parts = []
        for name, pair in judged.items():
            fakes = pair.fake if pair.also_fake is None else torch.cat([pair.fake, pair.also_fake])
            with autocast:
                logits = _logits(self._wrapped[name](torch.cat([pair.real, fakes.detach()]), rng))
            real, fake = zip(*(each.split([len(pair.real), len(fakes)]) for each in logits), strict=True)
            parts.append(losses.discriminator_loss(self._form, real, fake, self._ranks.mean))
            values[f"{name}/adversarial"] = parts[-1].detach()
            values[f"{name}/logit_gap"] = _mean(real) - _mean(fake)
            if self._penalised(step):
                penalty = self._gradient_penalty(name, pair.real)
                parts.append(self._config.discriminator.r1_gamma / 2 * self._config.discriminator.r1_interval * penalty)
                values[f"{name}/gradient_penalty"] = penalty.detach()
        return torch.stack(parts).sum(), values

    def replayed(
        self, parts: Sequence[Mapping[str, DiscriminatorPair]], step: int
    ) -> list[dict[str, DiscriminatorPair]]:
        """The parts of a batch with some fakes exchanged for earlier ones; every n-th crop lies in the same part."""
        changed = [dict(part) for part in parts]
        for name, pool in self.pools.items():
            fakes = torch.stack([part[name].fake for part in parts], dim=1)
            shown = pool.exchanged(fakes.flatten(0, 1), step).unflatten(0, fakes.shape[:2])
            for index, part in enumerate(changed):
                part[name] = dataclasses.replace(part[name], fake=shown[:, index])
        return changed

    def _cut(self, pair: DiscriminatorPair, rng: torch.Generator) -> DiscriminatorPair:
        """The same window of all waveforms of a pair."""
        seconds = self._config.discriminator.crop_seconds
        if seconds is None or round(seconds * self._sample_rate) >= pair.real.shape[-1]:
            return pair
        length = round(seconds * self._sample_rate)
        start = int(torch.randint(pair.real.shape[-1] - length + 1, (), generator=rng))

        def cut(waveform: Tensor) -> Tensor:
            return waveform[..., start : start + length]

        also_fake = None if pair.also_fake is None else cut(pair.also_fake)
        return dataclasses.replace(pair, real=cut(pair.real), fake=cut(pair.fake), also_fake=also_fake)

    def _judged_real(self, name: str, pair: DiscriminatorPair, rng: torch.Generator) -> FeatureMaps:
        with torch.no_grad():
            judgement: FeatureMaps = self._discriminators[name](pair.real, rng)
        return judgement

    def _penalised(self, step: int) -> bool:
        discriminator = self._config.discriminator
        return discriminator.r1_gamma > 0 and step % discriminator.r1_interval == 0

    def _gradient_penalty(self, name: str, real: Tensor) -> Tensor:
        """In full precision: a gradient of a gradient has no range to spare."""
        real = real.detach().requires_grad_()
        return losses.gradient_penalty(real, _logits(self._wrapped[name](real, None)))


@contextmanager
def _frozen(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let gradients pass through modules without computing those of their weights."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _logits(judgement: FeatureMaps) -> list[Tensor]:
    return [maps[-1] for maps in judgement]


def _mean(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.detach().float().mean() for each in logits]).mean()
