"""Verification of shards: the summary, and the list of damaged files, tracks and segments."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cyclesep.cli.main import run_job
from cyclesep.console.progress_bar import LiveBar
from cyclesep.data.shards import segments, verification
from cyclesep.data.shards.manifest import MANIFEST_NAME, make_manifest, read_manifest, write_manifest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.verification import Damage, check, verify
from cyclesep.errors import ShardError
from tests.support.paths import CHECKOUT
from tests.support.shard_helpers import BYTES_PER_SEGMENT, flip_bit, write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three tracks; the first has four segments in two shards."""
    folder = tmp_path / "corpus"
    write_corpus(folder, lengths=(1234, 400, 37), max_shard_bytes=2 * BYTES_PER_SEGMENT)
    return folder


@pytest.fixture
def verify_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], list[str]]]:
    """Return a function that runs `cyclesep verify` and returns status, lines of stdout and lines of stderr."""

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        with pytest.raises(SystemExit) as ended:
            run_job("verify", [str(argument) for argument in arguments])
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out.splitlines(), output.err.splitlines()

    return run


def flip_in_segment(folder: Path, segment: int) -> Path:
    """Flip a bit of the payload of a segment of the first track; return the shard."""
    track = read_manifest(folder).tracks[0]
    (shard,) = [one for one in track.shards if 0 <= segment - one.first_segment < one.num_segments]
    offset, length = shard.records[segment - shard.first_segment]
    flip_bit(folder / shard.name, 8 * (offset + length - 1))
    return folder / shard.name


def test_summary_of_an_intact_corpus(corpus: Path, verify_command: Callable[..., tuple]) -> None:
    status, out, err = verify_command(corpus)
    assert (status, err) == (0, [])
    assert out[0] == f"{corpus}: OK"
    assert len(out) == 7
    assert "3 (3 train, 0 valid, 0 test)" in out[1]
    assert f"digest {read_manifest(corpus).digest[:16]}" in out[3]
    assert "4 files" in out[4]
    assert "6 records" in out[5]


def test_all_damage_is_listed(corpus: Path, verify_command: Callable[..., tuple]) -> None:
    paths = {segment: flip_in_segment(corpus, segment) for segment in (0, 1, 3)}
    others = [corpus / track.shards[0].name for track in read_manifest(corpus).tracks[1:]]
    others[0].unlink()
    flip_bit(others[1], 3)
    status, out, err = verify_command(corpus)
    assert status == 1
    assert sorted(out) == sorted(
        [
            f"damaged: {paths[0]}: shard of track 'Track 0', segments 0-1: its checksum does not match",
            f"damaged: {paths[3]}: shard of track 'Track 0', segment 3: its checksum does not match",
            f"damaged: {others[0]}: shard of track 'Track 1': it cannot be read (No such file or directory)",
            f"damaged: {others[1]}: shard of track 'Track 2': its index is damaged",
        ]
    )
    assert err == [
        f"cyclesep verify: error: {corpus}: 4 of 4 shards are damaged; "
        "delete these files and run the same ingest again; it converts only their tracks"
    ]
    with pytest.raises(ShardError, match=r"'Track 0', segments 0-1: .*'Track 1'.*'Track 2'.*; delete these files"):
        verify(corpus)


def test_several_corpora_are_checked_although_one_has_no_manifest(
    corpus: Path, tmp_path: Path, verify_command: Callable[..., tuple]
) -> None:
    status, out, err = verify_command(tmp_path, corpus, "num_threads=3")
    assert status == 1
    assert out[0] == f"{corpus}: OK"
    assert err == [
        f"cyclesep verify: error: {tmp_path}: manifest.json not found, so no ingest was finished here; "
        "run `cyclesep ingest` into it"
    ]


def test_script_checks_intact_and_damaged_corpora(corpus: Path) -> None:
    script = [sys.executable, str(CHECKOUT / "jobs" / "verify.py"), str(corpus)]
    intact = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (intact.returncode, intact.stderr) == (0, "")
    flip_bit(corpus / MANIFEST_NAME, 8000)
    damaged = subprocess.run(script, capture_output=True, text=True, check=False)
    assert (damaged.returncode, damaged.stdout) == (1, "")
    assert damaged.stderr.startswith(f"cyclesep verify: error: {corpus / MANIFEST_NAME}: ")
    assert len(damaged.stderr.splitlines()) == 1


def test_verification_imports_neither_torch_nor_ray() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, cyclesep.data.shards.verification; print({'torch', 'ray'} & set(sys.modules))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("num_threads", [1, 4])
def test_every_byte_is_read_once_with_any_number_of_threads(
    corpus: Path, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(LiveBar, "advance", lambda _bar, _task, num_bytes: read.append(num_bytes))
    found = check(corpus, num_threads=num_threads)
    assert found.damage == ()
    assert sum(read) == sum(path.stat().st_size for path in corpus.glob("*.lmdb"))


def test_truncated_file_is_reported_with_lost_segments(corpus: Path) -> None:
    shard = read_manifest(corpus).tracks[0].shards[1]
    # LMDB stores the short last segment in its tree, before the others.
    assert shard.records[1] < shard.records[0]
    os.truncate(corpus / shard.name, shard.records[0][0] + 10)
    damage = check(corpus).damage
    assert {(one.track_id, one.segments, one.reason) for one in damage} == {
        ("Track 0", (), f"it has {shard.records[0][0] + 10} bytes, the manifest declares {shard.bytes}"),
        ("Track 0", (2,), "its record exceeds the file"),
    }


def test_read_error_is_damage_of_its_segment_and_the_rest_is_checked(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = read_manifest(corpus).tracks[0].shards[0]
    preadv = os.preadv

    def failing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset == shard.records[1][0] and shard.name in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(5, "Input/output error")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    (damage,) = check(corpus).damage
    path = os.path.realpath(corpus / shard.name)
    assert damage == Damage(
        shard=path, track_id="Track 0", segments=(1,), reason="it cannot be read (Input/output error)"
    )


def test_wrong_keys_in_a_file_with_correct_bytes_are_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(segments, "key", lambda index: (index + 1).to_bytes(4, "big"))
        write_corpus(tmp_path, lengths=(800,))
    first, second = check(tmp_path).damage
    assert (first.segments, second.segments) == ((0,), (1,))
    assert "record not found" in first.reason
    assert "its header does not match the manifest" in second.reason


def test_wrong_hash_in_the_manifest_is_damage_of_the_file(corpus: Path) -> None:
    manifest = read_manifest(corpus)
    first = manifest.tracks[1]
    shard = dataclasses.replace(first.shards[0], sha256="0" * 64)
    write_manifest(corpus, make_manifest([dataclasses.replace(first, shards=(shard,)), manifest.tracks[2]]))
    (damage,) = check(corpus).damage
    assert (damage.track_id, damage.segments, damage.reason) == ("Track 1", (), "its SHA-256 does not match")


def test_remedy_in_the_error_repairs_the_damage(corpus: Path, tmp_path: Path) -> None:
    intact = shutil.copytree(corpus, tmp_path / "intact")
    path = flip_in_segment(corpus, 2)
    assert [damage.shard for damage in check(corpus).damage] == [str(path)]
    path.unlink()
    shutil.copy(intact / path.name, path)
    assert verify(corpus) == ShardReader(intact).manifest


def test_segment_ranges() -> None:
    assert verification._ranges((3,)) == "segment 3"
    assert verification._ranges((0, 1, 2, 5, 7, 8)) == "segments 0-2, 5, 7-8"
