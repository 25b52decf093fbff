"""The training step of all recipes."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cyclesep.cyclegan.batches import micro_batches, scale_to_unit_level, validate_batch
from cyclesep.cyclegan.collapse_monitor import signal_energies
from cyclesep.cyclegan.discriminator_input import discriminator_inputs
from cyclesep.cyclegan.distributed import gradient_sync
from cyclesep.cyclegan.loss_balancer import gradient_norms, record_outputs
from cyclesep.cyclegan.optimization import set_learning_rates, step_if_finite, update_ema
from cyclesep.cyclegan.recipes import FORWARD, DiscriminatorPair
from cyclesep.cyclegan.replay_buffer import replay_fakes
from cyclesep.cyclegan.training_state import TrainingState
from cyclesep.data.crops.dataset import Batch
from cyclesep.errors import ConfigError

# Lower limit of the mixtures' energy in divisions by it.
EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class GeneratorResult:
    """Detached results of the generators on one micro-batch."""

    terms: dict[str, Tensor]
    """Loss terms by name, and their weighted sum as `total`."""
    energies: Tensor
    """See `signal_energies`."""
    gradient_norms: dict[str, Tensor]
    """Norm of each term's gradient at the generator outputs; empty without loss balancer."""
    pairs: dict[str, DiscriminatorPair]
    """Inputs of the discriminators; empty while adversarial terms are inactive."""


