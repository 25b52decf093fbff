"""Tracks of a split with their reference stems, from shards or from a corpus."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from cyclesep.audio.audio_io import Samples, Waveform
from cyclesep.audio.stem_names import MIXTURE
from cyclesep.data.corpora.corpus import Track, find_tracks
from cyclesep.data.preprocess import prepare
from cyclesep.data.shards.manifest import TrackRecord, make_manifest
from cyclesep.data.shards.mmap_cache import close_idle
from cyclesep.data.shards.reading import ShardReader
from cyclesep.errors import ConfigError, CorpusError
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.storage.uri import absolute_uri

_log = logging.getLogger(__name__)


class ReferenceTrack(Protocol):
    """A track with references: small and picklable; the audio is read by the process that needs it."""

    @property
    def track_id(self) -> str: ...
    @property
    def split(self) -> str: ...
    def digest(self) -> str:
        """Return a value that changes when the audio changes."""

    def read(self) -> dict[str, Waveform]:
        """Return all stems and the mixture, with the same sample rate, length and channels.

        Raises AudioError, CorpusError or ShardError if they cannot be read.
        """

    def mixture(self) -> Waveform:
        """Return the mixture of `read`, without reading the stems if possible."""


@dataclass(frozen=True, kw_only=True)
class ShardTrack:
    """A track of an ingested corpus."""

    folder: Path | str
    record: TrackRecord

    @property
    def track_id(self) -> str:
        return self.record.track_id

    @property
    def split(self) -> str:
        return self.record.split

    def digest(self) -> str:
        return _sha256([self.record.gain, self.record.stems, [shard.sha256 for shard in self.record.shards]])

    def read(self) -> dict[str, Waveform]:
        record = self.record
        samples = self._samples(record.stems)
        return _with_mixture(dict(zip(record.stems, samples, strict=True)), record.track_id, record.sample_rate)

    def mixture(self) -> Waveform:
        record = self.record
        if MIXTURE not in record.stems:
            return self.read()[MIXTURE]
        (samples,) = self._samples([MIXTURE])
        return Waveform(samples=samples, sample_rate=record.sample_rate)

    def _samples(self, stems: Sequence[str]) -> Samples:
        """Return the whole track `(stems, channels, time)`, from its own record without reading the manifest."""
        reader = ShardReader(self.folder, manifest=make_manifest([self.record]))
        samples = reader.read(self.record, stems, 0, self.record.num_samples)
        # This process does not read the track again soon.
        close_idle()
        return samples


@dataclass(frozen=True, kw_only=True)
class CorpusTrack:
    """A track of a corpus, at the sample rate and with the channels of its mixture."""

    track: Track

    @property
    def track_id(self) -> str:
        return self.track.track_id

    @property
    def split(self) -> str:
        return self.track.split

    def digest(self) -> str:
        return self.track.fingerprint()

    def read(self) -> dict[str, Waveform]:
        waveforms = self.track.read()
        main = waveforms.get(MIXTURE) or max(waveforms.values(), key=lambda waveform: waveform.channels)
        prepared = prepare(waveforms, sample_rate=main.sample_rate, channels=main.channels)
        for warning in prepared.warnings:
            # Published music is often clipped; a stem that is silent or ends early may be truncated.
            if not warning.endswith("clipped samples"):
                _log.warning("%s: reference %s", self.track_id, warning)
        return _with_mixture(prepared.stems, self.track_id, main.sample_rate)

    def mixture(self) -> Waveform:
        # Not read alone: it is padded if a stem is longer.
        return self.read()[MIXTURE]


def find_references(config: EvaluateConfig) -> list[ReferenceTrack]:
    """Return the tracks of the split; raises ConfigError, CorpusError or ShardError if there are none."""
    if (config.shards is None) == (config.corpus is None):
        raise ConfigError(
            "shards, corpus: exactly one must be set, for the references; set one and leave the other null"
        )
    tracks: Sequence[ReferenceTrack]
    if config.shards is not None:
        # Absolute, because the processes that read it have other working directories.
        reader = ShardReader(absolute_uri(config.shards))
        # Without the loudness of each second, the largest part of a record, which evaluation does not use.
        records = [replace(record, loudness_db={}) for record in reader.manifest.split(config.split)]
        tracks = [ShardTrack(folder=reader.folder, record=record) for record in records]
    else:
        assert config.corpus is not None
        tracks = [CorpusTrack(track=track) for track in find_tracks(config.corpus) if track.split == config.split]
    if not tracks:
        where = config.shards if config.corpus is None else f"corpus {config.corpus.kind}"
        raise CorpusError(f"{where}: no tracks found in split={config.split}; choose another split")
    return list(tracks)


def digest_of(references: Mapping[str, Waveform]) -> str:
    """Return the SHA-256 of names, sample rates and samples, which does not depend on file format or location."""
    digest = hashlib.sha256()
    for name in sorted(references):
        wave = references[name]
        digest.update(f"{name} {wave.sample_rate} {wave.samples.shape}".encode())
        digest.update(np.ascontiguousarray(wave.samples).data)
    return digest.hexdigest()


def _with_mixture(stems: dict[str, Samples], track_id: str, sample_rate: int) -> dict[str, Waveform]:
    if len(stems) == 1:
        raise CorpusError(
            f"{track_id}: contains only {next(iter(stems))}, no references to score with; exclude the track"
        )
    if MIXTURE not in stems:
        stems = {MIXTURE: sum(stems.values()), **stems}  # type: ignore[dict-item]
    return {name: Waveform(samples=samples, sample_rate=sample_rate) for name, samples in stems.items()}


def _sha256(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
