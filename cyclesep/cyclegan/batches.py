"""Validation, level normalization and division of a batch before a training step."""

import dataclasses

from cyclesep.cyclegan.config import MethodConfig
from cyclesep.cyclegan.distributed import Reducer
from cyclesep.data.crops.dataset import Batch
from cyclesep.errors import ConfigError

# Minimum level by which a batch is divided (-80 dBFS): batches below it do not reach unit level.
SILENCE_RMS = 1e-4
# Lossy stems do not sum exactly to the mixture; this fraction of the mixture's energy may be missing.
MAX_MISSING_ENERGY = 0.1


def validate_batch(config: MethodConfig, batch: Batch, *, consistent: bool, first: bool) -> None:
    """Raise ConfigError if the recipe needs paired batches, or if targets do not sum to the mixture but should.

    `consistent`: whether the separator's estimates sum to the mixture; checked on the `first` batch only.
    """
    if config.recipe_spec.paired_batches == "all" and not batch.paired:
        raise ConfigError(
            f"recipe={config.recipe}: requires targets aligned with their mixtures, but the crops are unpaired; "
            "use recipe=remix or paired crops"
        )
    if first and batch.paired and consistent:
        missing = (batch.mixture - batch.target.sum(1)).square().mean()
        if missing > MAX_MISSING_ENERGY * batch.mixture.square().mean():
            raise ConfigError(
                "separator.mixture_consistency=true: the targets do not sum to the mixture, so the estimates cannot; "
                "set it to false, or add the other stems to the targets"
            )


def scale_to_unit_level(batch: Batch, mean_over_ranks: Reducer) -> Batch:
    """Scale the batch so that its mixtures, over all ranks, have RMS 1; the losses then do not depend on the level."""
    power = mean_over_ranks(batch.mixture.square().mean())
    level = power.sqrt().clamp(min=SILENCE_RMS)
    return dataclasses.replace(batch, mixture=batch.mixture / level, target=batch.target / level)


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """Divide a batch for gradient accumulation: micro-batch i holds every `count`-th crop from crop i.

    Crops half a batch apart stay together (see `roll_half_batch`). Raises ConfigError if the crops cannot be divided.
    """
    if len(batch.mixture) % count:
        raise ConfigError(
            f"gradient_accumulation_steps={count}: a worker's {len(batch.mixture)} crops cannot be divided by it; "
            "change gradient_accumulation_steps or crops.batch_size"
        )
    if count == 1:
        return [batch]
    return [
        dataclasses.replace(batch, mixture=batch.mixture[first::count], target=batch.target[first::count])
        for first in range(count)
    ]