class CycleGAN(TrainingState):
    """The networks of a recipe, trained one batch at a time."""

    def step(self, batch: Batch) -> dict[str, float | Tensor]:
        """Update the generators, then the discriminators on the same fakes; return named values, detached.

        A batch with gradients that are not finite updates no weights and is counted as skipped. All ranks skip
        together, because gradients are equal after their reduction. Raises ConfigError for a batch that does not fit
        the recipe, TrainingError if the separator has collapsed and `collapse.fail` is set.
        """
        validate_batch(self.config, batch, consistent=self.separator.consistent, first=self.step_number == 0)
        set_learning_rates(self._optimizers(), self.config.optimizer, self.step_number, self.num_steps)
        batch = scale_to_unit_level(batch, self._ranks.mean)
        parts = micro_batches(batch, self.config.gradient_accumulation_steps)
        # Equal seeds: each micro-batch draws the same random numbers as the whole batch would.
        rngs = [torch.Generator().manual_seed(hash_seed_step(self.seed, self.step_number)) for _ in parts]
        updated, results, values = self._update_generators(parts, rngs, self._active_terms())
        if updated and self._adversarial_active():
            pairs = [result.pairs for result in results]
            pairs = pairs if batch.paired else replay_fakes(self._replay_buffers, pairs, self.step_number)
            for _ in range(self.config.discriminator.steps_per_generator_step):
                discriminator_values = self._update_discriminators(pairs, rngs)
            values |= discriminator_values
        # Last, because it waits for the device.
        values |= self._update_monitors(results, paired=batch.paired)
        self.step_number += 1
        return values | {"steps_skipped": float(self.num_skipped)}

    def _update_generators(
        self, parts: Sequence[Batch], rngs: Sequence[torch.Generator], active: Collection[str]
    ) -> tuple[bool, list[GeneratorResult], dict[str, float | Tensor]]:
        """Update the generators; return whether the gradients were finite, the results by micro-batch, and values."""
        self._generator_optimizer.zero_grad(set_to_none=True)
        results = []
        for index, (part, rng) in enumerate(zip(parts, rngs, strict=True)):
            with gradient_sync(self._parallel_generators.values(), enabled=index == len(parts) - 1):
                results.append(self._backward_generators(part, rng, active, scale=1 / len(parts)))
        updated, norm = step_if_finite(self._generator_optimizer, self.config.optimizer.clip_norm)
        self.num_skipped += not updated
        if updated:
            update_ema(self.ema_separator, self.separator, self.config.optimizer.ema_decay, self.step_number)
        terms = mean_by_name([result.terms for result in results])
        values: dict[str, float | Tensor] = {f"separator/{name}": term for name, term in terms.items()}
        return updated, results, values | {"separator/gradient_norm": norm}

    def _backward_generators(
        self, batch: Batch, rng: torch.Generator, active: Collection[str], *, scale: float
    ) -> GeneratorResult:
        """Compute the loss terms of a micro-batch and the gradients of their weighted sum, multiplied by `scale`."""
        balanced = self._parallel_generators.values() if self._balancer.active else ()
        with self._autocast(), record_outputs(balanced) as generator_outputs:
            outputs = FORWARD[self.recipe.forward](self._parallel_generators, batch, active)
            terms, pairs = outputs.terms, {}
            if self._adversarial_active():
                pairs = discriminator_inputs(
                    self.config, outputs.pairs, rng, paired=batch.paired, sample_rate=self.sample_rate
                )
                terms = terms | self._adversarial_loss.generator_terms(pairs, rng, active)
        if not terms:
            raise ConfigError(
                f"loss_weights: none of {', '.join(self.weights)} is active in step {self.step_number}; "
                "regression terms need paired crops, adversarial terms start at adversarial_start_step"
            )
        norms = gradient_norms(terms, generator_outputs) if self._balancer.active else {}
        weights = self._balancer.weights(terms)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        (total * scale).backward()
        return GeneratorResult(
            terms={name: term.detach() for name, term in (terms | {"total": total}).items()},
            energies=signal_energies(outputs.estimate.detach().to(batch.mixture.dtype), batch.mixture),
            gradient_norms=norms,
            pairs={name: dataclasses.replace(pair, fake=pair.fake.detach()) for name, pair in pairs.items()},
        )

    def _update_discriminators(
        self, micro_batch_pairs: Sequence[Mapping[str, DiscriminatorPair]], rngs: Sequence[torch.Generator]
    ) -> dict[str, float | Tensor]:
        """Update all discriminators with one backward pass per micro-batch; return values to log."""
        self._discriminator_optimizer.zero_grad(set_to_none=True)
        metrics = []
        for index, (pairs, rng) in enumerate(zip(micro_batch_pairs, rngs, strict=True)):
            is_last = index == len(micro_batch_pairs) - 1
            with gradient_sync(self._parallel_discriminators.values(), enabled=is_last):
                terms, part_metrics = self._adversarial_loss.discriminator_terms(
                    pairs, rng, step=self.step_number, autocast=self._autocast()
                )
                total = torch.stack(list(terms.values())).sum()
                (total / len(micro_batch_pairs)).backward()
            metrics.append(part_metrics)
        updated, norm = step_if_finite(self._discriminator_optimizer, self.config.optimizer.clip_norm)
        self.num_skipped += not updated
        return {**mean_by_name(metrics), "discriminators/gradient_norm": norm}

    def _update_monitors(self, results: Sequence[GeneratorResult], *, paired: bool) -> dict[str, float | Tensor]:
        """Update the loss balancer and the collapse monitor with the means over all ranks; return values to log."""
        energies = torch.stack([result.energies for result in results]).sum(0)
        output, removed, mixture = self._ranks.mean(energies).tolist()
        values: dict[str, float | Tensor] = {}
        if self._balancer.active:
            norms = mean_by_name([result.gradient_norms for result in results])
            weights = self._balancer.weights(norms)
            values = {f"balancer/{name}": weights[name] for name in norms}
            self._balancer.observe(norms)
        mixture = max(mixture, EPSILON)
        self._monitor.observe(output / mixture, removed / mixture, paired=paired)
        return values | self._monitor.metrics()

    def _active_terms(self) -> set[str]:
        """Return the loss terms with a positive weight whose start step has been reached."""
        inactive = set() if self._adversarial_active() else {"adversarial", "feature_matching"}
        if self.step_number < self.config.swap_start_step:
            inactive.add("swap_cycle")
        return set(self.weights) - inactive

    def _adversarial_active(self) -> bool:
        return bool(self.discriminators) and self.step_number >= self.config.adversarial_start_step

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16")


def mean_by_name(values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean over micro-batches of each named value."""
    return {name: torch.stack([each[name] for each in values]).mean(0) for name in values[0]}


def hash_seed_step(seed: int, step: int) -> int:
    """Return a 63-bit hash of a seed and a step, using the multiplier of Fibonacci hashing."""
    return (seed * 0x9E3779B97F4A7C15 + step) % 2**63
