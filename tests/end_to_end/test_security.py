"""Names and files that come from elsewhere are data: they lead nowhere, run nothing, and nothing is open to others."""

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

from cyclesep import checkpoints
from cyclesep.config import settings
from cyclesep.cyclegan.model import CycleGAN
from cyclesep.data.corpora import musdb18
from cyclesep.data.corpora.corpus import CorpusConfig, find_tracks
from cyclesep.data.shards.manifest import read_manifest, track_file_stem, write_manifest
from cyclesep.errors import CheckpointError, ConfigError, CorpusError, ShardError
from cyclesep.evaluation.references import ShardTrack
from cyclesep.evaluation.results import Part, Results
from cyclesep.evaluation.systems import EstimateFolder, MixtureBaseline
from cyclesep.evaluation.worker import Item
from cyclesep.metrics.museval_format import write_museval_json
from cyclesep.metrics.track_score import TrackScore
from cyclesep.storage.atomic_io import as_name, is_name
from cyclesep.storage.path import StoragePath
from cyclesep.training.config import TrainConfig
from tests.checkpoints.test_checkpoints import PROGRESS
from tests.data.shards.test_shards import write_corpus
from tests.support.open_ports import listening

WANDERING = ("../../escaped", "..", ".", "/etc/escaped", "a/../../../escaped", "", "\0escaped")


@given(st.text(alphabet="./\\\0ab ", max_size=12))
def test_a_name_is_one_file_below_its_folder_and_a_good_one_is_kept(text: str) -> None:
    path = Path("/folder") / as_name(text)
    assert os.path.normpath(path).startswith("/folder/")
    assert path.parent == Path("/folder")
    assert "\0" not in str(path)
    assert is_name(as_name(text))
    if text.strip(".") and not set(text) & set("/\0"):
        assert as_name(text) == text


# What a job says.


@pytest.mark.parametrize("name", WANDERING)
def test_a_run_is_no_path(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        settings.build(TrainConfig, {"name": name})


@pytest.mark.parametrize("target", ["../../x", "a/b", "..", "/x", ""])
def test_a_target_of_unpaired_music_is_no_path(target: str) -> None:
    with pytest.raises(ConfigError, match=r"target"):
        settings.build(CorpusConfig, {"kind": "unpaired", "target": target})


@pytest.mark.parametrize("target", ["vocals", "Lead vocals", "no. 1", "ピアノ", ".5"])
def test_a_target_may_be_called_as_one_likes(target: str) -> None:
    assert settings.build(CorpusConfig, {"kind": "unpaired", "target": target}).target == target


def test_a_config_is_data_and_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        settings.load(TrainConfig, [tmp_path / "run.yaml"])
    with pytest.raises(ConfigError, match="name"):
        settings.load(TrainConfig, words=[f"name=!!python/object/apply:os.mkdir ['{tmp_path}/made']"])
    assert not (tmp_path / "made").exists()


# What a corpus says.


@pytest.mark.parametrize("track_id", WANDERING)
def test_a_track_leads_to_no_other_folder(track_id: str, tmp_path: Path) -> None:
    write_corpus(tmp_path / "shards", lengths=(100,))
    record = replace(read_manifest(tmp_path / "shards").tracks[0], track_id=track_id, split="test")
    track = ShardTrack(folder=tmp_path / "shards", record=record)
    item = Item(
        part=Part.of("../../system", track_id, []), system=MixtureBaseline(name="../../system", targets=("a",)), track=track,
        results=Results(folder=StoragePath.of(tmp_path)), window_seconds=1.0, save_estimates=True, keep_excerpt=False,
    )  # fmt: skip
    for name in (item.museval_json, item.estimates_folder, f"parts/{item.part.scores}"):
        folder, *parts = name.split("/")
        assert folder in ("museval", "estimates", "parts")
        assert all(is_name(part) for part in parts), name
    place = EstimateFolder(name="other", targets=(), folder=tmp_path)._place(track)
    assert place.parent == tmp_path / "test"
    identity = {"split": "test", "fingerprint": "", "sample_rate": 1, "channels": 1, "segment_samples": 1}
    assert is_name(track_file_stem(track_id, **identity))


@pytest.mark.parametrize("track_id", WANDERING[:-1])
def test_a_museval_file_lies_in_its_folder(track_id: str, tmp_path: Path) -> None:
    score = TrackScore(
        track_id=track_id, split="../..", sample_rate=8000, window_seconds=1.0, hop_seconds=1.0, targets=()
    )
    path = write_museval_json(score, tmp_path / "a" / "b")
    assert path.parent.parent == tmp_path / "a" / "b"
    assert list(tmp_path.rglob("*.json")) == [path]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stems": ("../../escaped",)}, "is no name"),
        ({"stems": ("a/b",)}, "is no name"),
        ({"sha256": "../../../escaped"}, "has no SHA-256"),
        ({"name": "../escaped.lmdb"}, "is none that ingest writes"),
        ({"name": "/etc/escaped.lmdb"}, "is none that ingest writes"),
    ],
)
def test_a_manifest_that_leads_out_of_its_folder_is_refused(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    write_corpus(tmp_path, lengths=(100,))
    manifest = read_manifest(tmp_path)
    (track,) = manifest.tracks
    if "stems" in change:
        track = replace(track, **change)  # type: ignore[arg-type]
    else:
        track = replace(track, shards=(replace(track.shards[0], **change),))  # type: ignore[arg-type]
    # With a checksum that is right, as whoever means harm would write it.
    write_manifest(tmp_path, replace(manifest, tracks=(track,)))
    with pytest.raises(ShardError, match=told):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd"])
def test_a_musdb_setup_names_no_files_outside_its_tracks(tmp_path: Path, name: str) -> None:
    (tmp_path / "test" / "Song").mkdir(parents=True)
    setup = {
        "mixture": "mixture.wav", "sources": {"vocals": name}, "stem_ids": {"mixture": 0, "vocals": 1},
        "targets": {}, "validation_tracks": [],
    }  # fmt: skip
    (tmp_path / "setup.yaml").write_text(yaml.safe_dump(setup))
    with pytest.raises(CorpusError, match=r"setup\.yaml.*is no name"):
        musdb18.find_tracks(tmp_path, default_split="test")


def test_hidden_and_linked_folders_of_music_keep_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "Song").mkdir(parents=True)
    (tmp_path / "elsewhere" / "Song" / "vocals.wav").write_bytes(b"")
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "Linked").symlink_to(tmp_path / "elsewhere" / "Song")
    tracks = find_tracks(CorpusConfig(kind="stems", path=str(tmp_path / "music")))
    assert [track.track_id for track in tracks] == ["Linked"]


