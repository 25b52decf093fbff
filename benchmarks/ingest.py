"""Hours of music ingested per hour, from MUSDB18-HQ wavs and from .stem.mp4, compared with a plain musdb loop."""

import math
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import ray
from annotated_types import Ge

from benchmarks.musdb_loop import musdb_loop
from benchmarks.table import Row, Table
from cyclesep.audio.audio_io import Waveform
from cyclesep.cluster.connect import connect
from cyclesep.data.config import IngestConfig
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import SyntheticTrack, synthetic_tracks
from cyclesep.data.corpora.composer.writers import write_musdb_hq, write_stem_mp4
from cyclesep.data.corpora.config import CorpusConfig
from cyclesep.data.corpora.corpus import Track, find_tracks
from cyclesep.data.ingest import ingest as ingest_songs
from cyclesep.data.ingest import ingest_track
from cyclesep.data.preprocess import prepare
from cyclesep.data.shards.ingest_store import IngestOutput
from cyclesep.data.shards.writing import write_track

UNIT = "hours/h"
MUSDB, ONE_PROCESS, ON_RAY = "plain musdb loop", "cyclesep, one process", "cyclesep, Ray, all cores"

_SONG_SECONDS = 12.0


@dataclass(frozen=True, kw_only=True)
class IngestBenchmark:
    """Configuration of the ingest benchmark."""

    sources: tuple[Literal["wav", "stem.mp4"], ...] = ("wav", "stem.mp4")
    """wav: folders as in MUSDB18-HQ; stem.mp4: files as in MUSDB18, here lossless (ALAC)."""
    tracks: Annotated[int, Ge(1)] = 4
    """Number of tracks, each of five stereo stems at 44.1 kHz."""
    track_seconds: Annotated[float, Ge(12.0)] = 120.0
    """Length of a track, rounded up to multiples of 12 s, which are synthesised once and repeated."""
    sample_rate: Annotated[int, Ge(4000)] = 44100
    """Samples per second of the shards."""
    channels: Literal[1, 2] = 2
    """Channels of the shards."""
    rounds: Annotated[int, Ge(1)] = 3
    """Rounds in which all methods take turns; the median is reported."""
    folder: str = ""
    """Folder for temporary music and shards; default: the system's temporary folder."""


@dataclass(frozen=True, kw_only=True)
class RepeatedTrack(SyntheticTrack):
    """A synthetic song that is repeated, to get long music quickly."""

    times: int

    def read(self) -> dict[str, Waveform]:
        """Return mixture and stems, `times` as long."""
        return {
            name: Waveform(samples=np.tile(waveform.samples, (1, self.times)), sample_rate=waveform.sample_rate)
            for name, waveform in super().read().items()
        }


@dataclass(frozen=True, kw_only=True)
class _Spent:
    seconds: float
    cpu_seconds: float
    """Of this process and its finished child processes."""


def run(config: IngestBenchmark) -> Sequence[Table]:
    """Measure every kind of source; temporary files are deleted."""
    with tempfile.TemporaryDirectory(prefix="cyclesep-ingest-", dir=config.folder or None) as folder, connect():
        return [table for source in config.sources for table in _tables(config, source, Path(folder))]


