"""What a cycle-GAN is told, and the presets that fill what it is not told."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from cyclesep.cyclegan.collapse_monitor import CollapseConfig
from cyclesep.cyclegan.discriminator_input import DiscriminatorInputConfig
from cyclesep.cyclegan.loss_balancer import LossBalancerConfig
from cyclesep.cyclegan.losses import AdversarialForm
from cyclesep.cyclegan.optimization import OptimizerConfig
from cyclesep.cyclegan.recipes import NOTEBOOK, RECIPES, Recipe, RecipeName
from cyclesep.errors import ConfigError
from cyclesep.models.discriminators.discriminator import DiscriminatorConfig
from cyclesep.models.separators.separator import SeparatorConfig


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What is trained and how. Values left empty are filled from the preset when the config is made."""

    recipe: RecipeName = "remix"
    """Passes and terms of a step: `remix`, `cyclegan` (both paired or unpaired), `paired`, `supervised`."""

    preset: Literal["default", "notebook"] = "default"
    """What empty values stand for: the modern defaults, or the networks, losses and optimizers of the original notebook."""

    notebook_exact: bool = False
    """With preset=notebook and recipe=remix: the step that the original notebook's notebook made, in which only the cycle trains."""

    separator: SeparatorConfig = field(default_factory=SeparatorConfig)
    """The network that is trained to be shipped; the `mixer` of the cyclegan recipe is built alike."""

    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The network of each discriminator."""

    adversarial_loss: AdversarialForm | None = None
    """Form of the adversarial terms; empty takes the preset's (modern lsgan, seed relativistic)."""

    adversarial_start_step: Annotated[int, Ge(0)] = 0
    """Step from which on discriminators are trained and adversarial terms count."""

    swap_start_step: Annotated[int, Ge(0)] = 1000
    """Step from which on `swap_cycle` counts, if it has a weight; from scratch it collapses to silence."""

    loss_weights: dict[str, Annotated[float, Ge(0)]] = field(default_factory=dict)
    """Weights that differ from the recipe's own; a term of weight 0 is not computed."""

    loss_balancer: LossBalancerConfig = field(default_factory=LossBalancerConfig)
    """Whether the weights weigh gradients instead of losses."""

    discriminator_input: DiscriminatorInputConfig = field(default_factory=DiscriminatorInputConfig)
    """What real and fake waveforms are brought to before a discriminator compares them."""

    replay_buffer_size: Annotated[int, Ge(0)] = 0
    """Earlier fakes, over all workers, that discriminators see again on unpaired batches (CycleGAN: 50); 0: none."""

    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    """The alarm for a separator that falls silent or lets everything through."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Learning rates, schedule, clipping, moving average."""

    gradient_accumulation_steps: Annotated[int, Gt(0)] = 1
    """Parts into which each worker's share of a batch is divided, one after the other: less memory, the same step."""

    precision: Literal["fp32", "bf16"] = "fp32"
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
        return NOTEBOOK if self.notebook_exact else RECIPES[self.recipe]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every term of the recipe."""
        preset = self.definition.notebook_weights if self.preset == "notebook" else {}
        return {**self.definition.weights, **preset, **self.loss_weights}


_PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "adversarial_loss": "lsgan",
        "discriminator": {"name": "spectral"},
        "optimizer": {
            "lr_separator": 1e-3,
            "lr_discriminator": 5e-4,
            "betas_separator": (0.8, 0.99),
            "warmup_steps": 50,
            "schedule": "cosine",
        },
    },
    "notebook": {
        "adversarial_loss": "relativistic",
        "separator": {"name": "wavegan"},
        "discriminator": {"name": "wavegan"},
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


def _refuse_bad_weights(config: MethodConfig) -> None:
    known = config.definition.weights
    unknown = sorted(set(config.loss_weights) - set(known))
    if unknown:
        raise ConfigError(
            f"loss_weights: recipe={config.recipe} has no term {', '.join(unknown)}; its terms are {', '.join(known)}"
        )
    if not any(config.weights.values()):
        raise ConfigError("loss_weights: every term has weight 0; give at least one of them a positive weight")


def _refuse_what_does_not_fit(config: MethodConfig) -> None:
    if config.notebook_exact and (config.preset, config.recipe) != ("notebook", "remix"):
        raise ConfigError(
            f"notebook_exact=true: is a variant of preset=notebook with recipe=remix, not of preset={config.preset} with "
            f"recipe={config.recipe}; set those, or leave notebook_exact out"
        )
    low, high = config.discriminator_input.band_hz
    if low >= high:
        raise ConfigError(f"discriminator_input.band_hz=[{low:g}, {high:g}]: is empty; give the lower limit first")
    if config.gradient_accumulation_steps == 1:
        return
    if config.adversarial_loss == "relativistic" and config.definition.discriminators:
        raise ConfigError(
            f"gradient_accumulation_steps={config.gradient_accumulation_steps}: adversarial_loss=relativistic compares with the mean over the whole batch; "
            "set adversarial_loss=lsgan, or gradient_accumulation_steps=1"
        )
    if config.separator.original_layers:
        raise ConfigError(
            f"gradient_accumulation_steps={config.gradient_accumulation_steps}: separator.original_layers=true normalises over the whole batch; "
            "set one of them back"
        )
