"""Benchmarks: all loaders read the same samples, tables are correct, the command prints and writes them."""

import io
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import lmdb
import numpy as np
import pytest
from rich.console import Console

from benchmarks import crops, ingest
from benchmarks.command import BENCHMARKS, Benchmark, run_benchmark
from benchmarks.crop_baselines import BASELINES, NOTEBOOK, OURS, RAW_MEMMAP, WAV, CropLoader, write_notebook
from benchmarks.crop_corpus import CropCorpus, CropLayout
from benchmarks.crop_peers import LITDATA, LITDATA_WINDOWS, MOSAICML, WEBDATASET
from benchmarks.crop_readers import CropReader
from benchmarks.crop_songs import write_songs
from benchmarks.crops import CropsBenchmark, MemoryLayout, WideLayout
from benchmarks.ingest import MUSDB, ON_RAY, ONE_PROCESS, IngestBenchmark
from benchmarks.interleaving import interleaved, rate
from benchmarks.musdb_loop import musdb_loop
from benchmarks.table import Row, Table
from cyclesep.audio.audio_io import from_pcm16
from cyclesep.config import settings
from cyclesep.config.schema import list_settings
from cyclesep.data.config import IngestConfig
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import synthetic_tracks
from cyclesep.data.corpora.composer.writers import write_musdb_hq, write_stem_mp4
from cyclesep.data.corpora.config import CorpusConfig
from cyclesep.data.corpora.corpus import find_tracks
from cyclesep.data.ingest import ingest_track
from cyclesep.data.shards.ingest_store import IngestOutput
from cyclesep.data.shards.manifest import make_manifest, write_manifest
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.segment_pb2 import Segment
from tests.support.paths import CHECKOUT

TABLE = Table(
    title="a table",
    unit="crops/s",
    baseline="old",
    rows=(
        Row(method="old", rate=12.5),
        Row(method="new", rate=25000.0, columns={"starts": "anywhere", "memory": 1.5}),
        Row(method="absent", rate=math.nan, columns={"starts": "not installed: x"}),
    ),
)


def corpus(folder: Path, **values: object) -> CropCorpus:
    """Write two tracks of 9.5 s with two mono stems at 8 kHz, for crops of half a second."""
    layout = settings.build(CropLayout, {"sample_rate": 8000, "tracks": 2, "track_seconds": 9.5, **values})
    made = CropCorpus(folder=folder, layout=layout, crop_seconds=0.5)
    write_songs(made)
    return made


@pytest.fixture(scope="module")
def mono(tmp_path_factory: pytest.TempPathFactory) -> CropCorpus:
    return corpus(tmp_path_factory.mktemp("mono"))


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> CropCorpus:
    return corpus(tmp_path_factory.mktemp("stereo"), channels=2, stems=["mixture", "bass", "vocals"], tracks=1)


def checked_reader(loader: CropLoader, made: CropCorpus) -> CropReader:
    """Create a reader, which compares its samples with the corpus."""
    if loader.write is not None:
        loader.write(made)
    return CropReader(loader, made, batch=8, seed=1)


# Tables


def test_ratios_are_relative_to_the_baseline_and_nan_if_not_measured() -> None:
    old, new, absent = TABLE.rows
    assert (TABLE.ratio(old), TABLE.ratio(new)) == (1.0, 2000.0)
    assert math.isnan(TABLE.ratio(absent))
    assert math.isnan(replace(TABLE, baseline="gone").ratio(new))
    assert TABLE.columns == ("starts", "memory")


def test_rows_as_json_are_self_contained() -> None:
    assert TABLE.to_json()[1] == {
        "table": "a table", "method": "new", "rate": 25000.0, "unit": "crops/s", "ratio": 2000.0, "baseline": "old",
        "starts": "anywhere", "memory": 1.5,
    }  # fmt: skip
    absent = json.loads(json.dumps(TABLE.to_json()[2], allow_nan=False))
    assert (absent["rate"], absent["ratio"], absent["starts"]) == (None, None, "not installed: x")


def test_a_printed_table_has_three_digits_and_a_dash_for_nan() -> None:
    printed = io.StringIO()
    TABLE.print(Console(file=printed, width=100))
    title, _, _, *lines = printed.getvalue().strip().splitlines()
    assert title == "a table"
    assert [line.split() for line in lines] == [
        ["old", "12.5", "1.00"],
        ["new", "25,000", "2,000", "anywhere", "1.50"],
        ["absent", "-", "-", "not", "installed:", "x"],
    ]


