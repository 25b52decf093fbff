"""What a training run is told."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from cyclesep.cyclegan.config import MethodConfig
from cyclesep.data.crops.config import CropConfig

Service = Literal["mlflow", "wandb"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; `storage`/`name` is its folder, and the same name goes on where it stopped."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "train"
    """Name of the run and of its folder; the same name goes on where that run stopped."""
    output_dir: str = "runs"
    """Holds run folders: a folder, on several machines one that all of them share, or s3://bucket/prefix."""
    shards: str = "data/shards"
    """Ingested shards (see `cyclesep ingest`): a folder, or s3://bucket/prefix."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("vocals",)
    """Stems to extract, one or several."""
    steps: PositiveInt = 2000
    """Optimizer steps of the separator."""
    seed: NonNegativeInt = 0
    """Decides the crops, the initial weights and every other draw."""
    init_from: str | None = None
    """Checkpoint or run, here or in S3, whose whole training state a new run starts from."""
    num_workers: PositiveInt = 1
    """DDP workers (Ray Train); the global batch is shared among them."""
    use_gpu: bool | None = None
    """One GPU per worker; none means: if the cluster has as many."""
    scale_up_timeout_minutes: NonNegativeFloat = 0
    """How long a cluster that grows on demand has for the workers' machines; 0: they must be there at once."""
    cpus_per_worker: PositiveFloat = 1
    """CPUs that Ray reserves for each worker and its loader processes; also its number of threads."""
    num_dataloader_workers: NonNegativeInt = 1
    """Processes per worker that read crops ahead; 0 reads in the worker itself."""
    validate_every: PositiveInt = 500
    """Steps between validations; each writes a checkpoint."""
    num_validation_crops: PositiveInt = 32
    """Fixed crops of the valid split that are separated at each validation."""
    num_sample_crops: NonNegativeInt = 2
    """Validation crops whose audio and spectrograms are shown in TensorBoard at each validation."""
    logger: Service | None = None
    """Follow the run in `mlflow` (MLFLOW_TRACKING_URI) or `wandb` (WANDB_API_KEY) as well as in TensorBoard."""
    keep_checkpoints: PositiveInt = 1
    """Checkpoints kept, best first by validation SDR; the last is always kept as well."""
    max_failures: NonNegativeInt = 2
    """Times that lost workers are replaced and training goes on from the last checkpoint."""
    crops: CropConfig = field(default_factory=CropConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
