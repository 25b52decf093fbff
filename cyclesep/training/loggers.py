"""Loggers of metrics, audio and spectrograms: TensorBoard, Ray's metrics, and MLflow or Weights & Biases."""

import logging
import os
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import ray
import soundfile
from numpy.typing import NDArray
from ray.util.metrics import Gauge
from torch.utils.tensorboard import SummaryWriter
from typing_extensions import override

from cyclesep.audio.audio_io import Samples
from cyclesep.checkpoints.run_folder import RunFolder
from cyclesep.errors import ConfigError
from cyclesep.storage.atomic_io import write_text
from cyclesep.training.config import Service

Image = NDArray[np.uint8]
PROJECT = "cyclesep"
# Limit for event files, because a file in S3 is uploaded completely whenever it has grown.
_MAX_EVENT_FILE_BYTES = 8 * 2**20

# Metrics exported by Ray, with the names used by the Grafana dashboard in cluster/.
EXPORTED: Mapping[str, tuple[str, str]] = {
    "perf/crops_per_second": ("cyclesep_crops_per_second", "Crops per second over all workers"),
    "perf/data_wait_fraction": ("cyclesep_data_wait", "Fraction of time that a worker waits for crops"),
    "perf/step_seconds": ("cyclesep_step_seconds", "Seconds of a training step"),
    "separator/total": ("cyclesep_separator_loss", "Weighted sum of the separator's losses"),
    "separator/steps_skipped": ("cyclesep_steps_skipped", "Steps without finite gradients so far"),
    "validation/sdr": ("cyclesep_validation_sdr", "SDR on the validation crops in dB"),
    "validation/si_sdri": ("cyclesep_validation_si_sdri", "SI-SDR improvement over the mixture in dB"),
}

_log = logging.getLogger(__name__)


class MetricLogger(ABC):
    """A destination of metrics; names contain slashes, for example `separator/cycle`."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics of a step."""

    def flush(self) -> None:  # noqa: B027
        """Write everything logged so far."""

    def sample(self, step: int, name: str, samples: Samples, sample_rate: int, image: Image) -> None:  # noqa: B027
        """Log audio `(channels, time)` and its spectrogram `(height, width, 3)`, if supported."""

    def close(self) -> None:  # noqa: B027
        """Close the logger."""


class TensorBoard(MetricLogger):
    """Event files in the run folder; events after `step` are purged when a run resumes."""

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder / RunFolder.TENSORBOARD
        self._writer = SummaryWriter(str(self._folder), purge_step=step)

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    @override
    def sample(self, step: int, name: str, samples: Samples, sample_rate: int, image: Image) -> None:
        # TensorBoard plays one channel with full scale 1.
        mono = samples.mean(axis=0, keepdims=True)
        self._writer.add_audio(name, mono / max(1.0, float(np.abs(mono).max())), step, sample_rate)
        self._writer.add_image(name, image, step, dataformats="HWC")

    @override
    def flush(self) -> None:
        self._writer.flush()
        latest = max((path.stat() for path in self._folder.iterdir()), key=lambda status: status.st_mtime_ns)
        if latest.st_size > _MAX_EVENT_FILE_BYTES:
            # The writer starts a new file with the next event.
            self._writer.close()

    @override
    def close(self) -> None:
        self._writer.close()


class RayMetrics(MetricLogger):
    """Gauges that Ray exports to Prometheus, tagged with the run's name."""

    def __init__(self, run: str) -> None:
        self._gauges = {name: Gauge(metric, about, tag_keys=("run",)) for name, (metric, about) in EXPORTED.items()}
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run})

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name in values.keys() & self._gauges.keys():
            self._gauges[name].set(values[name])


