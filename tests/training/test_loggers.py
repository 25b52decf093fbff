"""Loggers of a run: TensorBoard, Ray metrics, MLflow, Weights & Biases; a failing logger does not end the run."""

import io
import logging
import re
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import ray
import soundfile
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cyclesep.errors import ConfigError
from cyclesep.evaluation.track_progress import SCORED
from cyclesep.training import loggers
from cyclesep.training.audio_samples import audio_samples
from cyclesep.training.loggers import MetricLogger, MetricLoggers, RayMetrics, TensorBoard, open_loggers
from tests.support.paths import CHECKOUT

RATE = 8000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE, dtype=np.float32))[None].repeat(2, 0)
PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


class Halving(torch.nn.Module):
    """A separator of one target whose estimate is half of the mixture."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        return self.gain * mixture[:, None]


def test_tensorboard_has_scalars_audio_and_images(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, 0)
    board.scalars(3, {"separator/cycle": 0.25})
    board.sample(3, "samples/crop-0/mixture", TONE, RATE, PICTURE)
    board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"audio": 0, "images": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("separator/cycle")] == [(3, 0.25)]
    (sound,) = events.Audio("samples/crop-0/mixture")
    decoded, rate = soundfile.read(io.BytesIO(sound.encoded_audio_string))
    assert (sound.step, rate) == (3, RATE)
    np.testing.assert_allclose(decoded, TONE[0], atol=1e-4)
    (picture,) = events.Images("samples/crop-0/mixture")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))), PICTURE)


def test_repeated_steps_replace_earlier_ones(tmp_path: Path) -> None:
    for start in (0, 5):
        board = TensorBoard(tmp_path, start)
        for step in range(start, 10):
            board.scalars(step, {"loss": float(start)})
        board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == [0.0] * 5 + [5.0] * 5


def test_samples_are_mixture_estimate_and_reference_of_each_crop_with_a_common_scale() -> None:
    mixtures = torch.from_numpy(TONE)[None].repeat(2, 1, 1)
    samples = list(audio_samples(Halving(), mixtures, mixtures[:, None], ("vocals",), RATE))
    parts = ("mixture", "vocals-estimate", "vocals-reference")
    assert [sample.name for sample in samples] == [f"samples/crop-{index}/{part}" for index in (0, 1) for part in parts]
    mixture, estimate, reference = samples[:3]
    np.testing.assert_allclose(estimate.samples, 0.5 * mixture.samples)
    np.testing.assert_array_equal(reference.image, mixture.image)
    # Half the level is darker on a common scale.
    assert estimate.image.astype(int).sum() < mixture.image.astype(int).sum()


def test_a_failing_logger_is_reported_once_and_the_others_continue(caplog: pytest.LogCaptureFixture) -> None:
    class Lists(MetricLogger):
        def __init__(self) -> None:
            self.taken: list[int] = []

        def scalars(self, step: int, values: Mapping[str, float]) -> None:
            self.taken.append(step)
            assert values == {}

    class Failing(Lists):
        def scalars(self, step: int, values: Mapping[str, float]) -> None:
            super().scalars(step, values)
            raise OSError("the server\nis gone")

    working, failing = Lists(), Failing()
    loggers_of_run = MetricLoggers([failing, working])
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            loggers_of_run.scalars(step, {})
    assert (working.taken, failing.taken) == ([0, 1, 2], [0])
    assert [record.message for record in caplog.records] == ["Failing failed and is disabled: the server is gone"]


def test_mlflow_resumes_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlflow")
    mlflow.set_tracking_uri(f"file://{tmp_path}/mlflow")
    for start in (0, 4):
        loggers_of_run = open_loggers("mine", tmp_path, step=start, service="mlflow", settings={"steps": 8})
        loggers_of_run.scalars(start + 4, {"validation/sdr": 1.0 + start})
        loggers_of_run.sample(start + 4, "samples/crop-0/mixture", TONE, RATE, PICTURE)
        loggers_of_run.close()
    (run,) = mlflow.search_runs(experiment_names=["cyclesep"], output_format="list")
    assert (run.info.run_name, run.data.params["steps"]) == ("mine", "8")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "validation/sdr")
    assert [(metric.step, metric.value) for metric in history] == [(4, 1.0), (8, 5.0)]
    files = {path.name for path in (tmp_path / "mlflow").rglob("*") if path.is_file()}
    assert {"mixture-00000004.png", "mixture-00000004.wav", "mixture-00000008.wav"} <= files


def test_wandb_logs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers_of_run = open_loggers("mine", tmp_path, step=0, service="wandb", settings={"steps": 8})
    loggers_of_run.scalars(4, {"validation/sdr": 1.0})
    loggers_of_run.sample(4, "samples/crop-0/mixture", TONE, RATE, PICTURE)
    loggers_of_run.close()
    run_id = (tmp_path / "wandb-run").read_text().strip()
    (run,) = (tmp_path / "wandb").glob(f"offline-run-*-{run_id}")
    kinds = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert {".wandb", ".png", ".wav"} <= kinds


def test_wandb_runs_of_one_name_are_different_and_a_resumed_run_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for folder in ("first", "second", "first"):
        (tmp_path / folder).mkdir(exist_ok=True)
        open_loggers("train", tmp_path / folder, step=0, service="wandb", settings={}).close()
    first, second = ((tmp_path / folder / "wandb-run").read_text().strip() for folder in ("first", "second"))
    assert first != second
    # W&B numbers folders of a run that it opens twice in the same second.
    names = [path.name for path in (tmp_path / "first" / "wandb").glob("offline-run-*")]
    assert len(names) == 2
    assert all(first in name for name in names)


def test_a_missing_service_is_an_error_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"logger=wandb: not installed on the workers; pip install wandb"):
        open_loggers("mine", tmp_path, step=0, service="wandb", settings={})


@pytest.mark.usefixtures("ray_cluster")
def test_a_ray_node_exports_metrics_of_the_run_for_prometheus() -> None:
    metrics = RayMetrics("night-run")
    port = ray.nodes()[0]["MetricsExportPort"]
    wanted = "cyclesep_crops_per_second{"
    for _ in range(60):
        metrics.scalars(1, {"perf/crops_per_second": 123.0, "separator/cycle": 1.0})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = [line for line in answer.read().decode().splitlines() if wanted in line]
        if lines:
            break
        time.sleep(0.5)
    (line,) = lines
    assert 'run="night-run"' in line.lower() or 'Run="night-run"' in line
    assert line.endswith(" 123.0")


def test_the_dashboard_uses_exported_metrics_only() -> None:
    dashboard = CHECKOUT / "cluster/grafana-dashboard.json"
    names = set(re.findall(r"ray_(cyclesep_\w+)", dashboard.read_text()))
    assert names == {name for name, _ in loggers.EXPORTED.values()} | {f"{SCORED}_total"}
