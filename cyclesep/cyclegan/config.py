"""Configuration of the training method: recipes, presets, losses and optimizers."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from cyclesep.errors import ConfigError
from cyclesep.models.discriminators.config import DiscriminatorConfig
from cyclesep.models.separators.config import SeparatorConfig

RecipeName = Literal["remix", "cyclegan", "paired", "supervised"]
AdversarialForm = Literal["lsgan", "relativistic", "hinge"]
Hertz = Annotated[float, Gt(0)]
Rate = Annotated[float, Gt(0)]
Betas = tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]]

# Names of the discriminators.
TARGET_DISCRIMINATOR, MIXTURE_DISCRIMINATOR = "target_discriminator", "mixture_discriminator"


@dataclass(frozen=True, kw_only=True)
class RecipeSpec:
    """The networks, data and loss weights of a recipe; recipes.py has its forward pass."""

    forward: RecipeName | Literal["notebook"]
    """Name of the forward pass."""
    generators: tuple[str, ...]
    discriminators: tuple[str, ...]
    paired_batches: Literal["none", "some", "all"]
    """Which batches must be paired."""
    weights: Mapping[str, float]
    """Loss weights of the default preset."""
    notebook_weights: Mapping[str, float]
    """Loss weights of the notebook preset that differ from the default preset's."""


_REGRESSION = {"reconstruction": 10.0, "spectral": 1.0, "si_sdr": 0.0}
_NO_REGRESSION = dict.fromkeys(_REGRESSION, 0.0)
_ADVERSARIAL = {"adversarial": 1.0, "feature_matching": 0.0}
_CYCLE = {"cycle": 10.0, "identity": 0.5}

RECIPES: Mapping[RecipeName, RecipeSpec] = MappingProxyType(
    {
        "remix": RecipeSpec(
            forward="remix",
            generators=("separator",),
            discriminators=(TARGET_DISCRIMINATOR, MIXTURE_DISCRIMINATOR),
            paired_batches="none",
            weights=_ADVERSARIAL | {"bootstrap": 10.0, "cycle": 0.0, "identity": 0.5, "swap_cycle": 0.0} | _REGRESSION,
            notebook_weights=_CYCLE | {"bootstrap": 0.0} | _NO_REGRESSION,
        ),
        "cyclegan": RecipeSpec(
            forward="cyclegan",
            generators=("separator", "mixer"),
            discriminators=(TARGET_DISCRIMINATOR, MIXTURE_DISCRIMINATOR),
            paired_batches="none",
            weights=_ADVERSARIAL | {"cycle": 10.0, "identity": 5.0} | _REGRESSION,
            notebook_weights=_NO_REGRESSION,
        ),
        "paired": RecipeSpec(
            forward="paired",
            generators=("separator",),
            discriminators=(TARGET_DISCRIMINATOR,),
            paired_batches="some",
            weights={"adversarial": 0.1, "feature_matching": 0.2, "identity": 1.0} | _REGRESSION,
            notebook_weights={"adversarial": 1.0, "feature_matching": 0.0, "spectral": 0.0},
        ),
        "supervised": RecipeSpec(
            forward="supervised",
            generators=("separator",),
            discriminators=(),
            paired_batches="all",
            weights=_REGRESSION,
            notebook_weights={"spectral": 0.0},
        ),
    }
)

NOTEBOOK_EXACT = RecipeSpec(
    forward="notebook",
    generators=("separator",),
    discriminators=(TARGET_DISCRIMINATOR, MIXTURE_DISCRIMINATOR),
    paired_batches="all",
    weights=_ADVERSARIAL | _CYCLE,
    notebook_weights={},
)


