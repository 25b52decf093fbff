"""Crop loaders without additional packages: the original notebook's, ours, a memory map, audio files.

A loader writes its files once. In each process it opens them and returns a function that fills a float32 batch.
"""

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import soundfile
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benchmarks.crop_corpus import Crop, CropCorpus, Fill
from cyclesep.audio.audio_io import PCM16_SCALE, Samples, from_pcm16
from cyclesep.data.shards import segments
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.segment_pb2 import Segment

SCALE = np.float32(1 / PCM16_SCALE)

ANYWHERE = "anywhere"
PRECUT = "precut"
IN_FILE_ORDER = "in file order"


@dataclass(frozen=True, kw_only=True)
class CropLoader:
    """A method to read crops."""

    name: str
    open: Callable[[CropCorpus], Fill]
    """Opens the files in this process."""
    write: Callable[[CropCorpus], None] | None = None
    """Writes its files from the corpus's arrays; None if it reads files that the corpus already has."""
    starts: str = ANYWHERE
    """Where a crop may start. Precut crops start at multiples of their length."""
    returns_float32: bool = True
    """Whether it converts to float32; a loader that returns int16 is shown as an upper bound."""
    packages: tuple[str, ...] = ()
    """Required Python packages that cyclesep does not require."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that are not installed."""
        return tuple(name for name in self.packages if importlib.util.find_spec(name) is None)


def write_notebook(corpus: CropCorpus) -> None:
    """One LMDB record per song, a protobuf message with a float32 field for each stem."""
    song_class = _notebook_message(corpus.layout.stems)
    song_bytes = 4 * len(corpus.layout.stems) * corpus.layout.channels * corpus.track_samples
    map_size = 2**24 + corpus.layout.tracks * (song_bytes + 2**16)
    with lmdb.open(str(corpus.folder / "notebook"), map_size=map_size, writemap=True) as songs:
        for track in range(corpus.layout.tracks):
            message = song_class()
            for name, pcm in zip(corpus.layout.stems, corpus.pcm(track), strict=True):
                setattr(message, name, from_pcm16(pcm).tobytes())
            with songs.begin(write=True) as transaction:
                transaction.put(f"{track:08d}".encode(), message.SerializeToString())


def open_notebook(corpus: CropCorpus) -> Fill:
    """The original notebook's method: fetch and parse the record of a whole song for each crop."""
    songs = lmdb.open(str(corpus.folder / "notebook"), readonly=True, lock=False, readahead=False, meminit=False)
    song_class = _notebook_message(corpus.layout.stems)

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        for crop, (track, start) in zip(out, crops, strict=True):
            with songs.begin() as transaction:
                # A new message each time: a reused message keeps the memory of everything parsed into it.
                datum = song_class.FromString(transaction.get(f"{track:08d}".encode()))
            for stem, name in zip(crop, corpus.layout.stems, strict=True):
                song = np.frombuffer(getattr(datum, name), dtype=np.float32).reshape(corpus.layout.channels, -1)
                stem[:] = song[:, start : start + corpus.crop_samples]

    return fill


def open_ours(corpus: CropCorpus) -> Fill:
    reader = ShardReader(corpus.shards)
    tracks = reader.manifest.tracks

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        reader.read_batch(out, [(tracks[track], start) for track, start in crops], corpus.layout.stems)

    return fill


def open_ours_one_by_one(corpus: CropCorpus) -> Fill:
    reader = ShardReader(corpus.shards)
    tracks = reader.manifest.tracks

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        for index, (track, start) in enumerate(crops):
            out[index] = reader.read(tracks[track], corpus.layout.stems, start, corpus.crop_samples)

    return fill


def write_parsed(corpus: CropCorpus) -> None:
    """Copy the shards, because one process must not open an LMDB file twice."""
    shutil.copytree(corpus.shards, corpus.folder / "parsed")


def open_parsed(corpus: CropCorpus) -> Fill:
    """Read our shards as other programs do: records of a few seconds, each parsed by protobuf."""
    manifest = ShardReader(corpus.shards).manifest
    opened = [
        [(shard, _open_lmdb(corpus.folder / "parsed" / shard.name)) for shard in track.shards]
        for track in manifest.tracks
    ]

    def segment(track: int, index: int) -> Any:
        for shard, transaction in opened[track]:
            if index < shard.first_segment + shard.num_segments:
                parsed = Segment.FromString(transaction.get(segments.key(index)))
                pcm = np.frombuffer(parsed.pcm, dtype="<i2")
                return pcm.reshape(len(parsed.stems), parsed.channels, parsed.num_samples)
        raise IndexError(f"track {track} has no segment {index}")

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        for crop, (track, start) in zip(out, crops, strict=True):
            index, offset = divmod(start, manifest.segment_samples)
            filled = 0
            while filled < corpus.crop_samples:
                pcm = segment(track, index)[..., offset : offset + corpus.crop_samples - filled]
                crop[..., filled : filled + pcm.shape[-1]] = pcm
                filled, index, offset = filled + pcm.shape[-1], index + 1, 0
            np.multiply(crop, SCALE, out=crop)

    return fill


