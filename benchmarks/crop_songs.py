"""Write the songs of the crop benchmark as arrays and as shards."""

from functools import cache

import numpy as np

from benchmarks.crop_corpus import CropCorpus, CropLayout
from cyclesep.audio.audio_io import Samples, Waveform, from_pcm16, resample, to_pcm16, with_channels
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.corpora.composer.track import synthetic_tracks
from cyclesep.data.shards.manifest import make_manifest, write_manifest
from cyclesep.data.shards.writing import write_track

# Synthesis is slower than everything that is measured, so one short song is repeated.
_SONG_SECONDS = 12.0

# The default of cyclesep ingest.
_SEGMENT_SECONDS = 4.0


def write_songs(corpus: CropCorpus) -> None:
    """Write the arrays from which all loaders make their files, and the shards.

    Each track is one synthetic song, repeated from a different position with a decreasing level, so that no two
    positions have the same samples.
    """
    song = _converted(corpus.layout)
    records = []
    for track in range(corpus.layout.tracks):
        samples = _repeated(np.roll(song, 1009 * track, axis=-1), corpus.track_samples)
        np.save(corpus.pcm_path(track), to_pcm16(samples))
        records.append(
            write_track(
                corpus.shards,
                {name: from_pcm16(stem) for name, stem in zip(corpus.layout.stems, corpus.pcm(track), strict=True)},
                track_id=f"Song {track:05d}",
                split="train",
                sample_rate=corpus.layout.sample_rate,
                segment_samples=round(_SEGMENT_SECONDS * corpus.layout.sample_rate),
            )
        )
    write_manifest(corpus.shards, make_manifest(records))


@cache
def _short_song() -> dict[str, Waveform]:
    (track,) = synthetic_tracks(SyntheticConfig(num_train=1, num_valid=0, num_test=0, seconds=_SONG_SECONDS))
    return track.read()


def _converted(layout: CropLayout) -> Samples:
    """Return a short song `(stems, channels, time)`."""
    audio = _short_song()
    converted = [
        resample(with_channels(audio[name], layout.channels), layout.sample_rate).samples for name in layout.stems
    ]
    return np.stack(converted)


def _repeated(song: Samples, num_samples: int) -> Samples:
    times = -(-num_samples // song.shape[-1])
    level = np.linspace(1.0, 0.5, num_samples, dtype=np.float32)
    return np.tile(song, (1, 1, times))[..., :num_samples] * level
