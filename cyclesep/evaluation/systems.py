"""Systems to score: a separator, a folder of estimates, baselines and oracles."""

import abc
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from cyclesep.audio import audio_reader
from cyclesep.audio.audio_io import Waveform
from cyclesep.audio.stem_names import ACCOMPANIMENT, MIXTURE
from cyclesep.checkpoints.loaded_separator import load_separator
from cyclesep.checkpoints.metadata import CONFIG_FILE, read_metadata
from cyclesep.errors import ConfigError, ScoringError
from cyclesep.evaluation.config import EvaluateConfig, Oracle
from cyclesep.evaluation.references import ReferenceTrack
from cyclesep.inference.config import SeparationConfig
from cyclesep.metrics import oracles
from cyclesep.storage.atomic_io import as_name
from cyclesep.storage.path import StoragePath
from cyclesep.storage.uri import absolute_uri, is_remote

HEURISTIC = "heuristic"
HEURISTIC_TARGETS = frozenset({"vocals", "drums", "bass", "other"})
ESTIMATE_SUFFIXES = (".wav", ".flac")
# Tracks that a warning lists by name.
_MAX_LISTED = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class System:
    """A method that estimates the stems of a track."""

    name: str
    targets: tuple[str, ...]
    """Targets to score; empty: every stem of the track."""

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights; empty for a system without weights."""
        return ""

    def card(self) -> dict[str, Any]:
        """Return path, metadata and config of a trained system as plain values; empty for others."""
        return {}

    def digest(self, track: ReferenceTrack) -> list[Any]:
        """Return plain values that determine the estimates of a track."""
        return [type(self).__name__, self.targets, track.digest()]


@dataclass(frozen=True, kw_only=True)
class SeparatorSystem(System):
    """A trained separator. An actor makes its estimates, or without actors the scoring process."""

    checkpoint: str
    """Absolute path or s3://bucket/prefix of one checkpoint."""
    weights: str
    """SHA-256 of the weights."""
    separation: SeparationConfig

    @property
    @override
    def weights_digest(self) -> str:
        return self.weights

    @override
    def card(self) -> dict[str, Any]:
        config = yaml.safe_load(StoragePath.of(self.checkpoint).read_text(CONFIG_FILE))
        metadata = asdict(read_metadata(self.checkpoint))
        return {"path": self.checkpoint, "metadata": metadata, "config": config}

    @override
    def digest(self, track: ReferenceTrack) -> list[Any]:
        # Device and batch size do not change the estimates.
        separation = {k: v for k, v in asdict(self.separation).items() if k not in ("device", "batch_size")}
        return [*super().digest(track), self.weights, separation]


class InlineSystem(System, abc.ABC):
    """A system whose estimates the scoring process makes or reads."""

    @abc.abstractmethod
    def estimates(self, stems: Mapping[str, Waveform], track: ReferenceTrack) -> dict[str, Waveform]:
        """Return estimates by target; `stems` are the references and the mixture. Raises ScoringError for none."""

    def _targets_of(self, stems: Mapping[str, Waveform]) -> tuple[str, ...]:
        return self.targets or tuple(name for name in stems if name != MIXTURE)


@dataclass(frozen=True, kw_only=True)
class MixtureBaseline(InlineSystem):
    """The mixture as the estimate of every target."""

    @override
    def estimates(self, stems: Mapping[str, Waveform], track: ReferenceTrack) -> dict[str, Waveform]:
        return oracles.mixture_as_estimate(stems[MIXTURE], self._targets_of(stems))


@dataclass(frozen=True, kw_only=True)
class HeuristicBaseline(InlineSystem):
    """A rule-based separator without learned parameters; estimates vocals, drums, bass and other."""

    @override
    def estimates(self, stems: Mapping[str, Waveform], track: ReferenceTrack) -> dict[str, Waveform]:
        separated = oracles.separate_by_rules(stems[MIXTURE])
        estimates = {name: separated[name] for name in self._targets_of(stems) if name in separated}
        if not estimates:
            raise ScoringError(f"{track.track_id}: the heuristic supports none of its stems; set heuristic=false")
        return with_accompaniment(estimates, stems[MIXTURE])


@dataclass(frozen=True, kw_only=True)
class IdealMask(InlineSystem):
    """An oracle: masks computed from the references."""

    mask: Oracle

    @override
    def estimates(self, stems: Mapping[str, Waveform], track: ReferenceTrack) -> dict[str, Waveform]:
        separated = oracles.separate_by_oracle(self.mask, stems)
        estimates = {name: separated[name] for name in self._targets_of(stems) if name in separated}
        if not estimates:
            raise ScoringError(
                f"{track.track_id}: no reference of {' or '.join(self.targets)} found; exclude the track"
            )
        return with_accompaniment(estimates, stems[MIXTURE])


