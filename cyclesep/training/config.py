"""Settings of a training run."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from cyclesep.cyclegan.config import MethodConfig
from cyclesep.data.crops.config import CropConfig

Service = Literal["mlflow", "wandb"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run in the folder `output_dir`/`name`; starting the same name again resumes it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "train"
    """Name of the run and of its folder; an existing run of that name is resumed."""
    output_dir: str = "runs"
    """Folder of run folders, shared by all machines, or s3://bucket/prefix."""
    shards: str = "data/shards"
    """Ingested shards (see `cyclesep ingest`): a folder, or s3://bucket/prefix."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("vocals",)
    """Stems to extract, one or several."""
    steps: PositiveInt = 2000
    """Optimizer steps of the separator."""
    seed: NonNegativeInt = 0
    """Random seed of crops, initial weights and everything else."""
    init_from: str | None = None
    """Checkpoint or run, local or in S3, whose complete training state initializes a new run."""
    num_workers: PositiveInt = 1
    """DDP workers (Ray Train), which share each batch."""
    use_gpu: bool | None = None
    """One GPU per worker; none: if the cluster has enough GPUs."""
    scale_up_timeout_minutes: NonNegativeFloat = 0
    """Minutes to wait for an autoscaling cluster to add machines for the workers; 0: they must be available at once."""
    cpus_per_worker: PositiveFloat = 1
    """CPUs that Ray reserves for each worker and its data loader processes; also its number of threads."""
    num_dataloader_workers: NonNegativeInt = 1
    """Processes per worker that prefetch crops; 0: read in the worker itself."""
    validate_every: PositiveInt = 500
    """Steps between validations, each of which writes a checkpoint."""
    num_validation_crops: PositiveInt = 32
    """Fixed crops of the valid split that are used for validation."""
    num_sample_crops: NonNegativeInt = 2
    """Validation crops whose audio and spectrograms are logged at each validation."""
    logger: Service | None = None
    """Also log to `mlflow` (MLFLOW_TRACKING_URI) or `wandb` (WANDB_API_KEY), in addition to TensorBoard."""
    keep_checkpoints: PositiveInt = 1
    """Number of best checkpoints to keep, by validation SDR; the last one is always kept."""
    max_failures: NonNegativeInt = 2
    """How often lost workers are replaced and training resumes from the last checkpoint."""
    crops: CropConfig = field(default_factory=CropConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
