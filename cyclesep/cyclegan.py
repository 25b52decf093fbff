"""One optimisation step of any recipe: networks, optimizers and the moving average; knows neither files nor Ray."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from cyclesep import losses
from cyclesep.crops import Batch
from cyclesep.discriminators import DiscriminatorConfig, build_discriminator
from cyclesep.errors import ConfigError
from cyclesep.generators import Separator, SeparatorConfig, build_separator
from cyclesep.losses import AdversarialForm, Judgement, Reducer
from cyclesep.optimization import OptimizerConfig, adam, schedule
from cyclesep.recipes import RECIPES, TARGET, Judged, Passes, Recipe, RecipeName

# Waveforms quieter than this, relative to the mixtures (-26 dB), are not brought to full level for a discriminator.
MATCHING_FLOOR = 0.05
# A batch below this RMS (-80 dBFS) is not brought to unit level.
SILENCE_RMS = 1e-4
# Targets that should make up the mixture may differ from it by this share of its energy (lossy stems do).
TOLERATED_REST = 0.1


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig:
    """What is trained and how. Values left empty are filled from the preset when the config is made."""

    recipe: RecipeName = "remix"
    """Passes and terms of a step: `remix`, `cyclegan` (both paired or unpaired), `paired`, `supervised`."""

    preset: Literal["modern", "seed"] = "modern"
    """What empty values stand for: the modern defaults, or the networks, losses and optimizers of the ancestor."""

    separator: SeparatorConfig = field(default_factory=SeparatorConfig)
    """The network that is trained to be shipped; the `mixer` of the cyclegan recipe is built alike."""

    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The network of each discriminator."""

    adversarial: AdversarialForm | None = None
    """Form of the adversarial terms; empty takes the preset's (modern lsgan, seed relativistic)."""

    adversarial_from_step: Annotated[int, Ge(0)] = 0
    """Step from which on discriminators are trained and adversarial terms count."""

    loss_weights: dict[str, Annotated[float, Ge(0)]] = field(default_factory=dict)
    """Weights that differ from the recipe's own; a term of weight 0 is not computed."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Learning rates, schedule, clipping, moving average."""

    bfloat16: bool = False
    """Run the networks under bfloat16 autocast; losses, spectra and optimizers stay in float32."""

    def __post_init__(self) -> None:
        for name, value in _PRESETS[self.preset].items():
            own = getattr(self, name)
            # The dataclass is frozen for its users; while it is being made, its own empty fields are filled.
            object.__setattr__(self, name, _filled(own, value) if isinstance(value, dict) else own or value)
        _refuse_bad_weights(self)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term of the recipe."""
        recipe = RECIPES[self.recipe]
        preset = recipe.seed_weights if self.preset == "seed" else {}
        return {**recipe.weights, **preset, **self.loss_weights}


class CycleGAN:
    """The networks of a recipe with all that their training needs, advanced one batch at a time.

    `separator` is the raw network, `ema_separator` its moving average in evaluation mode.
    """

    def __init__(
        self,
        config: CycleGANConfig,
        *,
        targets: Sequence[str],
        channels: int,
        sample_rate: int,
        device: torch.device | str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        mean_over_ranks: Reducer = losses.identity,
        num_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        """Build networks and optimizers on `device`; equal seeds give equal weights on every rank.

        `wrap` makes a module data-parallel, `mean_over_ranks` averages a tensor over the ranks, `num_steps` is the
        length of the run for the learning-rate schedule (None keeps the rate constant after the warm-up).
        """
        self.config = config
        self.recipe: Recipe = RECIPES[config.recipe]
        self.weights = {name: weight for name, weight in config.weights.items() if weight > 0}
        self.device = torch.device(device)
        self.num_steps = num_steps
        self.seed = seed
        self.step_number = 0
        self.num_skipped = 0
        self._mean_over_ranks = mean_over_ranks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generators = self._build_generators(len(targets), channels, sample_rate)
            self.discriminators = self._build_discriminators(len(targets), channels, sample_rate)
        self.ema_separator = copy.deepcopy(self.separator).eval().requires_grad_(False)
        self._wrapped = {name: wrap(module) for name, module in (self.generators | self.discriminators).items()}
        optimizer = config.optimizer
        assert optimizer.lr_separator is not None
        assert optimizer.lr_discriminator is not None
        self._generator_optimizer = adam(self.generators, optimizer.lr_separator, optimizer.betas_separator)
        self._discriminator_optimizer = adam(
            self.discriminators, optimizer.lr_discriminator, optimizer.betas_discriminator
        )

    @property
    def separator(self) -> Separator:
        """The separator itself, without what `wrap` put around it."""
        return self.generators["separator"]

    def step(self, batch: Batch) -> dict[str, float | Tensor]:
        """Advance all networks by one batch: the generators first, then the discriminators on the same fakes.

        Gives back named values, detached. A batch whose gradients are not finite changes no weights and is counted;
        all ranks see the same gradients after their reduction, so all skip alike. Raises ConfigError for an unpaired
        batch if the recipe needs pairs.
        """
        self._refuse_unfit(batch)
        self._set_learning_rates()
        rng = torch.Generator().manual_seed(_mixed(self.seed, self.step_number))
        values, judged = self._generator_half(self._at_unit_level(batch), rng)
        if judged is not None and self._adversarial_now():
            values |= self._discriminator_half(judged, rng)
        self.step_number += 1
        return values | {"steps_skipped": float(self.num_skipped)}

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-exact continuation needs: tensors, numbers and containers of them."""
        return {
            "step": self.step_number,
            "skipped": self.num_skipped,
            "networks": {name: module.state_dict() for name, module in (self.generators | self.discriminators).items()},
            "ema_separator": self.ema_separator.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of the same config; raises KeyError, ValueError or RuntimeError if it is of another."""
        networks = self.generators | self.discriminators
        if set(state["networks"]) != set(networks):
            raise ValueError(f"the state holds {sorted(state['networks'])}, this recipe trains {sorted(networks)}")
        for name, module in networks.items():
            module.load_state_dict(state["networks"][name])
        self.ema_separator.load_state_dict(state["ema_separator"])
        for optimizer, optimizer_state in zip(self._optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        self.step_number, self.num_skipped = state["step"], state["skipped"]

    def _generator_half(
        self, batch: Batch, rng: torch.Generator
    ) -> tuple[dict[str, float | Tensor], dict[str, Judged] | None]:
        """Update the generators; the second value is what to judge, None if the update was skipped."""
        with self._autocast():
            passes = self.recipe.passes(self._wrapped, batch)
            terms = {name: term() for name, term in passes.terms.items() if name in self.weights}
            judged = {name: _matched(pair) for name, pair in passes.judged.items()} if self._adversarial_now() else {}
            terms |= self._judged_terms(judged, rng)
        if not terms:
            raise ConfigError(
                f"loss_weights: none of {', '.join(self.weights)} applies to step {self.step_number}; "
                "regression needs paired crops, adversarial terms begin at adversarial_from_step"
            )
        total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        taken, norm = self._update(self._generator_optimizer, total)
        if taken:
            self._update_average()
        values: dict[str, float | Tensor] = {f"separator/{name}": term.detach() for name, term in terms.items()}
        return values | _observed(passes, batch, total, norm), judged if taken else None

    def _judged_terms(self, judged: Mapping[str, Judged], rng: torch.Generator) -> dict[str, Tensor]:
        """Adversarial and feature-matching terms of the generators, through frozen discriminators."""
        terms: dict[str, list[Tensor]] = {"adversarial": [], "feature_matching": []}
        with _frozen(self.discriminators.values()):
            for name, pair in judged.items():
                fake = self.discriminators[name](pair.fake, rng)
                matching = pair.aligned and "feature_matching" in self.weights
                compares = matching or self._form == "relativistic"
                real = self._judged_real(name, pair, rng) if compares else None
                terms["adversarial"].append(self._generator_loss(fake, real))
                if matching and real is not None:
                    terms["feature_matching"].append(losses.feature_matching(real, fake))
        return {name: torch.stack(values).sum() for name, values in terms.items() if values and name in self.weights}

    def _judged_real(self, name: str, pair: Judged, rng: torch.Generator) -> Judgement:
        with torch.no_grad():
            judgement: Judgement = self.discriminators[name](pair.real, rng)
        return judgement

    def _generator_loss(self, fake: Judgement, real: Judgement | None) -> Tensor:
        real_logits = None if real is None else _logits(real)
        return losses.generator_loss(self._form, _logits(fake), real_logits, self._mean_over_ranks)

    def _discriminator_half(self, judged: Mapping[str, Judged], rng: torch.Generator) -> dict[str, float | Tensor]:
        """Update all discriminators by one backward pass; real and fake go through each of them in one batch."""
        values: dict[str, float | Tensor] = {}
        parts = []
        for name, pair in judged.items():
            fakes = pair.fake if pair.also_fake is None else torch.cat([pair.fake, pair.also_fake])
            with self._autocast():
                logits = _logits(self._wrapped[name](torch.cat([pair.real, fakes.detach()]), rng))
            real, fake = zip(*(each.split([len(pair.real), len(fakes)]) for each in logits), strict=True)
            parts.append(losses.discriminator_loss(self._form, real, fake, self._mean_over_ranks))
            values[f"{name}/adversarial"] = parts[-1].detach()
            values[f"{name}/margin"] = _mean(real) - _mean(fake)
        _, norm = self._update(self._discriminator_optimizer, torch.stack(parts).sum())
        return values | {"discriminators/gradient_norm": norm}

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> tuple[bool, Tensor]:
        """Step unless the gradient is not finite; gives back whether the step was taken, and the gradient norm."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.optimizer.clip_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            optimizer.step()
        else:
            self.num_skipped += 1
        return finite, norm.detach()

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the average towards the separator; early averages are shorter, so that they forget the first weights."""
        decay = min(self.config.optimizer.ema_decay, (1 + self.step_number) / (10 + self.step_number))
        averages: list[Tensor] = list(self.ema_separator.parameters())
        weights: list[Tensor] = list(self.separator.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def _at_unit_level(self, batch: Batch) -> Batch:
        """Scale the whole batch, over all ranks, so that its mixtures have RMS 1: losses do not depend on level."""
        power = self._mean_over_ranks(batch.mixture.square().mean())
        level = power.sqrt().clamp(min=SILENCE_RMS)
        return Batch(mixture=batch.mixture / level, target=batch.target / level, paired=batch.paired)

    def _set_learning_rates(self) -> None:
        optimizer = self.config.optimizer
        factor = schedule(optimizer, self.step_number, self.num_steps)
        for each, peak in zip(self._optimizers(), (optimizer.lr_separator, optimizer.lr_discriminator), strict=False):
            assert peak is not None
            for group in each.param_groups:
                group["lr"] = peak * factor

    def _refuse_unfit(self, batch: Batch) -> None:
        if self.recipe.needs_pairs and not batch.paired:
            raise ConfigError(
                f"recipe={self.config.recipe} needs targets aligned with their mixtures, the crops are unpaired; "
                "choose recipe=remix, or paired crops"
            )
        if self.step_number == 0 and batch.paired and self.separator.consistent:
            rest = (batch.mixture - batch.target.sum(1)).square().mean()
            if rest > TOLERATED_REST * batch.mixture.square().mean():
                raise ConfigError(
                    "separator.mixture_consistency: the targets leave part of the mixture out, so their estimates "
                    "cannot sum to it; set it to false, or add the other stems to the targets"
                )

    def _adversarial_now(self) -> bool:
        return bool(self.discriminators) and self.step_number >= self.config.adversarial_from_step

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.bfloat16)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._generator_optimizer, *([self._discriminator_optimizer] if self.discriminators else [])]

    @property
    def _form(self) -> AdversarialForm:
        assert self.config.adversarial is not None
        return self.config.adversarial

    def _build_generators(self, targets: int, channels: int, sample_rate: int) -> dict[str, Separator]:
        outputs = {"separator": targets, "mixer": 1}
        return {
            name: build_separator(
                self.config.separator, targets=outputs[name], channels=channels, sample_rate=sample_rate
            ).to(self.device)
            for name in self.recipe.generators
        }

    def _build_discriminators(self, targets: int, channels: int, sample_rate: int) -> dict[str, nn.Module]:
        if not {"adversarial", "feature_matching"} & set(self.weights):
            return {}
        stacked = {name: channels * targets if name == TARGET else channels for name in self.recipe.discriminators}
        return {
            name: build_discriminator(self.config.discriminator, channels=inputs, sample_rate=sample_rate).to(
                self.device
            )
            for name, inputs in stacked.items()
        }


_PRESETS: dict[str, dict[str, Any]] = {
    "modern": {
        "adversarial": "lsgan",
        "separator": {"name": "waveunet"},
        "discriminator": {"name": "spectral"},
        "optimizer": {
            "lr_separator": 1e-3,
            "lr_discriminator": 5e-4,
            "betas_separator": (0.8, 0.99),
            "warmup_steps": 50,
            "schedule": "cosine",
        },
    },
    "seed": {
        "adversarial": "relativistic",
        "separator": {"name": "seed"},
        "discriminator": {"name": "seed"},
        "optimizer": {
            "lr_separator": 2e-4,
            "lr_discriminator": 2e-4,
            "betas_separator": (0.5, 0.9),
            "warmup_steps": 0,
            "schedule": "constant",
        },
    },
}


def _filled(config: Any, values: Mapping[str, Any]) -> Any:
    empty = {name: value for name, value in values.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **empty)


def _refuse_bad_weights(config: CycleGANConfig) -> None:
    known = RECIPES[config.recipe].weights
    unknown = sorted(set(config.loss_weights) - set(known))
    if unknown:
        raise ConfigError(
            f"loss_weights: recipe={config.recipe} has no term {', '.join(unknown)}; its terms are {', '.join(known)}"
        )
    if not any(config.weights.values()):
        raise ConfigError("loss_weights: every term has weight 0; give at least one of them a positive weight")


@contextmanager
def _frozen(modules: Any) -> Iterator[None]:
    """Let gradients pass through modules without computing those of their weights."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _matched(pair: Judged) -> Judged:
    """Bring waveforms to one level, so that a discriminator cannot go by how loud a recording was mastered."""
    also_fake = None if pair.also_fake is None else _at_matched_level(pair.also_fake)
    return dataclasses.replace(
        pair, real=_at_matched_level(pair.real), fake=_at_matched_level(pair.fake), also_fake=also_fake
    )


def _at_matched_level(waveform: Tensor) -> Tensor:
    power = waveform.square().mean(dim=(1, 2), keepdim=True)
    return waveform / (power + MATCHING_FLOOR**2).sqrt()


def _observed(passes: Passes, batch: Batch, total: Tensor, norm: Tensor) -> dict[str, float | Tensor]:
    energy = passes.estimate.detach().square().sum() / batch.mixture.square().sum().clamp(min=losses.EPSILON)
    return {"separator/total": total.detach(), "separator/output_energy": energy, "separator/gradient_norm": norm}


def _logits(judgement: Judgement) -> list[Tensor]:
    return [maps[-1] for maps in judgement]


def _mean(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.detach().float().mean() for each in logits]).mean()


def _mixed(seed: int, step: int) -> int:
    """One 63-bit number from two, spread by the golden ratio's multiplier."""
    return (seed * 0x9E3779B97F4A7C15 + step) % 2**63
