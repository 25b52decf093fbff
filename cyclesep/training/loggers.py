"""Where a run's figures, sounds and spectrograms go: TensorBoard, Ray's metrics, and MLflow or Weights & Biases."""

import logging
import os
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
from cyclesep.errors import ConfigError
from cyclesep.storage.atomic_io import write_text
from cyclesep.training.config import Service

Image = NDArray[np.uint8]
PROJECT = "cyclesep"
MLFLOW_RUN = "mlflow-run"
TENSORBOARD = "tensorboard"
# In S3 a file that has grown is put there anew, whole.
_LARGEST_EVENT_FILE = 8 * 2**20

# What Ray's metrics carry, under the names of the Grafana dashboard in cluster/.
EXPORTED: Mapping[str, tuple[str, str]] = {
    "perf/crops_per_second": ("cyclesep_crops_per_second", "Crops per second over all workers"),
    "perf/data_wait_fraction": ("cyclesep_data_wait", "Share of the time that a worker waits for crops"),
    "perf/step_seconds": ("cyclesep_step_seconds", "Seconds of a training step"),
    "separator/total": ("cyclesep_separator_loss", "Weighted sum of the separator's losses"),
    "separator/steps_skipped": ("cyclesep_steps_skipped", "Steps without finite gradients so far"),
    "validation/sdr": ("cyclesep_validation_sdr", "SDR on the validation crops in dB"),
    "validation/si_sdr_gain": ("cyclesep_validation_si_sdr_gain", "SI-SDR above the mixture's in dB"),
}

_log = logging.getLogger(__name__)


class Tracker(ABC):
    """One place that a run is followed from; names have slashes, such as `separator/cycle`."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take figures of a step."""

    def flush(self) -> None:  # noqa: B027
        """Write down what was taken so far."""

    def sample(self, step: int, name: str, samples: Samples, sample_rate: int, image: Image) -> None:  # noqa: B027
        """Take audio `(channels, time)` and its spectrogram `(height, width, 3)`; not every place has room for it."""

    def close(self) -> None:  # noqa: B027
        """Say that nothing more comes."""


class TensorBoard(Tracker):
    """Event files in the run's folder; those of steps after `step` are struck out, for a run that goes on."""

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder / TENSORBOARD
        self._writer = SummaryWriter(str(self._folder), purge_step=step)

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    @override
    def sample(self, step: int, name: str, samples: Samples, sample_rate: int, image: Image) -> None:
        # TensorBoard plays one channel, and full scale is 1.
        mono = samples.mean(axis=0, keepdims=True)
        self._writer.add_audio(name, mono / max(1.0, float(np.abs(mono).max())), step, sample_rate)
        self._writer.add_image(name, image, step, dataformats="HWC")

    @override
    def flush(self) -> None:
        self._writer.flush()
        latest = max((path.stat() for path in self._folder.iterdir()), key=lambda status: status.st_mtime_ns)
        if latest.st_size > _LARGEST_EVENT_FILE:
            # The writer begins another file when it is told more.
            self._writer.close()

    @override
    def close(self) -> None:
        self._writer.close()


class RayMetrics(Tracker):
    """Gauges that Ray gives to Prometheus, with the run's name as a tag."""

    def __init__(self, run: str) -> None:
        self._gauges = {name: Gauge(metric, about, tag_keys=("run",)) for name, (metric, about) in EXPORTED.items()}
        for gauge in self._gauges.values():
            gauge.set_default_tags({"run": run})

    @override
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name in values.keys() & self._gauges.keys():
            self._gauges[name].set(values[name])


class MLflow(Tracker):
    """A run of the experiment `cyclesep` at MLFLOW_TRACKING_URI; a run that goes on stays the same MLflow run."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._mlflow = _service("mlflow", "mlflow-skinny")
        self._mlflow.set_experiment(PROJECT)
        known = folder / MLFLOW_RUN
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
        self._mlflow.fail()


class Wandb(Tracker):
    """A run of the project `cyclesep` at Weights & Biases, whose id is the run's name."""

    def __init__(self, name: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self._wandb = _service("wandb", "wandb")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=name,
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


class Trackers:
    """All of a run's trackers as one; one that fails later is told of once and left out, the run goes on."""

    def __init__(self, trackers: Iterable[Tracker]) -> None:
        self._trackers = list(trackers)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.scalars(step, values))

    def sample(self, step: int, name: str, samples: Samples, sample_rate: int, image: Image) -> None:
        self._each(lambda tracker: tracker.sample(step, name, samples, sample_rate, image))

    def flush(self) -> None:
        self._each(lambda tracker: tracker.flush())

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                tell(tracker)
            # A service may fail in any way of its own, and a run is worth more than its curves.
            except Exception as problem:
                self._trackers.remove(tracker)
                _log.warning("%s takes nothing more: %s", type(tracker).__name__, " ".join(str(problem).split())[:300])


def open_trackers(
    name: str, folder: Path, *, step: int, service: Service | None, settings: Mapping[str, Any]
) -> Trackers:
    """The trackers of the run `name`, which goes on from `step`; `settings` are flat.

    Raises ConfigError if the service is not installed or refuses.
    """
    trackers: list[Tracker] = [TensorBoard(folder, step)]
    if ray.is_initialized():
        trackers.append(RayMetrics(name))
    if service is not None:
        kinds = {"mlflow": MLflow, "wandb": Wandb}
        try:
            trackers.append(kinds[service](name, folder, settings))
        except ConfigError:
            raise
        except Exception as problem:
            told = " ".join(str(problem).split())[:300]
            raise ConfigError(
                f"logger={service}: it refuses ({told}); set its address and key, or leave it out"
            ) from problem
    return Trackers(trackers)


def _service(module: str, package: str) -> ModuleType:
    try:
        return __import__(module)
    except ImportError as problem:
        raise ConfigError(
            f"logger={module}: is not installed on the workers; pip install {package}, or leave it out"
        ) from problem
