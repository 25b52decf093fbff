"""Untrusted names and files: no path traversal, no code execution, no ports open to other machines."""

import json
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.checkpoints.metadata import CONFIG_FILE, METADATA_FILE, TRAINING_STATE_FILE, WEIGHTS_FILE, read_metadata
from cyclesep.checkpoints.run_folder import RunFolder, download_checkpoint
from cyclesep.checkpoints.save_restore import load_training_state
from cyclesep.config import settings
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.corpora import musdb18
from cyclesep.data.corpora.config import CorpusConfig
from cyclesep.data.corpora.corpus import find_tracks
from cyclesep.data.shards.manifest import read_manifest, track_file_stem, write_manifest
from cyclesep.errors import CheckpointError, ConfigError, CorpusError, ShardError
from cyclesep.evaluation.references import ShardTrack
from cyclesep.evaluation.results import ResultKey, Results
from cyclesep.evaluation.systems import EstimateFolder, MixtureBaseline
from cyclesep.evaluation.tasks import EvaluationTask
from cyclesep.metrics.museval_format import write_museval_json
from cyclesep.metrics.track_score import TrackScore
from cyclesep.storage.atomic_io import as_name, is_name
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from tests.support.checkpoint_metadata import METADATA
from tests.support.open_ports import listening
from tests.support.shard_helpers import write_corpus

UNSAFE_NAMES = ("../../escaped", "..", ".", "/etc/escaped", "a/../../../escaped", "", "\0escaped")


@given(st.text(alphabet="./\\\0ab ", max_size=12))
def test_as_name_gives_one_path_component_and_keeps_valid_names(text: str) -> None:
    path = Path("/folder") / as_name(text)
    assert os.path.normpath(path).startswith("/folder/")
    assert path.parent == Path("/folder")
    assert "\0" not in str(path)
    assert is_name(as_name(text))
    if text.strip(".") and not set(text) & set("/\0"):
        assert as_name(text) == text


# Settings.


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_a_run_name_must_not_be_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        settings.build(TrainConfig, {"name": name})


@pytest.mark.parametrize("target", ["../../x", "a/b", "..", "/x", ""])
def test_a_target_name_must_not_be_a_path(target: str) -> None:
    with pytest.raises(ConfigError, match=r"target"):
        settings.build(CorpusConfig, {"kind": "unpaired", "target": target})


@pytest.mark.parametrize("target", ["vocals", "Lead vocals", "no. 1", "ピアノ", ".5"])
def test_other_target_names_are_accepted(target: str) -> None:
    assert settings.build(CorpusConfig, {"kind": "unpaired", "target": target}).target == target


