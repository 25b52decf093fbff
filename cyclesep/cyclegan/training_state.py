"""Networks, optimizers and counters of a training run, and their state for an exact resume."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cyclesep.cyclegan.adversarial import AdversarialLoss
from cyclesep.cyclegan.collapse_monitor import CollapseMonitor
from cyclesep.cyclegan.config import TARGET_DISCRIMINATOR, MethodConfig
from cyclesep.cyclegan.distributed import DistributedContext
from cyclesep.cyclegan.loss_balancer import LossBalancer
from cyclesep.cyclegan.optimization import adam
from cyclesep.cyclegan.replay_buffer import ReplayBuffer
from cyclesep.models.discriminators.discriminator import build_discriminator
from cyclesep.models.separators.separator import Separator, build_separator


class TrainingState:
    """Networks of a recipe and everything that changes while they are trained.

    `separator` is the trained network, `ema_separator` its moving average in evaluation mode.
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
        """Build networks and optimizers on `device`; equal seeds give equal weights on all ranks.

        `wrap` makes a module data-parallel, `ranks` are the workers that share each batch (None: a single worker),
        `num_steps` is the length of the run for the learning-rate schedule (None: constant after the warm-up).
        """
        self.config = config
        self.recipe = config.recipe_spec
        self.weights = {name: weight for name, weight in config.weights.items() if weight > 0}
        self.sample_rate = sample_rate
        self.device = torch.device(device)
        self.num_steps = num_steps
        self.seed = seed
        self.step_number = 0
        self.num_skipped = 0
        self._ranks = ranks = ranks or DistributedContext()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generators = self._build_generators(len(targets), channels)
            self.discriminators = self._build_discriminators(len(targets), channels)
        self.ema_separator = copy.deepcopy(self.separator).eval().requires_grad_(False)
        # Forward passes with gradients use the data-parallel modules.
        self._parallel_generators = {name: wrap(module) for name, module in self.generators.items()}
        self._parallel_discriminators = {name: wrap(module) for name, module in self.discriminators.items()}
        optimizer = config.optimizer
        assert optimizer.lr_separator is not None
        assert optimizer.lr_discriminator is not None
        self._generator_optimizer = adam(self.generators, optimizer.lr_separator, optimizer.betas_separator)
        self._discriminator_optimizer = adam(
            self.discriminators, optimizer.lr_discriminator, optimizer.betas_discriminator
        )
        self._adversarial_loss = AdversarialLoss(config, self.discriminators, self._parallel_discriminators, ranks)
        self._balancer = LossBalancer(config.loss_balancer, self.weights, ranks)
        self._monitor = CollapseMonitor(config.collapse, log_warnings=ranks.rank == 0)
        self._replay_buffers = {
            name: ReplayBuffer(config.replay_buffer_size, seed=seed + index, ranks=ranks)
            for index, name in enumerate(self.discriminators)
            if config.replay_buffer_size
        }

    @property
    def separator(self) -> Separator:
        """The separator without its data-parallel wrapper."""
        return self.generators["separator"]

    @property
    def last_schedule_step(self) -> int:
        """The first step in which all loss terms of the run are active."""
        starts = [self.config.adversarial_start_step] if self.discriminators else [0]
        return max(starts + [self.config.swap_start_step] * ("swap_cycle" in self.weights))

    def gather_state(self) -> None:
        """Gather the state that is distributed over ranks; collective, required before `state_dict`."""
        for buffer in self._replay_buffers.values():
            buffer.gather_state()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a bit-exact resume: tensors, numbers and containers of them."""
        return {
            "step": self.step_number,
            "skipped": self.num_skipped,
            "networks": {name: module.state_dict() for name, module in (self.generators | self.discriminators).items()},
            "ema_separator": self.ema_separator.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers()],
            "balancer": self._balancer.state_dict(),
            "collapse": self._monitor.state_dict(),
            "replay": {name: buffer.state_dict() for name, buffer in self._replay_buffers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state of the same config; raises KeyError, ValueError or RuntimeError for another config."""
        networks = self.generators | self.discriminators
        if set(state["networks"]) != set(networks):
            raise ValueError(f"the state has {sorted(state['networks'])}, this recipe trains {sorted(networks)}")
        for name, module in networks.items():
            module.load_state_dict(state["networks"][name])
        self.ema_separator.load_state_dict(state["ema_separator"])
        for optimizer, optimizer_state in zip(self._optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        self._balancer.load_state_dict(state["balancer"], self.device)
        self._monitor.load_state_dict(state["collapse"])
        for name, buffer in self._replay_buffers.items():
            buffer.load_state_dict(state["replay"].get(name, {}), self.device)
        self.step_number, self.num_skipped = state["step"], state["skipped"]

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self._generator_optimizer, *([self._discriminator_optimizer] if self.discriminators else [])]

    def _build_generators(self, num_targets: int, channels: int) -> dict[str, Separator]:
        outputs = {"separator": num_targets, "mixer": 1}
        return {
            name: build_separator(
                self.config.separator, targets=outputs[name], channels=channels, sample_rate=self.sample_rate
            ).to(self.device)
            for name in self.recipe.generators
        }

    def _build_discriminators(self, num_targets: int, channels: int) -> dict[str, nn.Module]:
        """Build the discriminators of the recipe; none if all adversarial terms have weight 0."""
        if not {"adversarial", "feature_matching"} & set(self.weights):
            return {}
        return {
            name: build_discriminator(
                self.config.discriminator,
                # The target discriminator receives all targets as channels.
                channels=channels * num_targets if name == TARGET_DISCRIMINATOR else channels,
                sample_rate=self.sample_rate,
            ).to(self.device)
            for name in self.recipe.discriminators
        }
