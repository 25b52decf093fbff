"""A plain ingest script: read with musdb, write with protobuf and LMDB, without checks, hashes or resuming."""

from pathlib import Path

import lmdb
import musdb
import numpy as np

from cyclesep.audio.audio_io import Samples, Waveform, resample, to_pcm16, with_channels
from cyclesep.data.shards.segment_pb2 import Segment

_SEGMENT_SECONDS = 4.0
_NAMES = ("vocals", "drums", "bass", "other")


def musdb_loop(root: Path, output: Path, *, is_wav: bool, sample_rate: int, channels: int) -> None:
    """Write `output`/*.lmdb, one per track of the MUSDB18 folder `root`, with the same samples as cyclesep's ingest."""
    output.mkdir(parents=True)
    database = musdb.DB(root=str(root), is_wav=is_wav, setup_file="setup.yaml", subsets=["train"])
    for number, track in enumerate(database):
        named = {"mixture": track.audio, **{name: track.sources[name].audio for name in _NAMES}}
        stems = {name: _converted(audio, track.rate, sample_rate, channels) for name, audio in named.items()}
        _write(output / f"{number}.lmdb", track.name, stems, sample_rate)


def _converted(audio: Samples, rate: float, sample_rate: int, channels: int) -> Samples:
    waveform = Waveform(samples=np.ascontiguousarray(audio.T, dtype=np.float32), sample_rate=int(rate))
    return resample(with_channels(waveform, channels), sample_rate).samples


def _write(path: Path, track_id: str, stems: dict[str, Samples], sample_rate: int) -> None:
    pcm = np.stack([to_pcm16(stem) for stem in stems.values()])
    step = round(_SEGMENT_SECONDS * sample_rate)
    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=2 * pcm.nbytes + 2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for index, start in enumerate(range(0, pcm.shape[2], step)):
            payload = pcm[:, :, start : start + step]
            segment = Segment(
                track_id=track_id,
                index=index,
                start=start,
                sample_rate=sample_rate,
                channels=pcm.shape[1],
                num_samples=payload.shape[2],
                stems=list(stems),
                gain=1.0,
                pcm=payload.tobytes(),
            )
            transaction.put(index.to_bytes(4, "big"), segment.SerializeToString(), append=True)