def test_interleaved_calls_measures_in_turn_and_returns_medians() -> None:
    turns: list[str] = []
    values = {"a": iter([3.0, 1.0, 9.0]), "b": iter([5.0, 5.0, 6.0])}

    def measure(name: str) -> float:
        turns.append(name)
        return next(values[name])

    assert interleaved({name: lambda name=name: measure(name) for name in "ab"}, rounds=3) == {"a": 3.0, "b": 5.0}
    assert turns == list("ababab")


def test_rate_calls_work_at_least_once() -> None:
    calls: list[int] = []
    assert rate(lambda: calls.append(1) or 7, 0.0) > 0
    assert len(calls) == 1


# Crops


@pytest.mark.parametrize("loader", BASELINES, ids=lambda loader: loader.name)
def test_loaders_read_the_samples_that_were_written(loader: CropLoader, mono: CropCorpus, stereo: CropCorpus) -> None:
    for made in (mono, stereo):
        assert checked_reader(loader, made).read() == 8


@pytest.mark.parametrize("loader", [MOSAICML, WEBDATASET], ids=lambda loader: loader.name)
def test_loaders_of_other_libraries_read_the_samples_that_were_written(
    loader: CropLoader, mono: CropCorpus, stereo: CropCorpus
) -> None:
    if loader.missing:
        pytest.skip(f"not installed: {', '.join(loader.missing)}")
    for made in (mono, stereo):
        assert checked_reader(loader, made).read() == 8


@pytest.mark.slow
@pytest.mark.parametrize("loader", [LITDATA, LITDATA_WINDOWS], ids=lambda loader: loader.name)
def test_litdata_reads_the_samples_that_were_written(loader: CropLoader, stereo: CropCorpus) -> None:
    if loader.missing:
        pytest.skip(f"not installed: {', '.join(loader.missing)}")
    assert checked_reader(loader, stereo).read() == 8


def test_the_notebook_loader_and_ours_read_the_same_batch(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    batch, again, drawn = made.empty(6), made.empty(6), made.draw(6, np.random.default_rng(3))
    write_notebook(made)
    OURS.open(made)(batch, drawn)
    NOTEBOOK.open(made)(again, drawn)
    assert batch.any()
    np.testing.assert_array_equal(batch, again)


def test_a_loader_that_reads_other_samples_raises(mono: CropCorpus) -> None:
    wrong = replace(OURS, name="wrong", open=lambda _: lambda out, _: out.fill(0.25))
    with pytest.raises(RuntimeError, match="wrong: returns other samples"):
        CropReader(wrong, mono, batch=4, seed=0)
    assert not RAW_MEMMAP.returns_float32


def test_no_two_crops_of_a_corpus_are_equal(mono: CropCorpus) -> None:
    found = {mono.pcm(track)[..., start : start + 4000].tobytes() for track, start in mono.covering_crops()}
    assert len(found) == len(mono.covering_crops()) == 2 * 19


def test_crop_benchmark_returns_all_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(WAV, name="another library", packages=("no_such_package",), write=None)
    monkeypatch.setattr(crops, "PEERS", (absent,))
    config = CropsBenchmark(
        narrow=CropLayout(sample_rate=8000, tracks=2, track_seconds=5.0),
        wide=WideLayout(sample_rate=8000, tracks=1, track_seconds=5.0),
        memory=MemoryLayout(sample_rate=8000, tracks=14, track_seconds=4.0),
        memory_open_shards=2,
        processes=(1, 2),
        rounds=1,
        round_seconds=0.01,
        folder=str(tmp_path),
    )
    one, many, wide, memory = crops.run(config)
    for table in (one, wide):
        rates = {row.method: row.rate for row in table.rows}
        assert len(rates) == len(BASELINES) + 1
        assert math.isnan(rates.pop("another library"))
        assert all(found > 0 for found in rates.values())
        assert table.rows[-1].columns["starts"] == "not installed: no_such_package"
    assert one.ratio(next(row for row in one.rows if row.method == NOTEBOOK.name)) == 1.0
    assert {f"{OURS.name} x 1", f"{OURS.name} x 2", f"{NOTEBOOK.name} x 2"} <= {row.method for row in many.rows}
    assert len(memory.rows) == 12
    private = [float(row.columns["resident - shared MiB"]) for row in memory.rows]
    assert max(private) - min(private) < 16
    assert list(tmp_path.iterdir()) == []


# Ingest


@pytest.mark.parametrize(("source", "write"), [("wav", write_musdb_hq), ("stem.mp4", write_stem_mp4)])
def test_the_musdb_loop_writes_the_samples_of_ingest(source, write, tmp_path: Path) -> None:
    write(synthetic_tracks(SyntheticConfig(num_train=1, num_valid=0, num_test=0, seconds=5.0)), tmp_path / "music")
    musdb_loop(tmp_path / "music", tmp_path / "plain", is_wav=source == "wav", sample_rate=44100, channels=2)
    (track,) = find_tracks(CorpusConfig(kind="musdb18", path=str(tmp_path / "music")))
    (tmp_path / "ours").mkdir()
    record = ingest_track(track, IngestConfig(output=str(tmp_path / "ours")), IngestOutput(str(tmp_path / "ours")))
    write_manifest(tmp_path / "ours", make_manifest([record]))
    with lmdb.open(str(tmp_path / "plain" / "0.lmdb"), subdir=False, readonly=True, lock=False) as plain:
        found = [Segment.FromString(value) for _, value in plain.begin().cursor()]
    assert [list(segment.stems) for segment in found] == [list(record.stems)] * 2
    pcm = [np.frombuffer(segment.pcm, dtype="<i2").reshape(5, 2, segment.num_samples) for segment in found]
    ours = ShardReader(tmp_path / "ours").read(record, record.stems, 0, record.num_samples)
    np.testing.assert_array_equal(from_pcm16(np.concatenate(pcm, axis=2)), ours)


@pytest.mark.usefixtures("ray_cluster")
def test_ingest_benchmark_returns_two_tables_per_source(tmp_path: Path) -> None:
    config = IngestBenchmark(sources=("wav",), tracks=1, track_seconds=12.0, rounds=1, folder=str(tmp_path))
    methods, stages = ingest.run(config)
    assert [row.method for row in methods.rows] == [MUSDB, ONE_PROCESS, ON_RAY]
    assert methods.ratio(methods.rows[0]) == 1.0
    assert all(row.rate > 0 and float(row.columns["per core"]) > 0 for row in methods.rows)
    assert sum(float(row.columns["share"]) for row in stages.rows) == pytest.approx(2.0)
    assert list(tmp_path.iterdir()) == []


# The command


@dataclass(frozen=True, kw_only=True)
class ToyBenchmark:
    fails: bool = False
    """Whether to raise an error."""


def run(config: ToyBenchmark) -> list[Table]:
    return [TABLE] if not config.fails else [][1]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "toy_benchmark", sys.modules[__name__])
    toy = Benchmark(description="A toy.", module="toy_benchmark", config="ToyBenchmark", examples=())
    monkeypatch.setitem(BENCHMARKS, "toy", toy)