def test_a_config_cannot_execute_code(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        settings.load(TrainConfig, [tmp_path / "run.yaml"])
    with pytest.raises(ConfigError, match="name"):
        settings.load(TrainConfig, overrides=[f"name=!!python/object/apply:os.mkdir ['{tmp_path}/made']"])
    assert not (tmp_path / "made").exists()


# Corpora and shards.


@pytest.mark.parametrize("track_id", UNSAFE_NAMES)
def test_track_names_cannot_leave_their_folder(track_id: str, tmp_path: Path) -> None:
    write_corpus(tmp_path / "shards", lengths=(100,))
    record = replace(read_manifest(tmp_path / "shards").tracks[0], track_id=track_id, split="test")
    track = ShardTrack(folder=tmp_path / "shards", record=record)
    task = EvaluationTask(
        key=ResultKey.of("../../system", track_id, []), track=track,
        system=MixtureBaseline(name="../../system", targets=("a",)),
        results=Results(folder=StoragePath.of(tmp_path)), frame_seconds=1.0, save_estimates=True, save_excerpt=False,
    )  # fmt: skip
    for name in (task.museval_json, task.estimates_folder, f"parts/{task.key.scores_file}"):
        kind, *parts = name.split("/")
        assert kind in ("museval", "estimates", "parts")
        assert all(is_name(part) for part in parts), name
    folder = EstimateFolder(name="other", targets=(), folder=tmp_path)._track_folder(track)
    assert folder.parent == tmp_path / "test"
    identity = {"split": "test", "fingerprint": "", "sample_rate": 1, "channels": 1, "segment_samples": 1}
    assert is_name(track_file_stem(track_id, **identity))


@pytest.mark.parametrize("track_id", UNSAFE_NAMES[:-1])
def test_a_museval_file_is_written_into_its_folder(track_id: str, tmp_path: Path) -> None:
    score = TrackScore(
        track_id=track_id, split="../..", sample_rate=8000, frame_seconds=1.0, hop_seconds=1.0, targets=()
    )
    path = write_museval_json(score, tmp_path / "a" / "b")
    assert path.parent.parent == tmp_path / "a" / "b"
    assert list(tmp_path.rglob("*.json")) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stems": ("../../escaped",)}, "is not a valid name"),
        ({"stems": ("a/b",)}, "is not a valid name"),
        ({"sha256": "../../../escaped"}, "has no SHA-256"),
        ({"name": "../escaped.lmdb"}, "shard name .* is invalid"),
        ({"name": "/etc/escaped.lmdb"}, "shard name .* is invalid"),
    ],
)
def test_a_manifest_with_paths_outside_its_folder_raises(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    write_corpus(tmp_path, lengths=(100,))
    manifest = read_manifest(tmp_path)
    (track,) = manifest.tracks
    if "stems" in change:
        track = replace(track, **change)  # type: ignore[arg-type]
    else:
        track = replace(track, shards=(replace(track.shards[0], **change),))  # type: ignore[arg-type]
    # With a valid checksum, as an attacker would write it.
    write_manifest(tmp_path, replace(manifest, tracks=(track,)))
    with pytest.raises(ShardError, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd"])
def test_a_musdb_setup_with_paths_outside_its_tracks_raises(tmp_path: Path, name: str) -> None:
    (tmp_path / "test" / "Song").mkdir(parents=True)
    setup = {
        "mixture": "mixture.wav", "sources": {"vocals": name}, "stem_ids": {"mixture": 0, "vocals": 1},
        "targets": {}, "validation_tracks": [],
    }  # fmt: skip
    (tmp_path / "setup.yaml").write_text(yaml.safe_dump(setup))
    with pytest.raises(CorpusError, match=r"setup\.yaml: invalid stem or file name"):
        musdb18.find_tracks(tmp_path, default_split="test")


def test_linked_track_folders_keep_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "Song").mkdir(parents=True)
    (tmp_path / "elsewhere" / "Song" / "vocals.wav").write_bytes(b"")
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "Linked").symlink_to(tmp_path / "elsewhere" / "Song")
    tracks = find_tracks(CorpusConfig(kind="stems", path=str(tmp_path / "music")))
    assert [track.track_id for track in tracks] == ["Linked"]


# Checkpoints.


@pytest.mark.parametrize("target", ["../../escaped", "a/b", ".."])
def test_a_checkpoint_with_a_path_as_target_raises(tmp_path: Path, target: str) -> None:
    progress = {"step": 1, "targets": [target], "sample_rate": 8000, "channels": 1}
    (tmp_path / METADATA_FILE).write_text(json.dumps(progress))
    with pytest.raises(CheckpointError, match="is not a valid name"):
        read_metadata(tmp_path)


@pytest.mark.parametrize("best", ["../other", "/etc", "..", 3, None])
def test_a_run_resolves_only_to_a_checkpoint_inside_it(tmp_path: Path, best: object) -> None:
    (tmp_path / RunFolder.RESULT).write_text(json.dumps({"best": best, "last": "step-1"}))
    with pytest.raises(CheckpointError, match=r"run\.json: best=.* is not the name of a checkpoint"):
        download_checkpoint(tmp_path)


class Exploit:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("name", [TRAINING_STATE_FILE, WEIGHTS_FILE, CONFIG_FILE])
def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "step-1"
    folder.mkdir()
    (folder / METADATA_FILE).write_text(json.dumps(settings.to_dict(METADATA)))
    (folder / CONFIG_FILE).write_text(settings.to_yaml(TrainConfig(targets=METADATA.targets)))
    if name == CONFIG_FILE:
        (folder / name).write_text(f"method: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    elif name == TRAINING_STATE_FILE:
        torch.save({"networks": Exploit(tmp_path / "made")}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Exploit(tmp_path / "made")))
    model = CycleGAN(TrainConfig().method, targets=METADATA.targets, channels=1, sample_rate=8000, seed=0)
    with pytest.raises(CheckpointError):
        load_training_state(folder, model) if name == TRAINING_STATE_FILE else load_separator(folder)
    assert not (tmp_path / "made").exists()


# Open ports.


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are read from /proc")
@pytest.mark.usefixtures("ray_cluster")
def test_a_local_cluster_listens_on_loopback_only() -> None:
    found = listening(os.getpid())
    assert found
    assert found <= {"127.0.0.1", "::1"}
