"""Output of an ingest: a folder, or a prefix of a bucket.

An ingest first writes its settings (ingest.json), then the shards of each track followed by the track's record, and the
manifest last. A corpus without a manifest does not exist for readers; a record means that the track's shards are
complete.
"""

import fcntl
import json
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from typing_extensions import override

from cyclesep.data.shards.manifest import (
    MANIFEST_NAME,
    TrackRecord,
    read_manifest,
    read_track_record,
    write_track_record,
)
from cyclesep.errors import CorpusError, LockHeldError, ObjectNotFound, ShardError, StorageError
from cyclesep.storage import s3_objects
from cyclesep.storage.atomic_io import write_text
from cyclesep.storage.s3_lock import S3Lock
from cyclesep.storage.s3_transfers import Upload, abort_uploads, upload
from cyclesep.storage.uri import absolute_uri, is_remote, join_uri

_SETTINGS_NAME = "ingest.json"
_LOCK_NAME = ".ingest.lock"
_RECORD_SUFFIX = ".track.json"
_OWN_FILE = re.compile(r"[a-z0-9-]+-[0-9a-f]{16}(-\d+\.lmdb|\.track\.json)|\..+\.[0-9a-f]{8}\.partial")
_NUM_READERS = 16


def open_output(location: str) -> "Output":
    """Return the output at `s3://bucket/prefix` or in a folder."""
    absolute = absolute_uri(location)
    return BucketOutput(absolute) if is_remote(absolute) else FolderOutput(absolute)


