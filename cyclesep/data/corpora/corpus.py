"""Find the tracks of a corpus: MUSDB18, folders of stems, unpaired recordings, or synthetic songs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from cyclesep.audio.audio_io import Waveform
from cyclesep.audio.stem_names import ACCOMPANIMENT, MIXTURE
from cyclesep.config.settings import to_dict
from cyclesep.data.corpora import musdb18, stem_folders, unpaired
from cyclesep.data.corpora.composer.track import synthetic_tracks
from cyclesep.data.corpora.config import CorpusConfig
from cyclesep.errors import ConfigError, CorpusError

_SETTINGS_OF_KIND = {
    "musdb18": ("path", "default_split"),
    "stems": ("path", "valid_fraction", "test_fraction"),
    "unpaired": ("target", "target_path", "background_path", "background_type", "valid_fraction", "test_fraction"),
    "synthetic": ("synthetic",),
}


class Track(Protocol):
    """A song or recording at its source. Small and picklable; audio is read on demand."""

    @property
    def track_id(self) -> str:
        """Name, unique within the corpus: any printable text, never used as a path."""

    @property
    def split(self) -> str:
        """Split: "train", "valid" or "test"."""

    def read(self) -> dict[str, Waveform]:
        """Return stem names and their audio, optionally with "mixture"; rates, lengths and channels may differ.

        Raises AudioError or CorpusError if the audio cannot be read.
        """

    def fingerprint(self) -> str:
        """Return a hash that changes when the source changes; no audio is decoded."""


def find_tracks(config: CorpusConfig) -> list[Track]:
    """Return all tracks of a corpus, sorted by split and name; no audio is read.

    Raises ConfigError if a setting that the kind requires is missing, CorpusError if a folder is missing, empty or has
    the wrong layout.
    """
    tracks = sorted(_find(config), key=lambda track: (track.split, track.track_id))
    if not tracks:
        raise CorpusError(f"corpus {config.kind}: contains no tracks; request at least one")
    name, count = Counter(track.track_id for track in tracks).most_common(1)[0]
    if count > 1:
        raise CorpusError(f"corpus {config.kind}: {count} tracks are named {name!r}; rename all but one")
    return tracks


def describe(config: CorpusConfig) -> dict[str, Any]:
    """Return the settings that this kind of corpus uses, as plain values with absolute paths."""
    values = to_dict(config)
    kept = {name: values[name] for name in ("kind", *_SETTINGS_OF_KIND[config.kind])}
    return {name: str(_absolute(value)) if name.endswith("path") else value for name, value in kept.items()}


def _find(config: CorpusConfig) -> Sequence[Track]:
    if config.valid_fraction + config.test_fraction > 1.0:
        raise ConfigError(
            f"corpus.valid_fraction + corpus.test_fraction is {config.valid_fraction + config.test_fraction:g}; "
            "the sum must be at most 1"
        )
    fractions = {"valid_fraction": config.valid_fraction, "test_fraction": config.test_fraction}
    match config.kind:
        case "musdb18":
            return musdb18.find_tracks(_existing_path(config, "path"), default_split=config.default_split)
        case "stems":
            return stem_folders.find_tracks(_existing_path(config, "path"), **fractions)
        case "unpaired":
            return unpaired.find_tracks(_unpaired_folders(config), **fractions)
        case "synthetic":
            return synthetic_tracks(config.synthetic)


def _unpaired_folders(config: CorpusConfig) -> dict[str, Path]:
    background = {"mixtures": MIXTURE, "accompaniment": ACCOMPANIMENT}[config.background_type]
    if config.target == background:
        raise ConfigError(
            f"corpus.target: {config.target!r} is the stem name of the background recordings; choose another name"
        )
    return {
        config.target: _existing_path(config, "target_path"),
        background: _existing_path(config, "background_path"),
    }


def _existing_path(config: CorpusConfig, name: str) -> Path:
    value: str = getattr(config, name)
    if not value:
        raise ConfigError(
            f"corpus.{name}: required for corpus.kind={config.kind} but empty; set it to the path of the music"
        )
    path = _absolute(value)
    if not path.exists():
        raise CorpusError(f"{path}: not found; check corpus.{name}")
    return path


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()