def open_memmap(corpus: CropCorpus) -> Fill:
    """Cast a slice of numpy's memory map into the batch and scale it there while it is in cache."""
    songs = [np.load(corpus.pcm_path(track), mmap_mode="r") for track in range(corpus.layout.tracks)]

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        for index, (track, start) in enumerate(crops):
            crop = out[index]
            crop[...] = songs[track][:, :, start : start + corpus.crop_samples]
            np.multiply(crop, SCALE, out=crop)

    return fill


def open_raw_memmap(corpus: CropCorpus) -> Fill:
    """Copy a slice of numpy's memory map as int16: half the bytes, without conversion to float32."""
    songs = [np.load(corpus.pcm_path(track), mmap_mode="r") for track in range(corpus.layout.tracks)]

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        raw = out.view(np.int16)[..., : corpus.crop_samples]
        for index, (track, start) in enumerate(crops):
            raw[index] = songs[track][:, :, start : start + corpus.crop_samples]

    return fill


def write_wav(corpus: CropCorpus) -> None:
    _write_files(corpus, "wav")


def write_flac(corpus: CropCorpus) -> None:
    _write_files(corpus, "flac")


def open_wav(corpus: CropCorpus) -> Fill:
    return _open_files(corpus, "wav")


def open_flac(corpus: CropCorpus) -> Fill:
    return _open_files(corpus, "flac")


def _write_files(corpus: CropCorpus, suffix: str) -> None:
    for track in range(corpus.layout.tracks):
        for name, pcm in zip(corpus.layout.stems, corpus.pcm(track), strict=True):
            path = corpus.folder / f"{track:03d}-{name}.{suffix}"
            soundfile.write(path, pcm.T, corpus.layout.sample_rate, subtype="PCM_16")


def _open_files(corpus: CropCorpus, suffix: str) -> Fill:
    """Keep all files open: a crop needs a seek and a read for each stem."""
    files = [
        [soundfile.SoundFile(corpus.folder / f"{track:03d}-{name}.{suffix}") for name in corpus.layout.stems]
        for track in range(corpus.layout.tracks)
    ]

    buffer = np.empty((corpus.crop_samples, corpus.layout.channels), dtype=np.int16)

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        for crop, (track, start) in zip(out, crops, strict=True):
            for stem, file in zip(crop, files[track], strict=True):
                file.seek(start)
                # Three times as fast as soundfile's `read` to float32.
                file.buffer_read_into(buffer, dtype="int16")
                stem[...] = buffer.T
            np.multiply(crop, SCALE, out=crop)

    return fill


def _open_lmdb(path: Path) -> Any:
    """Open a file with one read transaction."""
    return lmdb.open(str(path), readonly=True, subdir=False, lock=False, readahead=False).begin(buffers=True)


def _notebook_message(stems: Sequence[str]) -> Any:
    """Return the class of the notebook's record, with `stems` as bytes fields."""
    file = descriptor_pb2.FileDescriptorProto(name="notebook_song.proto", syntax="proto3")
    message = file.message_type.add(name="NotebookSong")
    for number, name in enumerate(stems, start=1):
        field = descriptor_pb2.FieldDescriptorProto
        message.field.add(name=name, number=number, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("NotebookSong"))


NOTEBOOK = CropLoader(name="notebook: whole song, parsed", open=open_notebook, write=write_notebook)
OURS = CropLoader(name="cyclesep, batch-wise", open=open_ours)
OURS_ONE_BY_ONE = CropLoader(name="cyclesep, one by one", open=open_ours_one_by_one)
PARSED = CropLoader(name="cyclesep's records, parsed", open=open_parsed, write=write_parsed)
MEMMAP = CropLoader(name="numpy memmap, to float32", open=open_memmap)
RAW_MEMMAP = CropLoader(name="numpy memmap, int16 as is", open=open_raw_memmap, returns_float32=False)
WAV = CropLoader(name="WAV, seek and read", open=open_wav, write=write_wav)
FLAC = CropLoader(name="FLAC, seek and read", open=open_flac, write=write_flac)

BASELINES = (NOTEBOOK, OURS, OURS_ONE_BY_ONE, PARSED, MEMMAP, RAW_MEMMAP, WAV, FLAC)
