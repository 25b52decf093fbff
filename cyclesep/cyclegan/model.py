"""One optimisation step of any recipe: networks, optimizers and the moving average; knows neither files nor Ray."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cyclesep.cyclegan import losses
from cyclesep.cyclegan.adversarial import AdversarialLoss
from cyclesep.cyclegan.collapse_monitor import CollapseMonitor
from cyclesep.cyclegan.config import TARGET, MethodConfig
from cyclesep.cyclegan.distributed import DistributedContext
from cyclesep.cyclegan.loss_balancer import LossBalancer, gradient_norms
from cyclesep.cyclegan.optimization import adam, schedule, step_if_finite, update_ema
from cyclesep.cyclegan.recipes import FORWARD, DiscriminatorPair
from cyclesep.data.crops.dataset import Batch
from cyclesep.errors import ConfigError
from cyclesep.models.discriminators.discriminator import build_discriminator
from cyclesep.models.separators.separator import Separator, build_separator

# A batch below this RMS (-80 dBFS) is not brought to unit level.
SILENCE_RMS = 1e-4
# Targets that should make up the mixture may differ from it by this share of its energy (lossy stems do).
TOLERATED_REST = 0.1


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What the generators made of one part of a batch; nothing here has a graph."""

    terms: dict[str, Tensor]
    energies: Tensor
    """Of the estimates, of what they leave of the mixtures (mean over targets), and of the mixtures."""
    norms: dict[str, Tensor]
    judged: dict[str, DiscriminatorPair]


