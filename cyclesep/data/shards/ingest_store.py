"""Output of an ingest: a folder, or a prefix of a bucket.

An ingest first writes its settings (ingest.json), then the shards of each track followed by the track's record, and the
manifest last. A corpus without a manifest does not exist for readers; a record means that the track's shards are
complete.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cyclesep.data.shards.manifest import (
    MANIFEST_NAME,
    TrackRecord,
    read_manifest,
    read_track_record,
    write_track_record,
)
from cyclesep.errors import CorpusError, LockHeldError, ObjectNotFound, ShardError, StorageError
from cyclesep.storage.path import StoragePath
from cyclesep.storage.s3_transfers import Upload, abort_uploads, upload

_SETTINGS_NAME = "ingest.json"
_LOCK_NAME = ".ingest.lock"
_RECORD_SUFFIX = ".track.json"
_OWN_FILE = re.compile(r"[a-z0-9-]+-[0-9a-f]{16}(-\d+\.lmdb|\.track\.json)|\..+\.[0-9a-f]{8}\.partial")
_NUM_READERS = 16


class IngestOutput:
    """The files of one corpus, in a folder or at `s3://bucket/prefix`; picklable, for the tasks that write tracks."""

    def __init__(self, location: str) -> None:
        self.path = StoragePath.of(location)

    def create_or_resume(self, settings: dict[str, Any]) -> None:
        """Write the settings to a new output; raise CorpusError if an existing one has other settings."""
        existing = self._settings()
        if existing is None:
            self.path.write_text(_SETTINGS_NAME, json.dumps(settings, indent=2) + "\n")
            return
        for name in settings:
            if existing.get(name) != settings[name]:
                raise CorpusError(
                    f"{self.path.uri}: was ingested with {name}={existing.get(name)}, not {settings[name]}; "
                    "choose another output or delete the folder"
                )

    def finished(self, wanted: Iterable[str]) -> dict[str, TrackRecord]:
        """Return the records of wanted tracks that an earlier run completed, by the start of their file names."""
        sizes = self.path.sizes("")
        stems = [stem for stem in wanted if stem + _RECORD_SUFFIX in sizes]
        with ThreadPoolExecutor(_NUM_READERS if self.path.is_remote else 1) as pool:
            records = list(pool.map(self._record, stems))
        return {
            stem: record
            for stem, record in zip(stems, records, strict=True)
            if record is not None and all(sizes.get(shard.name) == shard.bytes for shard in record.shards)
        }

    def published_tracks(self) -> tuple[TrackRecord, ...]:
        """Return the tracks in the manifest; none if there is no readable manifest."""
        with suppress(ShardError):
            return read_manifest(self.path.uri).tracks
        return ()

    def remove_leftovers(self, tracks: Iterable[TrackRecord]) -> None:
        """Delete all files written by an ingest except those of `tracks`."""
        kept = {name for track in tracks for name in (_record_name(track), *(shard.name for shard in track.shards))}
        names = self.path.sizes("")
        self.path.delete(*(name for name in names if name not in kept and _OWN_FILE.fullmatch(name)))

    @contextmanager
    def exclusive_lock(self) -> Iterator[Callable[[], None]]:
        """Lock the output against other ingests; on exit, delete the settings if no track was finished.

        Yields a function that raises StorageError if the lock was lost; call it before writing the manifest. Raises
        CorpusError if another ingest holds the lock, StorageError if the output cannot be written.
        """
        with ExitStack() as stack:
            if not self.path.is_remote and not self.path.exists():
                stack.callback(_remove_if_empty, self.path.path)
            try:
                check = stack.enter_context(self.path.lock(_LOCK_NAME))
            except LockHeldError as held:
                raise CorpusError(
                    f"{self.path.uri}: another ingest is writing there, {held.owner}; wait for it or choose another "
                    "output"
                ) from held
            if self.path.is_remote:
                # Unfinished uploads cost money; listing them needs a permission that may be missing.
                with suppress(StorageError):
                    abort_uploads(self.path.uri)
            try:
                yield check
            finally:
                with suppress(StorageError):
                    check()
                    self._delete_settings_without_tracks()

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a local folder for the shards of one track: the output, or a temporary folder if that is in S3."""
        if not self.path.is_remote:
            yield self.path.path
            return
        with tempfile.TemporaryDirectory(prefix="cyclesep-ingest-") as folder:
            yield Path(folder)

    def commit(self, track: TrackRecord, scratch: Path) -> None:
        """Publish the shards of a track from its scratch folder, then its record."""
        if self.path.is_remote:
            upload(
                [
                    Upload(path=scratch / shard.name, uri=self.path.file_uri(shard.name), sha256=shard.sha256)
                    for shard in track.shards
                ]
            )
        write_track_record(self.path, _record_name(track), track)

    def _record(self, stem: str) -> TrackRecord | None:
        with suppress(ShardError):
            return read_track_record(self.path.file_uri(stem + _RECORD_SUFFIX))
        return None

    def _settings(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self.path.read_text(_SETTINGS_NAME)))
        except ObjectNotFound:
            return None
        except ValueError as problem:
            raise CorpusError(
                f"{self.path.file_uri(_SETTINGS_NAME)}: cannot be read ({problem}); "
                "delete the folder or choose another output"
            ) from problem

    def _delete_settings_without_tracks(self) -> None:
        names = self.path.sizes("")
        if MANIFEST_NAME not in names and not any(name.endswith(_RECORD_SUFFIX) for name in names):
            self.path.delete(_SETTINGS_NAME)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _record_name(track: TrackRecord) -> str:
    return track.shards[0].name.rpartition("-")[0] + _RECORD_SUFFIX
