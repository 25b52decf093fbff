"""Music to ingest: MUSDB18, folders of stems, unpaired recordings, or synthetic songs."""

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
    """One song or recording as its source holds it: small, picklable, nothing read yet."""

    @property
    def track_id(self) -> str:
        """Unique within the corpus; any printable text, never used as a path."""

    @property
    def split(self) -> str:
        """ "train", "valid" or "test"."""

    def read(self) -> dict[str, Waveform]:
        """Stem name to audio, "mixture" perhaps among them; rates, lengths and channels may differ.

        Raises AudioError or CorpusError for what cannot be read.
        """

    def fingerprint(self) -> str:
        """Changes when the source changes; cheap, nothing is decoded."""


def find_tracks(config: CorpusConfig) -> list[Track]:
    """All tracks of a corpus, sorted by split and name; no audio is read.

    Raises ConfigError for a setting that the kind needs and lacks, CorpusError for a folder that is missing, empty or
    not laid out as the kind asks.
    """
    tracks = sorted(_find(config), key=lambda track: (track.split, track.track_id))
    if not tracks:
        raise CorpusError(f"corpus {config.kind}: holds no tracks; ask for at least one")
    name, count = Counter(track.track_id for track in tracks).most_common(1)[0]
    if count > 1:
        raise CorpusError(f"corpus {config.kind}: {count} tracks are named {name!r}; rename all but one")
    return tracks


def describe(config: CorpusConfig) -> dict[str, Any]:
    """The settings that matter to the kind of corpus, as plain values, paths made absolute."""
    values = to_dict(config)
    kept = {name: values[name] for name in ("kind", *_SETTINGS_OF_KIND[config.kind])}
    return {name: str(_absolute(value)) if name.endswith("path") else value for name, value in kept.items()}


def _find(config: CorpusConfig) -> Sequence[Track]:
    if config.valid_fraction + config.test_fraction > 1.0:
        raise ConfigError(
            f"corpus.valid_fraction + corpus.test_fraction is {config.valid_fraction + config.test_fraction:g}; "
            "keep it at most 1"
        )
    shares = {"valid_fraction": config.valid_fraction, "test_fraction": config.test_fraction}
    match config.kind:
        case "musdb18":
            return musdb18.find_tracks(_folder(config, "path"), default_split=config.default_split)
        case "stems":
            return stem_folders.find_tracks(_folder(config, "path"), **shares)
        case "unpaired":
            return unpaired.find_tracks(_unpaired_folders(config), **shares)
        case "synthetic":
            return synthetic_tracks(config.synthetic)


def _unpaired_folders(config: CorpusConfig) -> dict[str, Path]:
    others = {"mixtures": MIXTURE, "accompaniment": ACCOMPANIMENT}[config.background_type]
    if config.target == others:
        raise ConfigError(
            f"corpus.target: {config.target!r} is what the others are called; name the target for what it is"
        )
    return {config.target: _folder(config, "target_path"), others: _folder(config, "background_path")}


def _folder(config: CorpusConfig, name: str) -> Path:
    value: str = getattr(config, name)
    if not value:
        raise ConfigError(
            f"corpus.{name}: is empty, and corpus.kind={config.kind} needs it; set it to where the music is"
        )
    path = _absolute(value)
    if not path.exists():
        raise CorpusError(f"{path}: there is no such file or folder; check corpus.{name}")
    return path


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()
