"""The configs in jobs/configs are valid, and help shows all settings."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cyclesep.cli.main import run_job
from cyclesep.cli.registry import JOBS
from cyclesep.config import settings
from cyclesep.config.schema import list_settings
from cyclesep.models.separators.separator import build_separator
from cyclesep.training.config import TrainConfig
from tests.support.paths import CHECKOUT

ROOT = CHECKOUT
CONFIGS = sorted((ROOT / "jobs" / "configs").rglob("*.y*ml"))


def job_of(config: Path) -> str:
    """Return the job of a config: the one in its name, else train."""
    job = config.stem.partition("-")[0]
    return job if job in JOBS else "train"


def test_quickstart_configs_exist() -> None:
    assert {f"quickstart/{job}.yaml" for job in ("ingest", "train", "evaluate")} <= {
        str(path.relative_to(ROOT / "jobs" / "configs")) for path in CONFIGS
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "jobs" / "configs")))
def test_config_is_complete_and_has_a_comment(path: Path, tmp_path: Path) -> None:
    assert path.read_text().startswith("# ")
    config = settings.load(JOBS[job_of(path)].config, [path])
    (tmp_path / "again.yaml").write_text(settings.to_yaml(config))
    assert settings.load(type(config), [tmp_path / "again.yaml"]) == config


def test_quickstart_configs_use_the_outputs_of_each_other() -> None:
    folder = ROOT / "jobs" / "configs" / "quickstart"
    ingest, train, baseline, evaluate = (
        settings.load(JOBS[job_of(path)].config, [path])
        for path in (folder / f"{name}.yaml" for name in ("ingest", "train", "supervised-baseline", "evaluate"))
    )
    assert ingest.output == train.shards == baseline.shards == evaluate.shards
    assert train.name != baseline.name
    assert evaluate.checkpoint == f"{train.output_dir}/{train.name}"
    assert evaluate.output.startswith(f"{evaluate.checkpoint}/")


# Parameters in millions, rounded down, as in the comments of the configs.
NAMED_RUNS = {
    "notebook-preset": 5,
    "vocals-16k": 38,
    "vocals-44k-stereo": 6,
    "vocals-44k-8gpu": 29,
    "piano-unpaired": 38,
}


@pytest.mark.parametrize("name", NAMED_RUNS)
def test_separator_has_the_size_in_the_comment(name: str) -> None:
    text = (ROOT / "jobs" / "configs" / f"{name}.yaml").read_text()
    config = settings.load(TrainConfig, [ROOT / "jobs" / "configs" / f"{name}.yaml"])
    assert config.name == name
    assert "Expected:" in text
    assert "Cost:" in text
    assert "estimate" in text
    stereo = "44k" in name
    with torch.device("meta"):
        separator = build_separator(
            config.method.separator,
            targets=len(config.targets),
            channels=2 if stereo else 1,
            sample_rate=44100 if stereo else 16000,
        )
    assert sum(parameter.numel() for parameter in separator.parameters()) // 10**6 == NAMED_RUNS[name]


@pytest.mark.parametrize("job", JOBS)
def test_help_lists_every_setting_with_a_description(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_job(job, ["--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: cyclesep {job}")
    assert JOBS[job].description in output
    listed = list_settings(JOBS[job].config)
    assert listed
    for setting in listed:
        assert f"\n  {setting.name}  ({setting.type}; " in output
        assert setting.description.endswith(".") or ":" in setting.description, f"{setting.name} has no description"


@pytest.mark.parametrize("job", JOBS)
def test_examples_of_the_help_are_valid(job: str) -> None:
    kind, required = JOBS[job].config, {"output": "x", "checkpoint": "x", "inputs": ["x"]}
    required |= {"shards": "[x]", "runs": "[x, y]", "folders": "[x]", "paths": "[x]"} if JOBS[job].positional else {}
    known = {setting.name for setting in list_settings(kind)}
    for example in JOBS[job].examples:
        overrides = [argument for argument in shlex.split(example) if "=" in argument]
        settings.load(kind, [], [*(f"{name}={value}" for name, value in required.items() if name in known), *overrides])
        for argument in shlex.split(example):
            assert not argument.endswith(".yaml") or (ROOT / argument).is_file(), f"{argument} does not exist"


def test_script_prints_the_help(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "method.separator.channels  (int | none; default: none)" in done.stdout
    assert done.stderr == ""
