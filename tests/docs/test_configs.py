"""The configs and the help that come with the jobs are true."""

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
    """A config is named after its job, or after the training run that it is for."""
    job = config.stem.partition("-")[0]
    return job if job in JOBS else "train"


def test_the_quickstart_is_among_the_configs() -> None:
    assert {f"quickstart/{job}.yaml" for job in ("ingest", "train", "evaluate")} <= {
        str(path.relative_to(ROOT / "jobs" / "configs")) for path in CONFIGS
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "jobs" / "configs")))
def test_a_config_is_complete_and_says_what_it_is_for(path: Path, tmp_path: Path) -> None:
    assert path.read_text().startswith("# ")
    config = settings.load(JOBS[job_of(path)].config, [path])
    (tmp_path / "again.yaml").write_text(settings.to_yaml(config))
    assert settings.load(type(config), [tmp_path / "again.yaml"]) == config


def test_the_quickstart_configs_fit_each_other() -> None:
    """Each can be run alone after the one before it, as the help says."""
    folder = ROOT / "jobs" / "configs" / "quickstart"
    ingest, train, twin, evaluate = (
        settings.load(JOBS[job_of(path)].config, [path])
        for path in (folder / f"{name}.yaml" for name in ("ingest", "train", "twin", "evaluate"))
    )
    assert ingest.output == train.shards == twin.shards == evaluate.shards
    assert train.name != twin.name
    assert evaluate.checkpoint == f"{train.storage}/{train.name}"
    assert evaluate.output.startswith(f"{evaluate.checkpoint}/")


# Parameters in millions, rounded down: what the head comments say.
NAMED_RUNS = {
    "notebook-preset": 5,
    "vocals-16k": 38,
    "vocals-44k-stereo": 6,
    "vocals-44k-8gpu": 29,
    "piano-unpaired": 38,
}


@pytest.mark.parametrize("name", NAMED_RUNS)
def test_a_named_run_has_the_separator_that_its_comment_tells(name: str) -> None:
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
    told = capsys.readouterr().out
    assert told.startswith(f"usage: cyclesep {job}")
    assert JOBS[job].description in told
    listed = list_settings(JOBS[job].config)
    assert listed
    for setting in listed:
        assert f"\n  {setting.name}  ({setting.type}; " in told
        assert setting.description.endswith(".") or ":" in setting.description, f"{setting.name} has no description"


@pytest.mark.parametrize("job", JOBS)
def test_the_examples_of_the_help_are_settings_that_exist(job: str) -> None:
    kind, required = JOBS[job].config, {"output": "x", "checkpoint": "x", "inputs": ["x"]}
    required |= {"shards": "[x]", "runs": "[x, y]", "folders": "[x]", "paths": "[x]"} if JOBS[job].positional else {}
    known = {setting.name for setting in list_settings(kind)}
    for example in JOBS[job].examples:
        words = [word for word in shlex.split(example) if "=" in word]
        settings.load(kind, [], [*(f"{name}={value}" for name, value in required.items() if name in known), *words])
        for word in shlex.split(example):
            assert not word.endswith(".yaml") or (ROOT / word).is_file(), f"{word} does not exist"


def test_a_script_shows_the_help_too(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "method.separator.channels  (int | none; default: none)" in done.stdout
    assert done.stderr == ""
