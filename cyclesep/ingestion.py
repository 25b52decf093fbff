"""Music to shards on a Ray cluster: one task per track; what is finished stays finished when the run is interrupted."""

import fcntl
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import ray
from annotated_types import Ge, Gt, Le
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cyclesep.corpus import CorpusConfig, Track, describe, find_tracks
from cyclesep.errors import AudioError, CorpusError, CyclesepError, ShardError, StorageError
from cyclesep.files import shown, write_text
from cyclesep.manifest import (
    MANIFEST_NAME,
    VERSION,
    ShardManifest,
    TrackRecord,
    make_manifest,
    read_manifest,
    read_track_record,
    track_file_stem,
    write_manifest,
    write_track_record,
)
from cyclesep.preparation import prepare
from cyclesep.shard_writing import write_track

# A mixture that differs from the sum of its stems by more is told; AAC alone stays below.
RESIDUAL_DB = -20.0

_SETTINGS_NAME = "ingest.json"
_LOCK_NAME = ".ingest.lock"
_RECORD_SUFFIX = ".track.json"
_OWN_FILE = re.compile(r"[a-z0-9-]+-[0-9a-f]{16}(-\d+\.lmdb|\.track\.json)|\..+\.[0-9a-f]{8}\.partial")


@dataclass(frozen=True, kw_only=True)
class IngestConfig:
    """What music becomes which shards."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """Which music."""
    output: str
    """The folder to write shards into; on a cluster, one that all machines share."""
    sample_rate: Annotated[int, Ge(4000), Le(192000)] = 44100
    """Samples per second; sources of other rates are resampled."""
    channels: Literal[1, 2] = 2
    """1: stereo is mixed down to mono; 2: mono is doubled."""
    segment_seconds: Annotated[float, Gt(0.0), Le(60.0)] = 4.0
    """Length of one record: crops across a border cost a second look-up, a first look at a record checks all of it."""
    max_shard_mib: Annotated[int, Ge(1), Le(65536)] = 256
    """Largest LMDB file in MiB; a longer track is spread over several."""


@dataclass(frozen=True, kw_only=True)
class FailedTrack:
    """A track that is not in the corpus, and why."""

    track_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What one ingest did."""

    folder: Path
    manifest: ShardManifest
    num_ingested: int
    """Tracks that this run wrote."""
    num_kept: int
    """Tracks that an earlier run had finished."""
    failed: tuple[FailedTrack, ...]
    seconds: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was odd about tracks that are in the corpus, one line each."""
        return tuple(f"{track.track_id}: {warning}" for track in self.manifest.tracks for warning in track.warnings)

    def summary(self) -> str:
        """A few lines for a person: what is there, what was odd, what failed and why."""
        counts = ", ".join(f"{len(self.manifest.split(split))} {split}" for split in ("train", "valid", "test"))
        lines = [
            f"{shown(self.folder)}: {len(self.manifest.tracks)} tracks ({counts}), "
            f"{self.manifest.hours * 60:.1f} minutes at {self.manifest.sample_rate} Hz, "
            f"{self.manifest.channels} channels, stems {', '.join(self.manifest.stems)}"
        ]
        if self.num_ingested or self.failed:
            lines.append(f"ingested {self.num_ingested}, kept {self.num_kept}, in {self.seconds:.1f} s")
        else:
            lines.append("everything was ingested before; nothing to do")
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"failed: {failure.track_id}: {failure.reason}" for failure in self.failed]
        return "\n".join(lines)


def ingest(config: IngestConfig) -> IngestReport:
    """Write the shards of a corpus, the manifest last; Ray must be running.

    Tracks that fail are named in the report and the others go on. Raises CorpusError if there is no music, if no track
    could be ingested, or if the folder holds a corpus of other settings or is being ingested into; StorageError if it
    cannot be written.
    """
    started = time.monotonic()
    tracks = find_tracks(config.corpus)
    folder = Path(config.output).expanduser().absolute()
    with _only_ingest_into(folder):
        _claim(folder, _settings_of(config))
        wanted = {_file_stem(track, config): track for track in tracks}
        kept = _finished(folder, wanted)
        _remove_leftovers(folder, [*kept.values(), *_served(folder)])
        todo = {stem: track for stem, track in wanted.items() if stem not in kept}
        outcomes = list(_ingest_all(todo, config, folder, num_kept=len(kept)))
        ingested = [outcome for outcome in outcomes if isinstance(outcome, TrackRecord)]
        failed = [outcome for outcome in outcomes if isinstance(outcome, FailedTrack)]
        if not ingested and not kept:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise CorpusError(
                f"none of {len(tracks)} tracks could be ingested; {failed[0].track_id}: {failed[0].reason}{more}"
            )
        manifest = make_manifest([*kept.values(), *ingested])
        if manifest.tracks != _served(folder):
            write_manifest(folder, manifest)
        _remove_leftovers(folder, manifest.tracks)
    return IngestReport(
        folder=folder,
        manifest=manifest,
        num_ingested=len(ingested),
        num_kept=len(kept),
        failed=tuple(sorted(failed, key=lambda failure: failure.track_id)),
        seconds=time.monotonic() - started,
    )


def ingest_track(track: Track, config: IngestConfig, folder: Path) -> TrackRecord | FailedTrack:
    """Read, prepare and write one track; the body of a Ray task. Raises StorageError, which no other track survives."""
    fingerprint = track.fingerprint()
    try:
        prepared = prepare(track.read(), sample_rate=config.sample_rate, channels=config.channels)
    except (AudioError, CorpusError) as problem:
        return FailedTrack(track_id=track.track_id, reason=str(problem))
    record = write_track(
        folder,
        prepared.stems,
        track_id=track.track_id,
        split=track.split,
        sample_rate=config.sample_rate,
        segment_samples=_segment_samples(config),
        max_shard_bytes=config.max_shard_mib * 2**20,
        clipped_samples=prepared.clipped_samples,
        warnings=prepared.warnings,
        fingerprint=fingerprint,
    )
    if record.residual_db is not None and record.residual_db > RESIDUAL_DB:
        told = f"the mixture is not the sum of the stems, the residual is {record.residual_db:.1f} dB"
        record = replace(record, warnings=(*record.warnings, told))
    write_track_record(folder / _record_name(record), record)
    return record


def _ingest_all(
    tracks: Mapping[str, Track], config: IngestConfig, folder: Path, *, num_kept: int
) -> Iterator[TrackRecord | FailedTrack]:
    """Outcomes as they come, shown on a progress bar on stderr."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("tracks"), TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    title = TextColumn("{task.description}")
    with Progress(title, *columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("ingest", total=num_kept + len(tracks), completed=num_kept)
        num_failed = 0
        for outcome in _outcomes(tracks.values(), config, folder):
            num_failed += isinstance(outcome, FailedTrack)
            progress.update(bar, advance=1, description=f"ingest ({num_failed} failed)" if num_failed else "ingest")
            yield outcome


def _outcomes(tracks: Iterable[Track], config: IngestConfig, folder: Path) -> Iterator[TrackRecord | FailedTrack]:
    task = ray.remote(num_cpus=1, max_retries=1)(ingest_track)
    # Twice the cores: the next task is at hand when one ends, and memory is only used by those that run.
    limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = iter(tracks)
    running: dict[Any, Track] = {}
    try:
        while True:
            for track in waiting:
                running[task.remote(track, config, folder)] = track
                if len(running) >= limit:
                    break
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            yield _outcome(done, running.pop(done))
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _outcome(reference: Any, track: Track) -> TrackRecord | FailedTrack:
    try:
        outcome: TrackRecord | FailedTrack = ray.get(reference)
        return outcome
    except StorageError as problem:
        raise StorageError(str(getattr(problem, "cause", problem))) from problem
    except ray.exceptions.RayTaskError as problem:
        cause = problem.cause
        named = str(cause) if isinstance(cause, CyclesepError) else f"{type(cause).__name__}: {cause}"
        return FailedTrack(track_id=track.track_id, reason=" ".join(named.split()))
    except ray.exceptions.RayError as problem:
        return FailedTrack(
            track_id=track.track_id, reason=f"its task died ({type(problem).__name__}); run ingest again"
        )


@contextmanager
def _only_ingest_into(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system gives back however this process ends; leave no empty folder behind."""
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK_NAME).open("a")
    except OSError as problem:
        raise StorageError(f"{folder}: cannot be written ({problem.strerror}); choose another output") from problem
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            raise CorpusError(
                f"{folder}: another ingest is writing there; wait for it or choose another output"
            ) from problem
        try:
            yield
        finally:
            _tidy(folder, remove_folder=not existed)


def _tidy(folder: Path, *, remove_folder: bool) -> None:
    """Leave nothing behind of an ingest that finished no track."""
    names = [path.name for path in folder.iterdir()]
    if MANIFEST_NAME not in names and not any(name.endswith(_RECORD_SUFFIX) for name in names):
        (folder / _SETTINGS_NAME).unlink(missing_ok=True)
        # Under the lock, and only together with the folder: else two ingests could hold two locks of one name.
        if remove_folder and set(names) <= {_SETTINGS_NAME, _LOCK_NAME}:
            (folder / _LOCK_NAME).unlink()
            folder.rmdir()


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Note the settings in a folder that has none; raise CorpusError if it was ingested with others."""
    path = folder / _SETTINGS_NAME
    if not path.exists():
        write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as problem:
        raise CorpusError(
            f"{path}: cannot be read ({problem}); delete the folder or choose another output"
        ) from problem
    for name in settings:
        if before.get(name) != settings[name]:
            raise CorpusError(
                f"{folder}: was ingested with {name}={before.get(name)}, not {settings[name]}; "
                "choose another output or delete the folder"
            )


def _settings_of(config: IngestConfig) -> dict[str, Any]:
    return {
        "format_version": VERSION,
        **{f"corpus.{name}": value for name, value in describe(config.corpus).items()},
        "sample_rate": config.sample_rate,
        "channels": config.channels,
        "segment_samples": _segment_samples(config),
        "max_shard_mib": config.max_shard_mib,
    }


def _segment_samples(config: IngestConfig) -> int:
    return max(1, round(config.segment_seconds * config.sample_rate))


def _file_stem(track: Track, config: IngestConfig) -> str:
    return track_file_stem(
        track.track_id,
        split=track.split,
        fingerprint=track.fingerprint(),
        sample_rate=config.sample_rate,
        channels=config.channels,
        segment_samples=_segment_samples(config),
    )


def _record_name(track: TrackRecord) -> str:
    return track.shards[0].name.rpartition("-")[0] + _RECORD_SUFFIX


def _finished(folder: Path, wanted: Iterable[str]) -> dict[str, TrackRecord]:
    """The records of wanted tracks whose files an earlier run left complete, by the start of their file names."""
    finished = {}
    for stem in wanted:
        with suppress(ShardError):
            record = read_track_record(folder / (stem + _RECORD_SUFFIX))
            places = [(folder / shard.name, shard.bytes) for shard in record.shards]
            if all(path.is_file() and path.stat().st_size == size for path, size in places):
                finished[stem] = record
    return finished


def _served(folder: Path) -> tuple[TrackRecord, ...]:
    """The tracks that the folder's manifest names, if there is one that can be read."""
    with suppress(ShardError):
        return read_manifest(folder).tracks
    return ()


def _remove_leftovers(folder: Path, keep: Iterable[TrackRecord]) -> None:
    """Delete files that an ingest wrote and that belong to none of the tracks to keep."""
    kept = {name for track in keep for name in (_record_name(track), *(shard.name for shard in track.shards))}
    for path in folder.iterdir():
        if path.name not in kept and _OWN_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)