def _tables(config: IngestBenchmark, source: str, folder: Path) -> list[Table]:
    root = folder / f"music-{source}"
    {"wav": write_musdb_hq, "stem.mp4": write_stem_mp4}[source](_songs(config), root)
    tracks = find_tracks(CorpusConfig(kind="musdb18", path=str(root)))
    hours = config.tracks * _repeats(config) * _SONG_SECONDS / 3600
    new_folders = (folder / f"{source}-{number}" for number in range(10**6))
    methods: dict[str, Callable[[], object]] = {
        MUSDB: lambda: musdb_loop(
            root, next(new_folders), is_wav=source == "wav", sample_rate=config.sample_rate, channels=config.channels
        ),
        ONE_PROCESS: lambda: _ingest_here(tracks, _ingest_config(config, root, next(new_folders))),
        ON_RAY: lambda: ingest_songs(_ingest_config(config, root, next(new_folders)), tracks),
    }
    # Warm-up: Ray starts its workers on first use.
    methods[ON_RAY]()
    spent: dict[str, list[_Spent]] = {method: [] for method in methods}
    for _ in range(config.rounds):
        for method, ingest in methods.items():
            spent[method].append(_timed(ingest))
    title = (
        f"{config.tracks} tracks of {hours * 3600 / config.tracks:g} s, five stereo stems at 44.1 kHz, {source}, "
        f"into shards of {config.sample_rate / 1000:g} kHz {'stereo' if config.channels == 2 else 'mono'}"
    )
    rows = [_row(method, hours, times) for method, times in spent.items()]
    return [
        Table(title=title, unit=UNIT, baseline=MUSDB, rows=tuple(rows)),
        _stages(tracks, _ingest_config(config, root, next(new_folders)), hours, title),
    ]


def _songs(config: IngestBenchmark) -> list[RepeatedTrack]:
    tracks = synthetic_tracks(SyntheticConfig(num_train=config.tracks, num_valid=0, num_test=0, seconds=_SONG_SECONDS))
    return [RepeatedTrack(**vars(track), times=_repeats(config)) for track in tracks]


def _repeats(config: IngestBenchmark) -> int:
    return math.ceil(config.track_seconds / _SONG_SECONDS)


def _ingest_config(config: IngestBenchmark, root: Path, output: Path) -> IngestConfig:
    return IngestConfig(
        corpus=CorpusConfig(kind="musdb18", path=str(root)),
        output=str(output),
        sample_rate=config.sample_rate,
        channels=config.channels,
    )


def _ingest_here(tracks: Sequence[Track], config: IngestConfig) -> None:
    """Run the work of Ray's tasks one by one in this process."""
    Path(config.output).mkdir()
    output = IngestOutput(config.output)
    for track in tracks:
        ingest_track(track, config, output)


def _timed(action: Callable[[], object]) -> _Spent:
    began, cpu_before = time.perf_counter(), _cpu_seconds()
    action()
    return _Spent(seconds=time.perf_counter() - began, cpu_seconds=_cpu_seconds() - cpu_before)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _row(method: str, hours: float, times: Sequence[_Spent]) -> Row:
    """Make a row: rate by wall time; per core by CPU time, or for Ray by the number of cores."""
    rate = statistics.median(hours * 3600 / spent.seconds for spent in times)
    if method == ON_RAY:
        per_core = rate / ray.cluster_resources()["CPU"]
    else:
        per_core = statistics.median(hours * 3600 / spent.cpu_seconds for spent in times)
    return Row(method=method, rate=rate, columns={"per core": per_core})


def _stages(tracks: Sequence[Track], config: IngestConfig, hours: float, title: str) -> Table:
    """Measure each stage of one process alone."""
    spent = {"decode": 0.0, "resample, mix down, check": 0.0, "round, hash, write": 0.0}
    for track in tracks:
        cpu = [_cpu_seconds()]
        waveforms = track.read()
        cpu.append(_cpu_seconds())
        prepared = prepare(waveforms, sample_rate=config.sample_rate, channels=config.channels)
        cpu.append(_cpu_seconds())
        segment_samples = round(config.segment_seconds * config.sample_rate)
        write_track(
            Path(config.output),
            prepared.stems,
            track_id=track.track_id,
            split=track.split,
            sample_rate=config.sample_rate,
            segment_samples=segment_samples,
        )
        cpu.append(_cpu_seconds())
        for stage, before, after in zip(spent, cpu[:-1], cpu[1:], strict=True):
            spent[stage] += after - before
    total = sum(spent.values())
    rows = [Row(method="all", rate=hours * 3600 / total, columns={"share": 1.0})]
    rows += [
        Row(method=stage, rate=hours * 3600 / max(seconds, 1e-9), columns={"share": seconds / total})
        for stage, seconds in spent.items()
    ]
    return Table(title=f"where one process spends its CPU time: {title}", unit=UNIT, baseline="all", rows=tuple(rows))
