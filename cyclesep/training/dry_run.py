"""Training steps on the driver before workers start, so that invalid settings are reported once and early."""

from cyclesep.checkpoints.save_restore import load_training_state
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.crops.dataset import Batch, CropStream
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig

# Recipes mix targets of one crop into another, so at least two crops are needed; longer ones would only take longer.
_NUM_CROPS = 2
_MAX_SAMPLES = 16384


def dry_run_step(config: TrainConfig, reader: ShardReader) -> None:
    """Build the networks of a run on the CPU, load `init_from`, and run a step on the beginning of two crops.

    If loss terms start later in the run, a second step includes them.

    Raises ConfigError for settings that do not fit each other or the shards, CheckpointError if the state cannot be
    loaded, ShardError if crops cannot be read.
    """
    _check_crops(config)
    stream = CropStream(
        reader, config.crops, targets=config.targets, seed=config.seed, world_size=config.num_workers, num_steps=1
    )
    try:
        model = CycleGAN(
            config.method,
            targets=config.targets,
            channels=reader.manifest.channels,
            sample_rate=reader.manifest.sample_rate,
            num_steps=config.steps,
            seed=config.seed,
        )
        if config.init_from is not None:
            load_training_state(config.init_from, model)
        batch = stream.batch(0)
        num_crops = _NUM_CROPS * config.method.gradient_accumulation_steps
        crops = Batch(
            mixture=batch.mixture[:num_crops, ..., :_MAX_SAMPLES],
            target=batch.target[:num_crops, ..., :_MAX_SAMPLES],
            paired=batch.paired,
        )
        model.step(crops)
        if model.step_number < model.last_schedule_step:
            model.step_number = model.last_schedule_step
            model.step(crops)
    except (RuntimeError, ValueError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ConfigError(
            f"method: a step on crops of crops.crop_seconds={config.crops.crop_seconds:g} failed ({reason}); "
            "use longer crops, or other networks"
        ) from problem


def _check_crops(config: TrainConfig) -> None:
    """Check conditions that a training step also checks, but perhaps not in the first step."""
    method, pairing = config.method, config.crops.pairing
    pairs = method.recipe_spec.paired_batches
    if (pairs == "all" and pairing not in ("paired", "on_the_fly")) or (pairs == "some" and pairing == "unpaired"):
        asked = "notebook_exact=true" if method.notebook_exact else f"recipe={method.recipe}"
        raise ConfigError(
            f"method.{asked} needs targets aligned with their mixtures{' at every step' * (pairs == 'all')}, which "
            f"crops.pairing={pairing} does not provide; use method.recipe=remix, or crops.pairing=paired or on_the_fly"
        )
    crops_per_worker = config.crops.batch_size // config.num_workers
    if crops_per_worker % method.gradient_accumulation_steps:
        raise ConfigError(
            f"method.gradient_accumulation_steps={method.gradient_accumulation_steps}: does not divide the "
            f"{crops_per_worker} crops that each of {config.num_workers} workers has of a batch of "
            f"{config.crops.batch_size}; change crops.batch_size"
        )
    remixes = method.recipe == "remix" and not method.notebook_exact and pairing != "unpaired"
    if (remixes or method.weights.get("swap_cycle", 0) > 0) and crops_per_worker == method.gradient_accumulation_steps:
        raise ConfigError(
            f"crops.batch_size={config.crops.batch_size}: gives each step of a worker one crop, but method.recipe="
            f"{method.recipe} exchanges targets between crops; increase it, or lower num_workers or "
            "method.gradient_accumulation_steps"
        )