class Output(ABC):
    """The files of one corpus; picklable, for the tasks that write tracks."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        """An absolute path, or s3://bucket/prefix."""

    def create_or_resume(self, settings: dict[str, Any]) -> None:
        """Write the settings to a new output; raise CorpusError if an existing one has other settings."""
        existing = self._settings()
        if existing is None:
            self._write(_SETTINGS_NAME, json.dumps(settings, indent=2) + "\n")
            return
        for name in settings:
            if existing.get(name) != settings[name]:
                raise CorpusError(
                    f"{self.uri}: was ingested with {name}={existing.get(name)}, not {settings[name]}; "
                    "choose another output or delete the folder"
                )

    def finished(self, wanted: Iterable[str]) -> dict[str, TrackRecord]:
        """Return the records of wanted tracks that an earlier run completed, by the start of their file names."""
        sizes = self._sizes()
        stems = [stem for stem in wanted if stem + _RECORD_SUFFIX in sizes]
        return {
            stem: record
            for stem, record in zip(stems, self._records(stems), strict=True)
            if record is not None and all(sizes.get(shard.name) == shard.bytes for shard in record.shards)
        }

    def published_tracks(self) -> tuple[TrackRecord, ...]:
        """Return the tracks in the manifest; none if there is no readable manifest."""
        with suppress(ShardError):
            return read_manifest(self.uri).tracks
        return ()

    def remove_leftovers(self, tracks: Iterable[TrackRecord]) -> None:
        """Delete all files written by an ingest except those of `tracks`."""
        kept = {name for track in tracks for name in (_record_name(track), *(shard.name for shard in track.shards))}
        self._remove(name for name in self._sizes() if name not in kept and _OWN_FILE.fullmatch(name))

    @abstractmethod
    def exclusive_lock(self) -> AbstractContextManager[Callable[[], None]]:
        """Lock the output against other ingests; on exit, delete the settings if no track was finished.

        Yields a function that raises StorageError if the lock was lost; call it before writing the manifest. Raises
        CorpusError if another ingest holds the lock, StorageError if the output cannot be written.
        """

    @abstractmethod
    def scratch(self) -> AbstractContextManager[Path]:
        """Return a local folder for the shards of one track."""

    @abstractmethod
    def commit(self, track: TrackRecord, scratch: Path) -> None:
        """Publish the shards of a track from its scratch folder, then its record."""

    @abstractmethod
    def _sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of all files by name."""

    @abstractmethod
    def _read(self, name: str) -> str | None:
        """Return the text of a file, None if it does not exist. Raises OSError, UnicodeDecodeError or StorageError."""

    @abstractmethod
    def _write(self, name: str, text: str) -> None: ...

    @abstractmethod
    def _remove(self, names: Iterable[str]) -> None: ...

    def _records(self, stems: list[str]) -> Iterable[TrackRecord | None]:
        return map(self._record, stems)

    def _record(self, stem: str) -> TrackRecord | None:
        with suppress(ShardError):
            return read_track_record(self._uri_of(stem + _RECORD_SUFFIX))
        return None

    def _uri_of(self, name: str) -> str:
        return join_uri(self.uri, name)

    def _settings(self) -> dict[str, Any] | None:
        try:
            text = self._read(_SETTINGS_NAME)
            return None if text is None else dict(json.loads(text))
        except (OSError, ValueError) as problem:
            raise CorpusError(
                f"{self._uri_of(_SETTINGS_NAME)}: cannot be read ({problem}); "
                "delete the folder or choose another output"
            ) from problem

    def _delete_settings_without_tracks(self) -> None:
        names = self._sizes()
        if MANIFEST_NAME not in names and not any(name.endswith(_RECORD_SUFFIX) for name in names):
            self._remove([_SETTINGS_NAME])


class FolderOutput(Output):
    """A folder: tracks are written in place, and the lock is a flock(2), which ends with the process."""

    @override
    @contextmanager
    def exclusive_lock(self) -> Iterator[Callable[[], None]]:
        folder = Path(self.uri)
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
                yield lambda: None
            finally:
                self._delete_settings_without_tracks()
                # While locked, and only with the folder; otherwise two processes could lock two files of this name.
                if not existed and [path.name for path in folder.iterdir()] == [_LOCK_NAME]:
                    (folder / _LOCK_NAME).unlink()
                    folder.rmdir()

    @override
    def scratch(self) -> AbstractContextManager[Path]:
        return nullcontext(Path(self.uri))

    @override
    def commit(self, track: TrackRecord, scratch: Path) -> None:
        write_track_record(scratch / _record_name(track), track)

    @override
    def _sizes(self) -> dict[str, int]:
        sizes = {}
        for path in Path(self.uri).iterdir():
            # Tasks of a killed ingest may still be writing.
            with suppress(FileNotFoundError):
                if path.is_file():
                    sizes[path.name] = path.stat().st_size
        return sizes

    @override
    def _read(self, name: str) -> str | None:
        path = Path(self.uri, name)
        return path.read_text(encoding="utf-8") if path.exists() else None

    @override
    def _write(self, name: str, text: str) -> None:
        write_text(Path(self.uri, name), text)

    @override
    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            Path(self.uri, name).unlink(missing_ok=True)


class BucketOutput(Output):
    """A prefix of a bucket: tracks are written to a temporary folder and uploaded, their record last."""

    @override
    @contextmanager
    def exclusive_lock(self) -> Iterator[Callable[[], None]]:
        try:
            lock = S3Lock(self._uri_of(_LOCK_NAME))
            lock.acquire()
        except LockHeldError as held:
            raise CorpusError(
                f"{self.uri}: another ingest is writing there, {held.owner}; wait for it or choose another output"
            ) from held
        try:
            # Unfinished uploads cost money; listing them needs a permission that may be missing.
            with suppress(StorageError):
                abort_uploads(self.uri)
            yield lock.check
        finally:
            with suppress(StorageError):
                lock.check()
                self._delete_settings_without_tracks()
            lock.release()

    @override
    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="cyclesep-ingest-") as folder:
            yield Path(folder)

    @override
    def commit(self, track: TrackRecord, scratch: Path) -> None:
        upload(
            [
                Upload(path=scratch / shard.name, uri=self._uri_of(shard.name), sha256=shard.sha256)
                for shard in track.shards
            ]
        )
        write_track_record(self._uri_of(_record_name(track)), track)

    @override
    def _records(self, stems: list[str]) -> Iterable[TrackRecord | None]:
        with ThreadPoolExecutor(_NUM_READERS) as pool:
            return list(pool.map(self._record, stems))

    @override
    def _sizes(self) -> dict[str, int]:
        return s3_objects.sizes(self.uri)

    @override
    def _read(self, name: str) -> str | None:
        with suppress(ObjectNotFound):
            return s3_objects.read_text(self._uri_of(name))
        return None

    @override
    def _write(self, name: str, text: str) -> None:
        s3_objects.write_text(self._uri_of(name), text)

    @override
    def _remove(self, names: Iterable[str]) -> None:
        s3_objects.delete(self.uri, names)


def _record_name(track: TrackRecord) -> str:
    return track.shards[0].name.rpartition("-")[0] + _RECORD_SUFFIX
