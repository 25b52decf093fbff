"""What a cycle-GAN is told, and the presets that fill what it is not told."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from cyclesep.cyclegan.collapse_monitor import CollapseConfig
from cyclesep.cyclegan.discriminator_input import MatchingConfig
from cyclesep.cyclegan.loss_balancer import BalancerConfig
from cyclesep.cyclegan.losses import AdversarialForm
from cyclesep.cyclegan.optimization import OptimizerConfig
from cyclesep.cyclegan.recipes import NOTEBOOK, RECIPES, Recipe, RecipeName
from cyclesep.errors import ConfigError
from cyclesep.models.discriminators.discriminator import DiscriminatorConfig
from cyclesep.models.separators.separator import SeparatorConfig


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig:
    """What is trained and how. Values left empty are filled from the preset when the config is made."""

    recipe: RecipeName = "remix"
    """Passes and terms of a step: `remix`, `cyclegan` (both paired or unpaired), `paired`, `supervised`."""

    preset: Literal["modern", "seed"] = "modern"
    """What empty values stand for: the modern defaults, or the networks, losses and optimizers of the ancestor."""

    seed_exact: bool = False
    """With preset=seed and recipe=remix: the step that the ancestor's notebook made, in which only the cycle trains."""

    separator: SeparatorConfig = field(default_factory=SeparatorConfig)
    """The network that is trained to be shipped; the `mixer` of the cyclegan recipe is built alike."""

    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The network of each discriminator."""

    adversarial: AdversarialForm | None = None
    """Form of the adversarial terms; empty takes the preset's (modern lsgan, seed relativistic)."""

    adversarial_from_step: Annotated[int, Ge(0)] = 0
    """Step from which on discriminators are trained and adversarial terms count."""

    swap_from_step: Annotated[int, Ge(0)] = 1000
    """Step from which on `swap_cycle` counts, if it has a weight; from scratch it collapses to silence."""

    loss_weights: dict[str, Annotated[float, Ge(0)]] = field(default_factory=dict)
    """Weights that differ from the recipe's own; a term of weight 0 is not computed."""

    balancer: BalancerConfig = field(default_factory=BalancerConfig)
    """Whether the weights weigh gradients instead of losses."""

    matching: MatchingConfig = field(default_factory=MatchingConfig)
    """What real and fake waveforms are brought to before a discriminator compares them."""

    replay_pool: Annotated[int, Ge(0)] = 0
    """Earlier fakes, over all workers, that discriminators see again on unpaired batches (CycleGAN: 50); 0: none."""

    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    """The alarm for a separator that falls silent or lets everything through."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Learning rates, schedule, clipping, moving average."""

    accumulate: Annotated[int, Gt(0)] = 1
    """Parts into which each worker's share of a batch is divided, one after the other: less memory, the same step."""

    bfloat16: bool = False
    """Run the networks under bfloat16 autocast; losses, spectra and optimizers stay in float32."""

    def __post_init__(self) -> None:
        for name, value in _PRESETS[self.preset].items():
            own = getattr(self, name)
            # The dataclass is frozen for its users; while it is being made, its own empty fields are filled.
            object.__setattr__(self, name, _filled(own, value) if isinstance(value, dict) else own or value)
        _refuse_bad_weights(self)
        _refuse_what_does_not_fit(self)

    @property
    def definition(self) -> Recipe:
        """The recipe that is meant."""
        return NOTEBOOK if self.seed_exact else RECIPES[self.recipe]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term of the recipe."""
        preset = self.definition.seed_weights if self.preset == "seed" else {}
        return {**self.definition.weights, **preset, **self.loss_weights}


_PRESETS: dict[str, dict[str, Any]] = {
    "modern": {
        "adversarial": "lsgan",
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
    known = config.definition.weights
    unknown = sorted(set(config.loss_weights) - set(known))
    if unknown:
        raise ConfigError(
            f"loss_weights: recipe={config.recipe} has no term {', '.join(unknown)}; its terms are {', '.join(known)}"
        )
    if not any(config.weights.values()):
        raise ConfigError("loss_weights: every term has weight 0; give at least one of them a positive weight")


def _refuse_what_does_not_fit(config: CycleGANConfig) -> None:
    if config.seed_exact and (config.preset, config.recipe) != ("seed", "remix"):
        raise ConfigError(
            f"seed_exact=true: is a variant of preset=seed with recipe=remix, not of preset={config.preset} with "
            f"recipe={config.recipe}; set those, or leave seed_exact out"
        )
    low, high = config.matching.band_hz
    if low >= high:
        raise ConfigError(f"matching.band_hz=[{low:g}, {high:g}]: is empty; give the lower limit first")
    if config.accumulate == 1:
        return
    if config.adversarial == "relativistic" and config.definition.discriminators:
        raise ConfigError(
            f"accumulate={config.accumulate}: adversarial=relativistic compares with the mean over the whole batch; "
            "set adversarial=lsgan, or accumulate=1"
        )
    if config.separator.exact:
        raise ConfigError(
            f"accumulate={config.accumulate}: separator.exact=true normalises over the whole batch; "
            "set one of them back"
        )