class CycleGAN:
    """The networks of a recipe with all that their training needs, advanced one batch at a time.

    `separator` is the raw network, `ema_separator` its moving average in evaluation mode.
    """

    def __init__(
        self,
        config: MethodConfig,
        *,
        targets: Sequence[str],
        channels: int,
        sample_rate: int,
        device: torch.device | str = "cpu",
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        ranks: DistributedContext | None = None,
        num_steps: int | None = None,
        seed: int = 0,
    ) -> None:
        """Build networks and optimizers on `device`; equal seeds give equal weights on every rank.

        `wrap` makes a module data-parallel, `ranks` are the workers that share each batch (None: this one alone),
        `num_steps` is the length of the run for the learning-rate schedule (None keeps the rate constant after the
        warm-up).
        """
        self.config = config
        self.recipe = config.recipe_spec
        self.weights = {name: weight for name, weight in config.weights.items() if weight > 0}
        self.device = torch.device(device)
        self.num_steps = num_steps
        self.seed = seed
        self.step_number = 0
        self.num_skipped = 0
        self._ranks = ranks = ranks or DistributedContext()
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
        self._adversary = AdversarialLoss(
            config, self.discriminators, self._wrapped, sample_rate=sample_rate, seed=seed, ranks=ranks
        )
        self._balancer = LossBalancer(config.loss_balancer, self.weights, ranks)
        self._alarm = CollapseMonitor(config.collapse, warns=ranks.rank == 0)

    @property
    def separator(self) -> Separator:
        """The separator itself, without what `wrap` put around it."""
        return self.generators["separator"]

    @property
    def last_schedule_step(self) -> int:
        """The step from which on all terms count that ever do."""
        begins = [self.config.adversarial_start_step] if self.discriminators else [0]
        return max(begins + [self.config.swap_start_step] * ("swap_cycle" in self.weights))

    def step(self, batch: Batch) -> dict[str, float | Tensor]:
        """Advance all networks by one batch: the generators first, then the discriminators on the same fakes.

        Gives back named values, detached. A batch whose gradients are not finite changes no weights and is counted;
        all ranks see the same gradients after their reduction, so all skip alike. Raises ConfigError for an unpaired
        batch if the recipe needs pairs, TrainingError if the separator has collapsed and shall not go on.
        """
        self._refuse_unfit(batch)
        self._set_learning_rates()
        parts = self._divided(self._at_unit_level(batch))
        # Each part draws the same numbers, as the whole batch would.
        rngs = [torch.Generator().manual_seed(_mixed(self.seed, self.step_number)) for _ in parts]
        values, made, judged = self._generator_half(parts, rngs)
        if judged is not None and self._adversarial_now():
            replayed = judged if batch.paired else self._adversary.replayed(judged, self.step_number)
            for _ in range(self.config.discriminator.steps_per_generator_step):
                told = self._discriminator_half(replayed, rngs)
            values |= told
        # Last, because it waits for the device.
        values |= self._observed(made, paired=batch.paired)
        self.step_number += 1
        return values | {"steps_skipped": float(self.num_skipped)}

    def gather_state(self) -> None:
        """Bring together what each rank holds alone; every rank must call this before one of them takes a state."""
        for pool in self._adversary.pools.values():
            pool.gather_state()

    def state_dict(self) -> dict[str, Any]:
        """All that a bit-exact continuation needs: tensors, numbers and containers of them."""
        return {
            "step": self.step_number,
            "skipped": self.num_skipped,
            "networks": {name: module.state_dict() for name, module in (self.generators | self.discriminators).items()},
            "ema_separator": self.ema_separator.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers()],
            "balancer": self._balancer.state_dict(),
            "collapse": self._alarm.state_dict(),
            "replay": {name: pool.state_dict() for name, pool in self._adversary.pools.items()},
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
        self._balancer.load_state_dict(state["balancer"], self.device)
        self._alarm.load_state_dict(state["collapse"])
        for name, pool in self._adversary.pools.items():
            pool.load_state_dict(state["replay"].get(name, {}), self.device)
        self.step_number, self.num_skipped = state["step"], state["skipped"]

    def _generator_half(
        self, parts: Sequence[Batch], rngs: Sequence[torch.Generator]
    ) -> tuple[dict[str, float | Tensor], list[_Part], list[dict[str, DiscriminatorPair]] | None]:
        """Update the generators; the last value is what to judge, None if the update was skipped."""
        self._generator_optimizer.zero_grad(set_to_none=True)
        made = []
        for index, (part, rng) in enumerate(zip(parts, rngs, strict=True)):
            with self._reducing(self.generators, index == len(parts) - 1):
                made.append(self._backward_generators(part, rng, share=1 / len(parts)))
        taken, norm = step_if_finite(self._generator_optimizer, self.config.optimizer.clip_norm)
        self.num_skipped += not taken
        if taken:
            update_ema(self.ema_separator, self.separator, self.config.optimizer.ema_decay, self.step_number)
        terms: dict[str, float | Tensor] = {
            f"separator/{name}": term for name, term in _means([each.terms for each in made]).items()
        }
        judged = [each.judged for each in made] if taken else None
        return terms | {"separator/gradient_norm": norm}, made, judged

    def _backward_generators(self, part: Batch, rng: torch.Generator, *, share: float) -> _Part:
        """All terms of one part of the batch and their gradients, weighted and scaled by `share`."""
        with self._autocast(), self._recorded_outputs() as outputs:
            passes = FORWARD[self.recipe.forward](self._wrapped, part)
            terms = {name: term() for name, term in passes.terms.items() if self._counts(name)}
            judged = self._adversary.prepared(passes.judged, rng, paired=part.paired) if self._adversarial_now() else {}
            matching = self._counts("feature_matching")
            adversarial = self._adversary.generator_terms(judged, rng, feature_matching=matching)
            terms |= {name: term for name, term in adversarial.items() if self._counts(name)}
        if not terms:
            raise ConfigError(
                f"loss_weights: none of {', '.join(self.weights)} applies to step {self.step_number}; "
                "regression needs paired crops, adversarial terms begin at adversarial_start_step"
            )
        norms = gradient_norms(terms, outputs) if self.config.loss_balancer.active else {}
        weights = self._balancer.weights(list(terms))
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        (total * share).backward()
        return _Part(
            terms={name: term.detach() for name, term in (terms | {"total": total}).items()},
            energies=_energies(passes.estimate.detach().to(part.mixture.dtype), part.mixture),
            norms=norms,
            judged={name: dataclasses.replace(pair, fake=pair.fake.detach()) for name, pair in judged.items()},
        )

    def _discriminator_half(
        self, judged: Sequence[Mapping[str, DiscriminatorPair]], rngs: Sequence[torch.Generator]
    ) -> dict[str, float | Tensor]:
        """Update all discriminators, each part of the batch by one backward pass."""
        self._discriminator_optimizer.zero_grad(set_to_none=True)
        told = []
        for index, (pairs, rng) in enumerate(zip(judged, rngs, strict=True)):
            with self._reducing(self.discriminators, index == len(judged) - 1):
                loss, values = self._adversary.discriminator_loss(
                    pairs, rng, step=self.step_number, autocast=self._autocast()
                )
                (loss / len(judged)).backward()
            told.append(values)
        taken, norm = step_if_finite(self._discriminator_optimizer, self.config.optimizer.clip_norm)
        self.num_skipped += not taken
        return {**_means(told), "discriminators/gradient_norm": norm}

    def _observed(self, made: Sequence[_Part], *, paired: bool) -> dict[str, float | Tensor]:
        """Tell the alarm and the balancer, over all ranks, what a step was like; gives back what they make of it."""
        estimated, removed, mixed = self._ranks.mean(torch.stack([each.energies for each in made]).sum(0)).tolist()
        values: dict[str, float | Tensor] = {}
        if self.config.loss_balancer.active:
            factors = self._balancer.weights(list(made[0].norms))
            values = {f"balancer/{name}": factors[name] for name in made[0].norms}
            self._balancer.observe(_means([each.norms for each in made]))
        mixed = max(mixed, losses.EPSILON)
        self._alarm.observe(estimated / mixed, removed / mixed, paired=paired)
        return values | {
            "separator/output_energy": self._alarm.energy.value,
            "collapse/removed_energy_ratio": self._alarm.removed.value,
            "separator/steps_collapsed": float(self._alarm.energy.num_low),
            "collapse/pass_through_steps": float(self._alarm.removed.num_low),
        }

    def _at_unit_level(self, batch: Batch) -> Batch:
        """Scale the whole batch, over all ranks, so that its mixtures have RMS 1: losses do not depend on level."""
        power = self._ranks.mean(batch.mixture.square().mean())
        level = power.sqrt().clamp(min=SILENCE_RMS)
        return dataclasses.replace(batch, mixture=batch.mixture / level, target=batch.target / level)

    def _divided(self, batch: Batch) -> list[Batch]:
        """The parts that are accumulated: every n-th crop, so that crops half a batch apart stay together."""
        count = self.config.gradient_accumulation_steps
        if len(batch.mixture) % count:
            raise ConfigError(
                f"accumulate={count}: a worker's {len(batch.mixture)} crops cannot be divided by it; "
                "change it, or crops.batch_size"
            )
        if count == 1:
            return [batch]
        return [
            dataclasses.replace(batch, mixture=batch.mixture[first::count], target=batch.target[first::count])
            for first in range(count)
        ]

    def _set_learning_rates(self) -> None:
        optimizer = self.config.optimizer
        factor = schedule(optimizer, self.step_number, self.num_steps)
        for each, peak in zip(self._optimizers(), (optimizer.lr_separator, optimizer.lr_discriminator), strict=False):
            assert peak is not None
            for group in each.param_groups:
                group["lr"] = peak * factor

    def _refuse_unfit(self, batch: Batch) -> None:
        if self.recipe.paired_batches == "all" and not batch.paired:
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

    def _counts(self, term: str) -> bool:
        """Whether a term has a weight, and its time has come."""
        return term in self.weights and (term != "swap_cycle" or self.step_number >= self.config.swap_start_step)

    def _adversarial_now(self) -> bool:
        return bool(self.discriminators) and self.step_number >= self.config.adversarial_start_step

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16")

    @contextmanager
    def _recorded_outputs(self) -> Iterator[list[Tensor]]:
        """All that the generators give out inside the block, if the balancer wants to know."""
        outputs: list[Tensor] = []

        def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if output.requires_grad:
                outputs.append(output)

        watched = self.generators if self.config.loss_balancer.active else ()
        handles = [self._wrapped[name].register_forward_hook(record) for name in watched]
        try:
            yield outputs
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _reducing(self, names: Iterable[str], last: bool) -> Iterator[None]:
        """Let data-parallel modules reduce their gradients in the last part of a batch only."""
        with ExitStack() as stack:
            for module in (self._wrapped[name] for name in names):
                if not last and isinstance(module, DistributedDataParallel):
                    stack.enter_context(module.no_sync())
            yield

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._generator_optimizer, *([self._discriminator_optimizer] if self.discriminators else [])]

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


def _energies(estimate: Tensor, mixture: Tensor) -> Tensor:
    """Of estimates `(batch, targets, channels, time)`, of what they leave (mean over targets), of mixtures: `(3,)`."""
    removed = (mixture.unsqueeze(1) - estimate).square().sum() / estimate.shape[1]
    return torch.stack([estimate.square().sum(), removed, mixture.square().sum()])


def _means(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean over the parts of a batch of what each of them tells under a name."""
    return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}


def _mixed(seed: int, step: int) -> int:
    """One 63-bit number from two, spread by the golden ratio's multiplier."""
    return (seed * 0x9E3779B97F4A7C15 + step) % 2**63
