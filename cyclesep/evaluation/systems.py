"""What is scored: a separator, a folder of estimates, and what they are measured against."""

import abc
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from cyclesep import checkpoints, storage
from cyclesep.audio import audio_io
from cyclesep.audio.audio_io import Waveform
from cyclesep.data.shards.manifest import MIXTURE
from cyclesep.errors import ConfigError, ScoringError
from cyclesep.evaluation.config import EvaluateConfig, Oracle
from cyclesep.evaluation.references import ReferenceTrack
from cyclesep.inference.chunked_inference import SeparationConfig
from cyclesep.metrics import oracles
from cyclesep.metrics.track_score import ACCOMPANIMENT
from cyclesep.storage.atomic_io import as_name
from cyclesep.storage.path import StoragePath

HEURISTIC = "heuristic"
HEURISTIC_TARGETS = frozenset({"vocals", "drums", "bass", "other"})
ESTIMATE_SUFFIXES = (".wav", ".flac")
_GAPS_TOLD = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class System:
    """Whatever gives estimates of a track's stems."""

    name: str
    targets: tuple[str, ...]
    """What is scored; none: every stem of the track."""

    @property
    def weights_digest(self) -> str:
        """SHA-256 of a separator's weights; empty for what has none."""
        return ""

    def card(self) -> dict[str, Any]:
        """Where it comes from, as plain values: path, progress and config; empty for what was not trained."""
        return {}

    def digest(self, track: ReferenceTrack) -> list[Any]:
        """What decides the estimates of a track, as plain values."""
        return [type(self).__name__, self.targets, track.digest()]


@dataclass(frozen=True, kw_only=True)
class Separator(System):
    """A trained separator, whose estimates an actor makes, or the process that scores them."""

    checkpoint: str
    """Of one checkpoint: an absolute path, or s3://bucket/prefix."""
    weights: str
    """SHA-256 of the weights."""
    windows: SeparationConfig
    """How tracks are cut."""

    @property
    @override
    def weights_digest(self) -> str:
        return self.weights

    @override
    def card(self) -> dict[str, Any]:
        config = yaml.safe_load(StoragePath(self.checkpoint).read_text(checkpoints.CONFIG))
        progress = asdict(checkpoints.read_metadata(self.checkpoint))
        return {"path": self.checkpoint, "progress": progress, "config": config}

    @override
    def digest(self, track: ReferenceTrack) -> list[Any]:
        # Where and in what batches a window is computed is no part of what comes out.
        windows = {name: value for name, value in asdict(self.windows).items() if name not in ("device", "batch_size")}
        return [*super().digest(track), self.weights, windows]


class Comparison(System, abc.ABC):
    """A system whose estimates are made by the task that scores them."""

    @abc.abstractmethod
    def estimates(self, stems: Mapping[str, Waveform], track: ReferenceTrack) -> dict[str, Waveform]:
        """By target, from all stems of the track, the mixture among them; raises ScoringError if there are none."""

    def _wanted(self, stems: Mapping[str, Waveform]) -> tuple[str, ...]:
        return self.targets or tuple(name for name in stems if name != MIXTURE)


@dataclass(frozen=True, kw_only=True)
class MixtureBaseline(Comparison):
    """The mixture as the estimate of every target."""

    @override
    def estimates(self, stems: Mapping[str, Waveform], track: ReferenceTrack) -> dict[str, Waveform]:
        return oracles.mixture_as_estimate(stems[MIXTURE], self._wanted(stems))


@dataclass(frozen=True, kw_only=True)
class HeuristicBaseline(Comparison):
    """Rules that have learned nothing; knows vocals, drums, bass and other."""

    @override
    def estimates(self, stems: Mapping[str, Waveform], track: ReferenceTrack) -> dict[str, Waveform]:
        separated = oracles.separate_blindly(stems[MIXTURE])
        wanted = {name: separated[name] for name in self._wanted(stems) if name in separated}
        if not wanted:
            raise ScoringError(f"{track.track_id}: the heuristic knows none of its stems; set heuristic=false")
        return with_accompaniment(wanted, stems[MIXTURE])


@dataclass(frozen=True, kw_only=True)
class IdealMask(Comparison):
    """An oracle: masks made of the references."""

    mask: Oracle

    @override
    def estimates(self, stems: Mapping[str, Waveform], track: ReferenceTrack) -> dict[str, Waveform]:
        separated = oracles.separate_by_oracle(self.mask, stems)
        wanted = {name: separated[name] for name in self._wanted(stems) if name in separated}
        if not wanted:
            raise ScoringError(f"{track.track_id}: holds no reference of {' or '.join(self.targets)}; leave it out")
        return with_accompaniment(wanted, stems[MIXTURE])


