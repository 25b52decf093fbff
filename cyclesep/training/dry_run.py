"""Steps of a run in this process, before any worker is started: what cannot work is told at once, and once."""

from cyclesep.checkpoints.training_state import load_training_state
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.crops.dataset import Batch, CropStream
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError
from cyclesep.training.config import TrainConfig

# The recipes put one crop's target into another crop's mixture. Longer crops would tell no more, and take longer.
_NUM_CROPS = 2
_MAX_SAMPLES = 16384


def dry_run_step(config: TrainConfig, reader: ShardReader) -> None:
    """Build the networks of a run on the CPU, load what they start from and take a step on the start of two crops,
    and one more with the terms that come later in the run.

    Raises ConfigError for settings that do not fit each other or the shards, CheckpointError for a state that cannot be
    loaded, ShardError for crops that cannot be read.
    """
    _refuse_unfit_crops(config)
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
        told = " ".join(str(problem).split())[:200]
        raise ConfigError(
            f"cyclegan: a step on crops of crops.crop_seconds={config.crops.crop_seconds:g} fails ({told}); "
            "make the crops longer, or choose other networks"
        ) from problem


def _refuse_unfit_crops(config: TrainConfig) -> None:
    """What a step would refuse too, but perhaps not the first one."""
    method, pairing = config.method, config.crops.pairing
    pairs = method.recipe_spec.paired_batches
    if (pairs == "all" and pairing not in ("paired", "on_the_fly")) or (pairs == "some" and pairing == "unpaired"):
        asked = "notebook_exact=true" if method.notebook_exact else f"recipe={method.recipe}"
        raise ConfigError(
            f"method.{asked} needs targets aligned with their mixtures{' at every step' * (pairs == 'all')}, which "
            f"crops.pairing={pairing} does not give; choose method.recipe=remix, or crops.pairing=paired or on_the_fly"
        )
    share = config.crops.batch_size // config.num_workers
    if share % method.gradient_accumulation_steps:
        raise ConfigError(
            f"method.gradient_accumulation_steps={method.gradient_accumulation_steps}: each of {config.num_workers} workers has {share} of the "
            f"{config.crops.batch_size} crops of a batch, which cannot be divided by it; change crops.batch_size"
        )