# What a checkpoint says.


@pytest.mark.parametrize("target", ["../../escaped", "a/b", ".."])
def test_a_checkpoint_whose_target_is_a_path_is_refused(tmp_path: Path, target: str) -> None:
    progress = {"step": 1, "targets": [target], "sample_rate": 8000, "channels": 1}
    (tmp_path / checkpoints.METADATA).write_text(json.dumps(progress))
    with pytest.raises(CheckpointError, match="is no name"):
        checkpoints.read_metadata(tmp_path)


@pytest.mark.parametrize("best", ["../other", "/etc", "..", 3, None])
def test_a_run_stands_for_a_checkpoint_inside_it_only(tmp_path: Path, best: object) -> None:
    (tmp_path / checkpoints.RUN).write_text(json.dumps({"best": best, "last": "step-1"}))
    with pytest.raises(CheckpointError, match=r"run\.json: best is"):
        checkpoints.find(tmp_path)


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._path),)


@pytest.mark.parametrize("name", [checkpoints.STATE, checkpoints.WEIGHTS, checkpoints.CONFIG])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "step-1"
    folder.mkdir()
    (folder / checkpoints.METADATA).write_text(json.dumps(settings.to_dict(PROGRESS)))
    (folder / checkpoints.CONFIG).write_text(settings.to_yaml(TrainConfig(targets=PROGRESS.targets)))
    if name == checkpoints.CONFIG:
        (folder / name).write_text(f"cyclegan: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n")
    elif name == checkpoints.STATE:
        torch.save({"networks": Harm(tmp_path / "made")}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Harm(tmp_path / "made")))
    model = CycleGAN(TrainConfig().cyclegan, targets=PROGRESS.targets, channels=1, sample_rate=8000, seed=0)
    with pytest.raises(CheckpointError):
        checkpoints.load_state(folder, model) if name == checkpoints.STATE else checkpoints.load_separator(folder)
    assert not (tmp_path / "made").exists()


# What others can reach.


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are read from /proc")
@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_of_ones_own_listens_on_loopback_only() -> None:
    found = listening(os.getpid())
    assert found
    assert found <= {"127.0.0.1", "::1"}
