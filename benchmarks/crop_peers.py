"""Crop loaders of other libraries, installed by requirements-benchmark.txt, each used in its fastest way.

Libraries that read whole records get records of exactly one crop: reading a crop reads one record, but crops cannot
start anywhere. LitData also reads windows of whole songs.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.crop_baselines import IN_FILE_ORDER, PRECUT, SCALE, CropLoader
from benchmarks.crop_corpus import Crop, CropCorpus, Fill
from cyclesep.audio.audio_io import Samples

_FILE_BYTES = 64 * 2**20


def write_mosaicml(corpus: CropCorpus) -> None:
    """Write MDS files with one crop per record."""
    writer = _mosaicml("format.mds.writer").MDSWriter
    with writer(out=str(corpus.folder / "mosaicml"), columns={"pcm": "bytes"}, size_limit=_FILE_BYTES) as records:
        for crop in corpus.in_file_order():
            records.write({"pcm": _cut(corpus, crop)})


def open_mosaicml(corpus: CropCorpus) -> Fill:
    """Use LocalDataset: the random access of StreamingDataset without its handling of workers and epochs."""
    records = _mosaicml("local").LocalDataset(str(corpus.folder / "mosaicml"))

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        for index, crop in enumerate(crops):
            _cast(records[_number(corpus, crop)]["pcm"], out[index])

    return fill


def write_litdata(corpus: CropCorpus) -> None:
    """Write chunks with one crop per item."""
    _optimize(corpus, "litdata", partial(_cut, corpus), inputs=corpus.in_file_order(), chunk_bytes=_FILE_BYTES)


def open_litdata(corpus: CropCorpus) -> Fill:
    items = _litdata().StreamingDataset(str(corpus.folder / "litdata"))

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        for index, crop in enumerate(crops):
            _cast(items[_number(corpus, crop)], out[index])

    return fill


def write_litdata_windows(corpus: CropCorpus) -> None:
    """Write chunks with one song per item, in a layout from which windows can be read."""
    loader = _litdata().TemporalArrayLoader()
    tracks = list(range(corpus.layout.tracks))
    chunk_bytes = max(_FILE_BYTES, corpus.pcm(0).nbytes + 2**16)
    _optimize(corpus, "windows", partial(_song, corpus), inputs=tracks, chunk_bytes=chunk_bytes, item_loader=loader)


def open_litdata_windows(corpus: CropCorpus) -> Fill:
    loader = _litdata().TemporalArrayLoader()
    songs = _litdata().StreamingDataset(str(corpus.folder / "windows"), item_loader=loader)

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        for index, (track, start) in enumerate(crops):
            window = songs.read_window(track, start=start, frames=corpus.crop_samples)
            crop = out[index]
            for stem, name in zip(crop, corpus.layout.stems, strict=True):
                stem[...] = window[name].T
            np.multiply(crop, SCALE, out=crop)

    return fill


def write_webdataset(corpus: CropCorpus) -> None:
    """Write tar files with one crop per sample."""
    webdataset = importlib.import_module("webdataset")
    pattern = str(corpus.folder / "webdataset-%05d.tar")
    with webdataset.ShardWriter(pattern, maxsize=_FILE_BYTES, verbose=0) as samples:
        for number, crop in enumerate(corpus.in_file_order()):
            samples.write({"__key__": f"{number:08d}", "pcm": _cut(corpus, crop)})


def open_webdataset(corpus: CropCorpus) -> Fill:
    """Return crops in the order of the files, not the requested ones: tar files have no random access."""
    webdataset = importlib.import_module("webdataset")
    files = sorted(str(path) for path in corpus.folder.glob("webdataset-*.tar"))
    samples = iter(webdataset.WebDataset(files, shardshuffle=False, nodesplitter=None).repeat())

    def fill(out: Samples, crops: Sequence[Crop]) -> None:
        for index in range(len(crops)):
            _cast(next(samples)["pcm"], out[index])

    return fill


def _number(corpus: CropCorpus, crop: Crop) -> int:
    """Return the record that contains the start of a crop, or the last complete record of its track."""
    track, start = crop
    return track * corpus.crops_per_track + min(start // corpus.crop_samples, corpus.crops_per_track - 1)


def _cut(corpus: CropCorpus, crop: Crop) -> bytes:
    track, start = crop
    return corpus.pcm(track)[..., start : start + corpus.crop_samples].tobytes()


def _cast(record: Any, crop: Samples) -> None:
    crop[...] = np.frombuffer(record, dtype=np.int16).reshape(crop.shape)
    np.multiply(crop, SCALE, out=crop)


def _song(corpus: CropCorpus, track: int) -> dict[str, Any]:
    stems = zip(corpus.layout.stems, corpus.pcm(track), strict=True)
    return {name: np.ascontiguousarray(pcm.T) for name, pcm in stems}


def _optimize(corpus: CropCorpus, name: str, fn: Any, **options: Any) -> None:
    output = str(corpus.folder / name)
    _litdata().optimize(fn, output_dir=output, num_workers=1, verbose=False, keep_data_ordered=True, **options)


def _litdata() -> Any:
    return importlib.import_module("litdata")


def _mosaicml(module: str) -> Any:
    """Import a module of streaming.base without the imports of streaming and streaming.base themselves.

    These are torchvision, whose build must match torch's, and transformers; neither is needed for reading.
    """
    for name in ("streaming", "streaming.base"):
        if name not in sys.modules:
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ModuleNotFoundError(name)
            package = importlib.util.module_from_spec(spec)  # created, but not executed
            sys.modules[name] = package
    return importlib.import_module(f"streaming.base.{module}")


MOSAICML = CropLoader(
    name="MosaicML Streaming",
    open=open_mosaicml,
    write=write_mosaicml,
    starts=PRECUT,
    packages=("streaming", "brotli", "snappy", "xxhash", "zstd"),
)
LITDATA = CropLoader(
    name="LitData, items",
    open=open_litdata,
    write=write_litdata,
    starts=PRECUT,
    packages=("litdata", "lightning_utilities"),
)
LITDATA_WINDOWS = CropLoader(
    name="LitData, windows",
    open=open_litdata_windows,
    write=write_litdata_windows,
    packages=("litdata", "lightning_utilities"),
)
WEBDATASET = CropLoader(
    name="WebDataset",
    open=open_webdataset,
    write=write_webdataset,
    starts=IN_FILE_ORDER,
    packages=("webdataset",),
)

PEERS = (MOSAICML, LITDATA, LITDATA_WINDOWS, WEBDATASET)
