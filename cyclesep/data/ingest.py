"""Music to shards on a Ray cluster: one task per track; what is finished stays finished when the run is interrupted."""

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
from cyclesep.data.shards.ingest_store import Output, open_output
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

# A mixture that differs from the sum of its stems by more is told; AAC alone stays below.
RESIDUAL_DB = -20.0


@dataclass(frozen=True, kw_only=True)
class FailedTrack:
    """A track that is not in the corpus, and why."""

    track_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What one ingest did."""

    output: str
    """Where the corpus lies: an absolute path, or s3://bucket/prefix."""
    manifest: ShardManifest
    num_ingested: int
    """Tracks that this run wrote."""
    num_kept: int
    """Tracks that an earlier run had finished."""
    failed: tuple[FailedTrack, ...]
    seconds: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about tracks that are in the corpus, then about all of them together, one line each."""
        of_tracks = [f"{track.track_id}: {warning}" for track in self.manifest.tracks for warning in track.warnings]
        return (*of_tracks, *_odd_together(self.manifest))

    def summary(self) -> str:
        """A few lines for a person: what is there, what was odd, what failed and why."""
        counts = ", ".join(f"{len(self.manifest.split(split))} {split}" for split in ("train", "valid", "test"))
        lines = [
            f"{display_path(self.output)}: {len(self.manifest.tracks)} tracks ({counts}), "
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


def ingest(config: IngestConfig, tracks: Sequence[Track] | None = None) -> IngestReport:
    """Write the shards of a corpus, the manifest last; Ray must be running.

    `tracks` are those of `config.corpus` if they were looked for before. Tracks that fail are named in the report and
    the others go on. Raises CorpusError if there is no music, if no track could be ingested, or if the output holds a
    corpus of other settings or is being ingested into; StorageError if it cannot be written.
    """
    started = time.monotonic()
    tracks = find_tracks(config.corpus) if tracks is None else tracks
    output = open_output(config.output)
    with output.only_ingest() as refuse_others:
        output.create_or_resume(_settings_of(config))
        wanted = {_file_stem(track, config): track for track in tracks}
        kept = output.finished(wanted)
        served = output.served()
        output.remove_leftovers([*kept.values(), *served])
        todo = {stem: track for stem, track in wanted.items() if stem not in kept}
        outcomes = list(_ingest_all(todo, config, output, num_kept=len(kept)))
        ingested = [outcome for outcome in outcomes if isinstance(outcome, TrackRecord)]
        failed = [outcome for outcome in outcomes if isinstance(outcome, FailedTrack)]
        if not ingested and not kept:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise CorpusError(
                f"none of {len(tracks)} tracks could be ingested; {failed[0].track_id}: {failed[0].reason}{more}"
            )
        manifest = make_manifest([*kept.values(), *ingested])
        refuse_others()
        if manifest.tracks != served:
            write_manifest(output.place, manifest)
        output.remove_leftovers(manifest.tracks)
    return IngestReport(
        output=output.place,
        manifest=manifest,
        num_ingested=len(ingested),
        num_kept=len(kept),
        failed=tuple(sorted(failed, key=lambda failure: failure.track_id)),
        seconds=time.monotonic() - started,
    )


def ingest_track(track: Track, config: IngestConfig, output: Output) -> TrackRecord | FailedTrack:
    """Read, prepare and write one track; the body of a Ray task. Raises StorageError, which no other track survives."""
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
            told = f"the mixture is not the sum of the stems, the residual is {record.residual_db:.1f} dB"
            record = replace(record, warnings=(*record.warnings, told))
        output.keep(record, folder)
    return record


def _ingest_all(
    tracks: Mapping[str, Track], config: IngestConfig, output: Output, *, num_kept: int
) -> Iterator[TrackRecord | FailedTrack]:
    """Outcomes as they come, shown on a progress bar on stderr."""
    with LiveBar() as progress:
        bar = progress.add_task("ingest", total=num_kept + len(tracks), completed=num_kept)
        num_failed = 0
        for outcome in _outcomes(tracks.values(), config, output):
            num_failed += isinstance(outcome, FailedTrack)
            progress.update(bar, advance=1, description=f"ingest ({num_failed} failed)" if num_failed else "ingest")
            yield outcome


def _outcomes(tracks: Iterable[Track], config: IngestConfig, output: Output) -> Iterator[TrackRecord | FailedTrack]:
    task = ray.remote(num_cpus=1, max_retries=1)(ingest_track)
    waiting = iter(tracks)
    running: dict[Any, Track] = {}
    try:
        while True:
            # Twice the cores, of which there may be more by now: the next task is at hand when one ends, and memory is
            # only used by those that run.
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


def _odd_together(manifest: ShardManifest) -> Iterator[str]:
    counts = Counter(stem for track in manifest.tracks for stem in track.stems)
    alike: dict[str, list[str]] = {}
    for stem in manifest.stems:
        alike.setdefault(stem.casefold(), []).append(stem)
    for names in alike.values():
        if len(names) > 1:
            told = " and ".join(f"{name} ({counts[name]} tracks)" for name in names)
            yield f"stems {told} differ in case only and count as different; name the files alike and ingest again"
    if manifest.split("train") and not manifest.split("valid"):
        yield (
            "no track is in the valid split, so a training will not be validated; divide the tracks yourself "
            "(sub-folders train, valid and test), or add some"
        )