@dataclass(frozen=True, kw_only=True)
class LossBalancerConfig:
    """Weighting of loss terms by the norm of their gradients."""

    enabled: bool = False
    """Treat each term's weight as its share of the total gradient instead of a factor of its loss."""

    adversarial_gradient_share: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of the gradient that the adversarial and feature-matching terms have together; empty: as weighted."""

    decay: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Decay per step of the moving averages of gradient norms."""

    @property
    def active(self) -> bool:
        return self.enabled or self.adversarial_gradient_share is not None


@dataclass(frozen=True, kw_only=True)
class DiscriminatorInputConfig:
    """Normalization of the real and fake waveforms that discriminators receive."""

    normalize_level: bool = True
    """Scale each waveform to the same level, except waveforms that are much quieter than the mixtures."""

    band_limit: Literal["unpaired", "always", "never"] = "unpaired"
    """When to limit waveforms to `band_hz`: for unpaired batches only, always, or never."""

    band_hz: tuple[Hertz, Hertz] = (40.0, 16000.0)
    """Pass band in Hz: above rumble and DC offsets, below the cut-off of lossy formats."""


@dataclass(frozen=True, kw_only=True)
class CollapseConfig:
    """Detection of a separator that outputs silence or the whole mixture."""

    min_output_energy: Annotated[float, Ge(0)] = 1e-3
    """Silence threshold: average energy of the estimates as a fraction of the mixtures' energy."""

    output_patience: Annotated[int, Gt(0)] = 100
    """Consecutive steps below `min_output_energy` before a warning."""

    min_removed_energy: Annotated[float, Ge(0)] = 0.1
    """Pass-through threshold on unpaired batches: average energy removed from the mixtures as a fraction of their
    energy; use 0 if the targets make up nearly all of the mixtures."""

    removed_patience: Annotated[int, Gt(0)] = 500
    """Consecutive unpaired steps below `min_removed_energy` before a warning."""

    fail: bool = False
    """End the run with an error instead of a warning."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam for generators and discriminators, and the moving average of the separator's weights."""

    lr_separator: Rate | None = None
    """Peak learning rate of the generators; empty: the preset's (default 0.001, notebook 0.0002)."""

    lr_discriminator: Rate | None = None
    """Peak learning rate of the discriminators; empty: the preset's (default 0.0005, notebook 0.0002)."""

    betas_separator: Betas | None = None
    """Adam betas of the generators; empty: the preset's (default 0.8, 0.99; notebook 0.5, 0.9)."""

    betas_discriminator: Betas = (0.5, 0.9)
    """Adam betas of the discriminators."""

    warmup_steps: Annotated[int, Ge(0)] | None = None
    """Steps of linear learning-rate warm-up; empty: the preset's (default 50, notebook 0)."""

    schedule: Literal["constant", "cosine"] | None = None
    """Learning rate after the warm-up: constant, or cosine decay to 0 at the last step; empty: the preset's (default
    cosine, notebook constant)."""

    clip_norm: Annotated[float, Gt(0)] = 5.0
    """Gradient norm at which the gradients of generators and of discriminators are clipped."""

    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay per step of the moving average of the separator's weights; the average is validated and saved."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Training method: networks, losses and optimizers. The preset fills empty values when the config is built."""

    recipe: RecipeName = "remix"
    """Forward passes and losses of a step: `remix`, `cyclegan` (both paired or unpaired), `paired` or `supervised`."""

    preset: Literal["default", "notebook"] = "default"
    """Source of empty values: current defaults, or the networks, losses and optimizers of the original notebook."""

    notebook_exact: bool = False
    """With preset=notebook and recipe=remix: the exact training step of the original notebook, where only the cycle
    loss has a gradient."""

    separator: SeparatorConfig = field(default_factory=SeparatorConfig)
    """The trained separator; the `mixer` of recipe=cyclegan has the same architecture."""

    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The network of each discriminator."""

    adversarial_loss: AdversarialForm | None = None
    """Form of the adversarial losses; empty: the preset's (default lsgan, notebook relativistic)."""

    adversarial_start_step: Annotated[int, Ge(0)] = 0
    """First step with discriminator training and adversarial terms."""

    swap_start_step: Annotated[int, Ge(0)] = 1000
    """First step of the `swap_cycle` term, if its weight is positive; from scratch it leads to collapse to silence."""

    loss_weights: dict[str, Annotated[float, Ge(0)]] = field(default_factory=dict)
    """Loss weights that override the recipe's; terms with weight 0 are not computed."""

    loss_balancer: LossBalancerConfig = field(default_factory=LossBalancerConfig)
    """Weighting of loss terms by the norm of their gradients."""

    discriminator_input: DiscriminatorInputConfig = field(default_factory=DiscriminatorInputConfig)
    """Normalization of the real and fake waveforms that discriminators receive."""

    replay_buffer_size: Annotated[int, Ge(0)] = 0
    """Earlier fakes, over all workers, that are reused for discriminator training on unpaired batches (CycleGAN uses
    50); 0 disables the buffer."""

    collapse: CollapseConfig = field(default_factory=CollapseConfig)
    """Detection of a separator that outputs silence or the whole mixture."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Learning rates, schedule, gradient clipping and moving average."""

    gradient_accumulation_steps: Annotated[int, Gt(0)] = 1
    """Micro-batches per step on each worker: less memory, the same result."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the networks under bfloat16 autocast; losses, spectra and optimizers stay in float32."""

    def __post_init__(self) -> None:
        for name, value in _PRESETS[self.preset].items():
            own = getattr(self, name)
            # The dataclass is frozen; only this method fills its empty fields.
            object.__setattr__(self, name, _with_defaults(own, value) if isinstance(value, dict) else own or value)
        _validate_weights(self)
        _validate_combinations(self)

    @property
    def recipe_spec(self) -> RecipeSpec:
        """Networks, data and loss weights of the recipe."""
        return NOTEBOOK_EXACT if self.notebook_exact else RECIPES[self.recipe]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of every loss term of the recipe."""
        preset = self.recipe_spec.notebook_weights if self.preset == "notebook" else {}
        return {**self.recipe_spec.weights, **preset, **self.loss_weights}


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


def _with_defaults(config: Any, values: Mapping[str, Any]) -> Any:
    empty = {name: value for name, value in values.items() if getattr(config, name) is None}
    return dataclasses.replace(config, **empty)


def _validate_weights(config: MethodConfig) -> None:
    known = config.recipe_spec.weights
    unknown = sorted(set(config.loss_weights) - set(known))
    if unknown:
        raise ConfigError(
            f"loss_weights: recipe={config.recipe} has no term {', '.join(unknown)}; its terms are {', '.join(known)}"
        )
    if not any(config.weights.values()):
        raise ConfigError("loss_weights: every term has weight 0; set at least one positive weight")


def _validate_combinations(config: MethodConfig) -> None:
    if config.notebook_exact and (config.preset, config.recipe) != ("notebook", "remix"):
        raise ConfigError(
            "notebook_exact=true: requires preset=notebook and recipe=remix, "
            f"not preset={config.preset} and recipe={config.recipe}"
        )
    low, high = config.discriminator_input.band_hz
    if low >= high:
        raise ConfigError(f"discriminator_input.band_hz=[{low:g}, {high:g}]: the lower limit must come first")
    parts = config.gradient_accumulation_steps
    if parts == 1:
        return
    if config.adversarial_loss == "relativistic" and config.recipe_spec.discriminators:
        raise ConfigError(
            f"gradient_accumulation_steps={parts}: adversarial_loss=relativistic needs the mean over the whole batch; "
            "set adversarial_loss=lsgan or gradient_accumulation_steps=1"
        )
    if config.separator.original_layers:
        raise ConfigError(
            f"gradient_accumulation_steps={parts}: separator.original_layers=true uses batch norm over the whole "
            "batch; set gradient_accumulation_steps=1 or separator.original_layers=false"
        )