@dataclass(frozen=True, kw_only=True)
class EstimateFolder(InlineSystem):
    """Estimates of any other system: FOLDER/SPLIT/TRACK/TARGET.wav."""

    folder: Path

    @override
    def digest(self, track: ReferenceTrack) -> list[Any]:
        files = [(path.name, path.stat()) for path in self._files(track)]
        return [*super().digest(track), [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]]

    @override
    def estimates(self, stems: Mapping[str, Waveform], track: ReferenceTrack) -> dict[str, Waveform]:
        targets = {*self._targets_of(stems), ACCOMPANIMENT}
        estimates = {path.stem: audio_reader.read(path) for path in self._files(track) if path.stem in targets}
        if not estimates:
            names = " or ".join(sorted(targets))
            raise ScoringError(f"{self._track_folder(track)}: no {names} (wav or flac) found; write estimates there")
        return estimates

    def warn_missing_estimates(self, tracks: Sequence[ReferenceTrack]) -> None:
        """Warn of tracks without estimates of targets that other tracks have."""
        names = {track.track_id: self._target_names(track) for track in tracks}
        all_names = set().union(*names.values())
        # Tracks without any estimate are not listed: they fail with a message of their own.
        missing = {track: sorted(all_names - found) for track, found in names.items() if found and all_names - found}
        if not missing:
            return
        listed = [f"{track}: {', '.join(targets)}" for track, targets in list(missing.items())[:_MAX_LISTED]]
        if len(missing) > _MAX_LISTED:
            listed.append("...")
        _log.warning(
            "%s: estimates are missing in %d of %d tracks (%s); these tracks are scored with the targets they have, "
            "which changes SIR and SAR, and listed in a separate table",
            self.name,
            len(missing),
            len(tracks),
            "; ".join(listed),
        )

    def _track_folder(self, track: ReferenceTrack) -> Path:
        return self.folder / track.split / as_name(track.track_id)

    def _target_names(self, track: ReferenceTrack) -> set[str]:
        """Return the targets with estimates of a track, as far as known without reading its references."""
        names = {path.stem for path in self._files(track)} - {MIXTURE}
        return names & {*self.targets, ACCOMPANIMENT} if self.targets else names

    def _files(self, track: ReferenceTrack) -> list[Path]:
        """Return the files of a track; raises ConfigError if a target has two files."""
        folder = self._track_folder(track)
        # Excludes hidden files: macOS writes "._vocals.wav", which is not audio, to other file systems.
        found = [path for path in folder.glob("[!.]*") if path.suffix.lower() in ESTIMATE_SUFFIXES]
        files = sorted(found, key=lambda path: (path.stem, path.name))
        for one, other in itertools.pairwise(files):
            if one.stem == other.stem:
                raise ConfigError(f"estimates: {folder} contains both {one.name} and {other.name}; keep one of them")
        return files


def find_systems(config: EvaluateConfig) -> list[System]:
    """Return all systems of `config`, oracles last; raises ConfigError or CheckpointError if one is not found."""
    evaluated = _evaluated_systems(config)
    targets = evaluated[0].targets if config.checkpoint is not None else config.targets
    systems: list[System] = [MixtureBaseline(name=MIXTURE, targets=targets)] if config.mixture else []
    if config.heuristic and (not targets or set(targets) & HEURISTIC_TARGETS):
        systems.append(HeuristicBaseline(name=HEURISTIC, targets=targets))
    systems += evaluated
    systems += [IdealMask(name=mask, targets=targets, mask=mask) for mask in config.oracles]
    names = [system.name for system in systems]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise ConfigError(f"name: two systems are named {duplicate!r}; choose another name")
    if not systems:
        raise ConfigError("nothing to score; give a checkpoint or estimates, or set mixture=true")
    return systems


def with_accompaniment(estimates: Mapping[str, Waveform], mixture: Waveform) -> dict[str, Waveform]:
    """Add the accompaniment, mixture minus estimate, to a single estimate; return several unchanged."""
    if len(estimates) != 1 or ACCOMPANIMENT in estimates:
        return dict(estimates)
    ((name, estimate),) = estimates.items()
    rest = Waveform(samples=mixture.samples - estimate.samples, sample_rate=mixture.sample_rate)
    return {name: estimate, ACCOMPANIMENT: rest}


def _evaluated_systems(config: EvaluateConfig) -> list[System]:
    """Return the separator and the folder of estimates, if given."""
    systems: list[System] = []
    if config.checkpoint is not None:
        if config.targets:
            raise ConfigError("targets: the checkpoint defines its targets; omit this setting")
        loaded = load_separator(config.checkpoint)
        systems.append(
            SeparatorSystem(
                name=config.name,
                targets=loaded.targets,
                checkpoint=absolute_uri(loaded.uri),
                weights=loaded.digest,
                separation=config.separation,
            )
        )
    if config.estimates is not None:
        if is_remote(config.estimates):
            raise ConfigError(f"estimates: {config.estimates} is in S3; copy it to a folder that all machines share")
        folder = Path(config.estimates).expanduser().absolute()
        if not (folder / config.split).is_dir():
            raise ConfigError(
                f"estimates: folder {folder / config.split} not found; use the layout SPLIT/TRACK/TARGET.wav"
            )
        targets = systems[0].targets if systems else config.targets
        systems.append(EstimateFolder(name=folder.name, targets=targets, folder=folder))
    return systems