@dataclass(frozen=True, kw_only=True)
class EstimateFolder(Comparison):
    """Estimates that somebody else has written: FOLDER/SPLIT/TRACK/TARGET.wav."""

    folder: Path

    @override
    def digest(self, track: ReferenceTrack) -> list[Any]:
        found = [(path.name, path.stat()) for path in self._files(track)]
        return [*super().digest(track), [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]]

    @override
    def estimates(self, stems: Mapping[str, Waveform], track: ReferenceTrack) -> dict[str, Waveform]:
        wanted = {*self._wanted(stems), ACCOMPANIMENT}
        found = {path.stem: audio_io.read(path) for path in self._files(track) if path.stem in wanted}
        if not found:
            raise ScoringError(
                f"{self._place(track)}: holds no {' or '.join(sorted(wanted))} (wav or flac); write estimates there"
            )
        return found

    def warn_missing_estimates(self, tracks: Sequence[ReferenceTrack]) -> None:
        """Warn of tracks that lack targets which others have."""
        found = {track.track_id: self._names(track) for track in tracks}
        known = set().union(*found.values())
        # One without any estimate fails, and is told then.
        lacking = {track: sorted(known - names) for track, names in found.items() if names and known - names}
        if not lacking:
            return
        told = [f"{track}: {', '.join(missing)}" for track, missing in lacking.items()]
        _log.warning(
            "%s: %d of %d tracks %s targets that others have (%s); such a track is scored with what it has, which "
            "changes SIR and SAR, and stands in a table of its own",
            self.name,
            len(lacking),
            len(tracks),
            "lacks" if len(lacking) == 1 else "lack",
            "; ".join(told if len(told) <= _GAPS_TOLD else [*told[:_GAPS_TOLD], "..."]),
        )

    def _place(self, track: ReferenceTrack) -> Path:
        return self.folder / track.split / as_name(track.track_id)

    def _names(self, track: ReferenceTrack) -> set[str]:
        """What is estimated of a track, as far as can be told without its references."""
        names = {path.stem for path in self._files(track)} - {MIXTURE}
        return names & {*self.targets, ACCOMPANIMENT} if self.targets else names

    def _files(self, track: ReferenceTrack) -> list[Path]:
        """Raises ConfigError where a target has two files."""
        place = self._place(track)
        # What macOS leaves beside files of other systems ("._vocals.wav") is hidden and no audio.
        found = [path for path in place.glob("[!.]*") if path.suffix.lower() in ESTIMATE_SUFFIXES]
        files = sorted(found, key=lambda path: (path.stem, path.name))
        for one, other in itertools.pairwise(files):
            if one.stem == other.stem:
                raise ConfigError(f"estimates: {place} holds {one.name} and {other.name}; keep one of them")
        return files


def find_systems(config: EvaluateConfig) -> list[System]:
    """All that `config` asks for, the oracles last. Raises ConfigError or CheckpointError if something is not there."""
    separators = _separators(config)
    targets = separators[0].targets if config.checkpoint is not None else config.targets
    systems: list[System] = [MixtureBaseline(name=MIXTURE, targets=targets)] if config.mixture else []
    if config.heuristic and (not targets or set(targets) & HEURISTIC_TARGETS):
        systems.append(HeuristicBaseline(name=HEURISTIC, targets=targets))
    systems += separators
    systems += [IdealMask(name=mask, targets=targets, mask=mask) for mask in config.oracles]
    names = [system.name for system in systems]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise ConfigError(f"name: two systems would be called {doubled!r}; choose another name")
    if not systems:
        raise ConfigError("there is nothing to score; give a checkpoint or estimates, or set mixture=true")
    return systems


def with_accompaniment(estimates: Mapping[str, Waveform], mixture: Waveform) -> dict[str, Waveform]:
    """One estimate is joined by what it leaves of the mixture; several stay as they are."""
    if len(estimates) != 1 or ACCOMPANIMENT in estimates:
        return dict(estimates)
    ((name, estimate),) = estimates.items()
    rest = Waveform(samples=mixture.samples - estimate.samples, sample_rate=mixture.sample_rate)
    return {name: estimate, ACCOMPANIMENT: rest}


def _separators(config: EvaluateConfig) -> list[System]:
    found: list[System] = []
    if config.checkpoint is not None:
        if config.targets:
            raise ConfigError("targets: the checkpoint tells what its targets are; leave them out")
        loaded = checkpoints.load_separator(config.checkpoint)
        found.append(
            Separator(
                name=config.name,
                targets=loaded.targets,
                checkpoint=storage.absolute(loaded.place),
                weights=loaded.digest,
                windows=config.separation,
            )
        )
    if config.estimates is not None:
        if storage.is_remote(config.estimates):
            raise ConfigError(f"estimates: {config.estimates} lies in S3; copy it to a folder that all machines share")
        folder = Path(config.estimates).expanduser().absolute()
        if not (folder / config.split).is_dir():
            raise ConfigError(
                f"estimates: there is no folder {folder / config.split}; lay them out SPLIT/TRACK/TARGET.wav"
            )
        targets = found[0].targets if found else config.targets
        found.append(EstimateFolder(name=folder.name, targets=targets, folder=folder))
    return found