class MLflow(MetricLogger):
    """A run of the experiment `cyclesep` at MLFLOW_TRACKING_URI; a resumed run continues the same MLflow run."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._mlflow = _service("mlflow", "mlflow-skinny")
        self._mlflow.set_experiment(PROJECT)
        known = folder / RunFolder.MLFLOW_RUN
        if known.exists():
            self._run = self._mlflow.start_run(run_id=known.read_text().strip())
        else:
            self._run = self._mlflow.start_run(run_name=name)
            self._mlflow.log_params({name: str(value) for name, value in settings.items()})
            write_text(known, self._run.info.run_id + "\n")

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    @override
    def sample(self, step: int, name: str, samples: Samples, sample_rate: int, image: Image) -> None:
        self._mlflow.log_image(image, artifact_file=f"samples/{name}-{step:08d}.png")
        with tempfile.TemporaryDirectory(prefix="cyclesep-sample-") as folder:
            file = Path(folder) / f"{Path(name).name}-{step:08d}.wav"
            soundfile.write(file, samples.T, sample_rate, subtype="PCM_16")
            self._mlflow.log_artifact(str(file), f"samples/{Path(name).parent.as_posix()}")

    @override
    def close(self) -> None:
        self._mlflow.end_run()


class Wandb(MetricLogger):
    """A run of the project `cyclesep` at Weights & Biases; a resumed run continues the same W&B run."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._wandb = _service("wandb", "wandb")
        # Not the run's name, which other runs of the project may have as well.
        known = folder / RunFolder.WANDB_RUN
        if not known.exists():
            write_text(known, secrets.token_hex(4) + "\n")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=known.read_text().strip(),
            name=name,
            resume="allow",
            dir=str(folder),
            config=dict(settings),
            settings=self._wandb.Settings(silent=True, console="off"),
        )

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    @override
    def sample(self, step: int, name: str, samples: Samples, sample_rate: int, image: Image) -> None:
        audio = self._wandb.Audio(samples.T, sample_rate=sample_rate)
        self._run.log({f"{name}/audio": audio, f"{name}/spectrogram": self._wandb.Image(image), "step": step})

    @override
    def close(self) -> None:
        self._run.finish()


class MetricLoggers:
    """All loggers of a run; one that fails is reported once and removed, and training continues."""

    def __init__(self, loggers: Iterable[MetricLogger]) -> None:
        self._loggers = list(loggers)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda logger: logger.scalars(step, values))

    def sample(self, step: int, name: str, samples: Samples, sample_rate: int, image: Image) -> None:
        self._each(lambda logger: logger.sample(step, name, samples, sample_rate, image))

    def flush(self) -> None:
        self._each(lambda logger: logger.flush())

    def close(self) -> None:
        self._each(lambda logger: logger.close())

    def _each(self, action: Callable[[MetricLogger], None]) -> None:
        for logger in list(self._loggers):
            try:
                action(logger)
            # A service can raise any error, which must not stop training.
            except Exception as problem:
                self._loggers.remove(logger)
                _log.warning(
                    "%s failed and is disabled: %s", type(logger).__name__, " ".join(str(problem).split())[:300]
                )


def open_loggers(
    name: str, folder: Path, *, step: int, service: Service | None, settings: Mapping[str, Any]
) -> MetricLoggers:
    """Open the loggers of the run `name`, which continues from `step`; `settings` are flat.

    Raises ConfigError if the service is not installed or cannot be reached.
    """
    loggers: list[MetricLogger] = [TensorBoard(folder, step)]
    if ray.is_initialized():
        loggers.append(RayMetrics(name))
    if service is not None:
        kinds = {"mlflow": MLflow, "wandb": Wandb}
        try:
            loggers.append(kinds[service](name, folder, settings))
        except ConfigError:
            raise
        except Exception as problem:
            reason = " ".join(str(problem).split())[:300]
            raise ConfigError(
                f"logger={service}: cannot be opened ({reason}); set its address and key, or omit logger"
            ) from problem
    return MetricLoggers(loggers)


def _service(module: str, package: str) -> ModuleType:
    try:
        return __import__(module)
    except ImportError as problem:
        raise ConfigError(
            f"logger={module}: not installed on the workers; pip install {package}, or omit logger"
        ) from problem