@pytest.mark.usefixtures("toy")
def test_command_prints_tables_and_writes_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "rows.json"
    with pytest.raises(SystemExit) as ended:
        run_benchmark(["toy", "fails=false", "--json", str(target)])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith("commit ")
    assert "25,000" in output
    rows = json.loads(target.read_text())
    assert [(row["method"], row["rate"]) for row in rows] == [("old", 12.5), ("new", 25000.0), ("absent", None)]
    assert all(row["commit"] and "cores" in row["hardware"] for row in rows)


@pytest.mark.usefixtures("toy")
def test_failed_benchmark_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_benchmark(["toy", "--json", str(tmp_path / "rows.json"), "fails=true"])
    assert ended.value.code == 70
    assert capsys.readouterr().err.startswith("python jobs/benchmark.py toy: error: unexpected IndexError")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [([], 0, "crops"), (["--help"], 0, "ingest"), (["crop"], 2, "did you mean crops"), (["x"], 2, "known: crops")],
)
def test_command_lists_benchmarks_and_suggests_names(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_benchmark(arguments)
    output = capsys.readouterr()
    assert ended.value.code == status
    assert message in output.out + output.err


@pytest.mark.parametrize("name", ["crops", "ingest"])
def test_help_lists_every_setting_and_examples_are_valid(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_benchmark([name, "--help"])
    assert ended.value.code == 0
    output = capsys.readouterr().out
    assert output.startswith(f"usage: python jobs/benchmark.py {name}")
    assert "--json FILE" in output
    kind = {"crops": CropsBenchmark, "ingest": IngestBenchmark}[name]
    for setting in list_settings(kind):
        assert f"\n  {setting.name}  ({setting.type}; " in output
        assert setting.description.endswith(".") or ":" in setting.description
    for example in BENCHMARKS[name].examples:
        settings.load(kind, [], [argument for argument in example.split() if "=" in argument])


def test_script_runs_the_command() -> None:
    script = CHECKOUT / "jobs" / "benchmark.py"
    assert "run_benchmark()" in script.read_text()
