"""Where an ingest writes: a folder, or a prefix of a bucket.

In both, first the settings are written (ingest.json), then for each track its shards and after them its record, last
the manifest. Without manifest there is no corpus; a record stands for shards that are whole.
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


def open_output(place: str) -> "Output":
    """The output that a setting names: `s3://bucket/prefix` or a folder."""
    absolute = absolute_uri(place)
    return BucketOutput(absolute) if is_remote(absolute) else FolderOutput(absolute)


class Output(ABC):
    """A place for the files of one corpus; small, and picklable for the tasks that write tracks into it."""

    def __init__(self, place: str) -> None:
        self.place = place
        """An absolute path, or a URI."""

    def create_or_resume(self, settings: dict[str, Any]) -> None:
        """Note the settings in a place that has none; raise CorpusError if it was ingested with others."""
        before = self._settings()
        if before is None:
            self._write(_SETTINGS_NAME, json.dumps(settings, indent=2) + "\n")
            return
        for name in settings:
            if before.get(name) != settings[name]:
                raise CorpusError(
                    f"{self.place}: was ingested with {name}={before.get(name)}, not {settings[name]}; "
                    "choose another output or delete the folder"
                )

    def finished(self, wanted: Iterable[str]) -> dict[str, TrackRecord]:
        """The records of wanted tracks whose files an earlier run left complete, by the start of their file names."""
        sizes = self._sizes()
        stems = [stem for stem in wanted if stem + _RECORD_SUFFIX in sizes]
        return {
            stem: record
            for stem, record in zip(stems, self._records(stems), strict=True)
            if record is not None and all(sizes.get(shard.name) == shard.bytes for shard in record.shards)
        }

    def served(self) -> tuple[TrackRecord, ...]:
        """The tracks that the manifest names, if there is one that can be read."""
        with suppress(ShardError):
            return read_manifest(self.place).tracks
        return ()

    def remove_leftovers(self, keep: Iterable[TrackRecord]) -> None:
        """Delete files that an ingest wrote and that belong to none of the tracks to keep."""
        kept = {name for track in keep for name in (_record_name(track), *(shard.name for shard in track.shards))}
        self._remove(name for name in self._sizes() if name not in kept and _OWN_FILE.fullmatch(name))

    @abstractmethod
    def only_ingest(self) -> AbstractContextManager[Callable[[], None]]:
        """Keep all other ingests out, and leave nothing behind of one that finished no track.

        Gives a function to be called before what must not happen twice: it raises StorageError if others may have come
        in. Raises CorpusError if another ingest is there, StorageError if the place cannot be written.
        """

    @abstractmethod
    def scratch(self) -> AbstractContextManager[Path]:
        """A folder of this machine to write the shards of one track into."""

    @abstractmethod
    def keep(self, track: TrackRecord, scratch: Path) -> None:
        """Put the shards of a track from its scratch folder into place, then its record."""

    @abstractmethod
    def _sizes(self) -> dict[str, int]:
        """Names and bytes of all files there."""

    @abstractmethod
    def _read(self, name: str) -> str | None:
        """The text of a file; None if there is none. Raises OSError, UnicodeDecodeError or StorageError."""

    @abstractmethod
    def _write(self, name: str, text: str) -> None: ...

    @abstractmethod
    def _remove(self, names: Iterable[str]) -> None: ...

    def _records(self, stems: list[str]) -> Iterable[TrackRecord | None]:
        return map(self._record, stems)

    def _record(self, stem: str) -> TrackRecord | None:
        with suppress(ShardError):
            return read_track_record(self._place_of(stem + _RECORD_SUFFIX))
        return None

    def _place_of(self, name: str) -> str:
        return join_uri(self.place, name)

    def _settings(self) -> dict[str, Any] | None:
        try:
            text = self._read(_SETTINGS_NAME)
            return None if text is None else dict(json.loads(text))
        except (OSError, ValueError) as problem:
            raise CorpusError(
                f"{self._place_of(_SETTINGS_NAME)}: cannot be read ({problem}); "
                "delete the folder or choose another output"
            ) from problem

    def _forget_claim_without_tracks(self) -> None:
        names = self._sizes()
        if MANIFEST_NAME not in names and not any(name.endswith(_RECORD_SUFFIX) for name in names):
            self._remove([_SETTINGS_NAME])


class FolderOutput(Output):
    """A folder: tracks are written in place, and the lock is one that the system gives back with the process."""

    @override
    @contextmanager
    def only_ingest(self) -> Iterator[Callable[[], None]]:
        folder = Path(self.place)
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
                self._forget_claim_without_tracks()
                # Under the lock, and only together with the folder: else two could hold two locks of one name.
                if not existed and [path.name for path in folder.iterdir()] == [_LOCK_NAME]:
                    (folder / _LOCK_NAME).unlink()
                    folder.rmdir()

    @override
    def scratch(self) -> AbstractContextManager[Path]:
        return nullcontext(Path(self.place))

    @override
    def keep(self, track: TrackRecord, scratch: Path) -> None:
        write_track_record(scratch / _record_name(track), track)

    @override
    def _sizes(self) -> dict[str, int]:
        sizes = {}
        for path in Path(self.place).iterdir():
            # Tasks of an ingest that was killed may still be at work on their files.
            with suppress(FileNotFoundError):
                if path.is_file():
                    sizes[path.name] = path.stat().st_size
        return sizes

    @override
    def _read(self, name: str) -> str | None:
        path = Path(self.place, name)
        return path.read_text(encoding="utf-8") if path.exists() else None

    @override
    def _write(self, name: str, text: str) -> None:
        write_text(Path(self.place, name), text)

    @override
    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            Path(self.place, name).unlink(missing_ok=True)


class BucketOutput(Output):
    """A prefix of a bucket: tracks are written on the machine that made them and uploaded, their record last."""

    @override
    @contextmanager
    def only_ingest(self) -> Iterator[Callable[[], None]]:
        try:
            lock = S3Lock(self._place_of(_LOCK_NAME))
            lock.acquire()
        except LockHeldError as held:
            raise CorpusError(
                f"{self.place}: another ingest is writing there, {held.owner}; wait for it or choose another output"
            ) from held
        try:
            # A courtesy to whoever pays for them; not everybody may list them.
            with suppress(StorageError):
                abort_uploads(self.place)
            yield lock.check
        finally:
            with suppress(StorageError):
                lock.check()
                self._forget_claim_without_tracks()
            lock.release()

    @override
    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="cyclesep-ingest-") as folder:
            yield Path(folder)

    @override
    def keep(self, track: TrackRecord, scratch: Path) -> None:
        upload(
            [
                Upload(path=scratch / shard.name, uri=self._place_of(shard.name), sha256=shard.sha256)
                for shard in track.shards
            ]
        )
        write_track_record(self._place_of(_record_name(track)), track)

    @override
    def _records(self, stems: list[str]) -> Iterable[TrackRecord | None]:
        with ThreadPoolExecutor(_NUM_READERS) as pool:
            return list(pool.map(self._record, stems))

    @override
    def _sizes(self) -> dict[str, int]:
        return s3_objects.sizes(self.place)

    @override
    def _read(self, name: str) -> str | None:
        with suppress(ObjectNotFound):
            return s3_objects.read_text(self._place_of(name))
        return None

    @override
    def _write(self, name: str, text: str) -> None:
        s3_objects.write_text(self._place_of(name), text)

    @override
    def _remove(self, names: Iterable[str]) -> None:
        s3_objects.delete(self.place, names)


def _record_name(track: TrackRecord) -> str:
    return track.shards[0].name.rpartition("-")[0] + _RECORD_SUFFIX
