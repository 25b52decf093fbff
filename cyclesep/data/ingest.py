"""Convert music to shards on a Ray cluster, one task per track; finished tracks are kept if the run is interrupted."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import ray

from cyclesep.console.progress_bar import LiveBar
from cyclesep.data.config import IngestConfig
from cyclesep.data.corpora.corpus import Track, describe, find_tracks
from cyclesep.data.preprocess import prepare
from cyclesep.data.shards.ingest_store import IngestOutput
from cyclesep.data.shards.manifest import (
    VERSION,
    ShardManifest,
    TrackRecord,
    make_manifest,
    track_file_stem,
    write_manifest,
)
from cyclesep.data.shards.writing import write_track
from cyclesep.errors import AudioError, CorpusError, CyclesepError, StorageError
from cyclesep.storage.uri import display_path

# A mixture that differs more from the sum of its stems causes a warning; AAC alone stays below.
RESIDUAL_DB = -20.0


@dataclass(frozen=True, kw_only=True)
class FailedTrack:
    """A track that could not be ingested, with the reason."""

    track_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """Result of an ingest."""

    output: str
    """Location of the corpus: an absolute path, or s3://bucket/prefix."""
    manifest: ShardManifest
    num_ingested: int
    """Tracks that this run wrote."""
    num_unchanged: int
    """Tracks that an earlier run had finished."""
    failed: tuple[FailedTrack, ...]
    seconds: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about individual tracks, then about the corpus, one line each."""
        of_tracks = [f"{track.track_id}: {warning}" for track in self.manifest.tracks for warning in track.warnings]
        return (*of_tracks, *_corpus_warnings(self.manifest))

    def summary(self) -> str:
        """Return a summary for the terminal: size, warnings and failed tracks."""
        counts = ", ".join(f"{len(self.manifest.split(split))} {split}" for split in ("train", "valid", "test"))
        lines = [
            f"{display_path(self.output)}: {len(self.manifest.tracks)} tracks ({counts}), "
            f"{self.manifest.hours * 60:.1f} minutes at {self.manifest.sample_rate} Hz, "
            f"{self.manifest.channels} channels, stems {', '.join(self.manifest.stems)}"
        ]
        if self.num_ingested or self.failed:
            lines.append(f"{self.num_ingested} new, {self.num_unchanged} unchanged, in {self.seconds:.1f} s")
        else:
            lines.append("all tracks were already ingested; nothing to do")
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines += [f"failed: {failure.track_id}: {failure.reason}" for failure in self.failed]
        return "\n".join(lines)


def ingest(config: IngestConfig, tracks: Sequence[Track] | None = None) -> IngestReport:
    """Write the shards of a corpus, the manifest last; Ray must be running.

    `tracks` are those of `config.corpus`, if they are already known. The report lists failed tracks; all others are
    ingested. Raises CorpusError if there is no music, if no track could be ingested, if the output contains a corpus
    with other settings, or if another ingest is writing to it; StorageError if the output cannot be written.
    """
    started = time.monotonic()
    tracks = find_tracks(config.corpus) if tracks is None else tracks
    output = IngestOutput(config.output)
    with output.exclusive_lock() as check_lock:
        output.create_or_resume(_settings_of(config))
        wanted = {_file_stem(track, config): track for track in tracks}
        finished = output.finished(wanted)
        published = output.published_tracks()
        output.remove_leftovers([*finished.values(), *published])
        todo = {stem: track for stem, track in wanted.items() if stem not in finished}
        outcomes = list(_ingest_all(todo, config, output, num_unchanged=len(finished)))
        ingested = [outcome for outcome in outcomes if isinstance(outcome, TrackRecord)]
        failed = [outcome for outcome in outcomes if isinstance(outcome, FailedTrack)]
        if not ingested and not finished:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise CorpusError(
                f"none of {len(tracks)} tracks could be ingested; {failed[0].track_id}: {failed[0].reason}{more}"
            )
        manifest = make_manifest([*finished.values(), *ingested])
        check_lock()
        if manifest.tracks != published:
            write_manifest(output.path.uri, manifest)
        output.remove_leftovers(manifest.tracks)
    return IngestReport(
        output=output.path.uri,
        manifest=manifest,
        num_ingested=len(ingested),
        num_unchanged=len(finished),
        failed=tuple(sorted(failed, key=lambda failure: failure.track_id)),
        seconds=time.monotonic() - started,
    )


def ingest_track(track: Track, config: IngestConfig, output: IngestOutput) -> TrackRecord | FailedTrack:
    """Read, prepare and write one track, in a Ray task. Raises StorageError, which ends the whole ingest."""
    fingerprint = track.fingerprint()
    try:
        prepared = prepare(track.read(), sample_rate=config.sample_rate, channels=config.channels)
    except (AudioError, CorpusError) as problem:
        return FailedTrack(track_id=track.track_id, reason=str(problem))
    with output.scratch() as folder:
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
            warning = f"the mixture is not the sum of the stems, the residual is {record.residual_db:.1f} dB"
            record = replace(record, warnings=(*record.warnings, warning))
        output.commit(record, folder)
    return record


def _ingest_all(
    tracks: Mapping[str, Track], config: IngestConfig, output: IngestOutput, *, num_unchanged: int
) -> Iterator[TrackRecord | FailedTrack]:
    """Yield results as tasks finish, with a progress bar on stderr."""
    with LiveBar() as progress:
        bar = progress.add_task("ingest", total=num_unchanged + len(tracks), completed=num_unchanged)
        num_failed = 0
        for outcome in _outcomes(tracks.values(), config, output):
            num_failed += isinstance(outcome, FailedTrack)
            progress.update(bar, advance=1, description=f"ingest ({num_failed} failed)" if num_failed else "ingest")
            yield outcome


def _outcomes(
    tracks: Iterable[Track], config: IngestConfig, output: IngestOutput
) -> Iterator[TrackRecord | FailedTrack]:
    task = ray.remote(num_cpus=1, max_retries=1)(ingest_track)
    waiting = iter(tracks)
    running: dict[Any, Track] = {}
    try:
        while True:
            # Twice the cores (whose number can change), so that the next task is queued when one ends; only running
            # tasks use memory.
            limit = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
            for track in islice(waiting, max(0, limit - len(running))):
                running[task.remote(track, config, output)] = track
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


def _corpus_warnings(manifest: ShardManifest) -> Iterator[str]:
    counts = Counter(stem for track in manifest.tracks for stem in track.stems)
    alike: dict[str, list[str]] = {}
    for stem in manifest.stems:
        alike.setdefault(stem.casefold(), []).append(stem)
    for names in alike.values():
        if len(names) > 1:
            listed = " and ".join(f"{name} ({counts[name]} tracks)" for name in names)
            yield f"stems {listed} differ in case only and are different stems; rename the files and ingest again"
    if manifest.split("train") and not manifest.split("valid"):
        yield (
            "no track is in the valid split, so training runs without validation; add tracks, or divide them yourself "
            "into sub-folders train, valid and test"
        )
