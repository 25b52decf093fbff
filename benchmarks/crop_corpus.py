"""The songs of the crop benchmark: the same 16-bit samples, stored by each loader in its own format.

Reader processes import this module, so it imports little; benchmarks.crop_songs writes the songs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le, MinLen
from numpy.typing import NDArray

from cyclesep.audio.audio_io import Samples, from_pcm16

Stem = Literal["mixture", "vocals", "drums", "bass", "other"]

# One crop: number of the track, first sample.
Crop = tuple[int, int]
# Fills float32 `(batch, stems, channels, time)` with crops.
Fill = Callable[[Samples, Sequence[Crop]], None]


@dataclass(frozen=True, kw_only=True)
class CropLayout:
    """The content of a crop and the corpus it is drawn from."""

    sample_rate: Annotated[int, Ge(4000), Le(192000)] = 16000
    """Samples per second."""
    channels: Literal[1, 2] = 1
    """Channels of every stem."""
    stems: Annotated[tuple[Stem, ...], MinLen(1)] = ("mixture", "vocals")
    """Stems of a track, all of them in every crop."""
    tracks: Annotated[int, Ge(1)] = 8
    """Number of tracks."""
    track_seconds: Annotated[float, Ge(2.0)] = 240.0
    """Length of a track; only loaders that parse whole songs depend on it."""

    @property
    def title(self) -> str:
        channels = {1: "mono", 2: "stereo"}[self.channels]
        return (
            f"{self.sample_rate / 1000:g} kHz {channels}, {' + '.join(self.stems)}, "
            f"{self.tracks} tracks of {self.track_seconds:g} s"
        )


@dataclass(frozen=True, kw_only=True)
class CropCorpus:
    """A corpus on disk; small and picklable, so that it can be sent to reader processes."""

    folder: Path
    layout: CropLayout
    crop_seconds: float

    @property
    def crop_samples(self) -> int:
        return round(self.crop_seconds * self.layout.sample_rate)

    @cached_property
    def track_samples(self) -> int:
        return round(self.layout.track_seconds * self.layout.sample_rate)

    @property
    def crops_per_track(self) -> int:
        """Number of consecutive crops that fit into a track."""
        return self.track_samples // self.crop_samples

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    def pcm_path(self, track: int) -> Path:
        """Return the path of a track's array, int16 `(stems, channels, time)`."""
        return self.folder / f"{track:03d}.npy"

    def pcm(self, track: int) -> NDArray[np.int16]:
        """Return a memory-mapped track."""
        return np.asarray(np.load(self.pcm_path(track), mmap_mode="r"))

    def draw(self, count: int, rng: np.random.Generator) -> list[Crop]:
        """Draw crops uniformly over all tracks and all valid starts."""
        tracks = rng.integers(self.layout.tracks, size=count).tolist()
        starts = rng.integers(self.track_samples - self.crop_samples + 1, size=count).tolist()
        return list(zip(tracks, starts, strict=True))

    def covering_crops(self) -> list[Crop]:
        """Return crops that cover every track but its end: all first crops, then all second crops, ..."""
        return [
            (track, number * self.crop_samples)
            for number in range(self.crops_per_track)
            for track in range(self.layout.tracks)
        ]

    def in_file_order(self) -> list[Crop]:
        """Return consecutive crops, track by track."""
        return sorted(self.covering_crops())

    def empty(self, batch: int) -> Samples:
        """Return a buffer for `batch` crops whose pages are already in memory."""
        return np.zeros((batch, len(self.layout.stems), self.layout.channels, self.crop_samples), dtype=np.float32)

    def matches(self, filled: Samples, crops: Sequence[Crop]) -> bool:
        """Return whether a filled buffer contains exactly the samples of `crops`."""
        expected = [self.pcm(track)[..., start : start + self.crop_samples] for track, start in crops]
        return bool(np.array_equal(filled, np.stack([from_pcm16(pcm) for pcm in expected])))
