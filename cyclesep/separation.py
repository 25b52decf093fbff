"""Separation of audio in memory and of files: same rate, channels, length and gain out as in.

What the chosen targets leave of the input is the accompaniment (of one target) or the residual (of several): the input
minus the estimates, at the input's own rate, so that the stems always add up to the input.
"""

import itertools
import string
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import soundfile
from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cyclesep import audio, checkpoints
from cyclesep.audio import AUDIO_SUFFIXES, Samples, Waveform
from cyclesep.errors import AudioError, ConfigError, CyclesepError, StorageError
from cyclesep.files import replacing
from cyclesep.windowing import SeparationConfig, Separator, choose_device, separate_blocks

__all__ = ["SeparateConfig", "SeparationConfig", "separate_file", "separate_paths", "separate_waveform"]

ACCOMPANIMENT = "accompaniment"

_BLOCK_SAMPLES = 1 << 18
# The largest sample of a 16-bit file; 24 bits hold a little more.
_PCM_PEAK = 32767 / 32768
# Above this a wav header cannot count the bytes; RF64 is the wav that can.
_WAV_LIMIT_BYTES = 4_000_000_000


@dataclass(frozen=True, kw_only=True)
class SeparateConfig:
    """Files to separate, how, and what to write."""

    checkpoint: str
    """Checkpoint folder, or run folder, whose best checkpoint is taken."""

    inputs: Annotated[tuple[str, ...], Field(min_length=1)]
    """Audio files, folders that are searched for audio, or glob patterns."""

    output: str = "separated"
    """Folder for the stems."""

    stems: tuple[str, ...] = ()
    """Targets to write; none: all that the separator has. One of several gives it and everything else."""

    residual: bool | None = None
    """Whether to write what the targets leave of the input; none: if one target is written."""

    name: str = "{track}/{stem}"
    """Path of a stem below `output`, without its suffix."""

    file_format: Literal["wav", "flac"] = "wav"
    """Kind of file."""

    sample_format: Literal["float", "pcm24", "pcm16"] = "float"
    """How samples are stored; only `float` holds peaks above full scale."""

    clipping: Literal["rescale", "clip"] = "rescale"
    """Peaks that do not fit pcm24 or pcm16: all stems of the track are made softer by the same factor, or clipped."""

    separation: SeparationConfig = field(default_factory=SeparationConfig)


@dataclass(frozen=True, kw_only=True)
class SeparatedFile:
    """One file that was separated."""

    source: Path
    stems: dict[str, Path]
    seconds: float
    wall_seconds: float
    gain: float
    """Factor that the stems were written with: 1, or less where `rescale` had to make them fit."""


@dataclass(frozen=True, kw_only=True)
class FailedFile:
    """One file that could not be separated."""

    source: Path
    reason: str


@dataclass(frozen=True, kw_only=True)
class SeparationReport:
    """What `separate_paths` has done; whoever calls it exits non-zero if something failed."""

    separated: tuple[SeparatedFile, ...]
    failed: tuple[FailedFile, ...]


def separate_waveform(
    separator: Separator, waveform: Waveform, config: SeparationConfig | None = None, *, stems: Sequence[str] = ()
) -> dict[str, Waveform]:
    """The chosen targets (default: all) and the residual of a waveform, each of its rate, channels, length and gain."""
    chosen = _chosen(separator, stems)
    pieces = _named_pieces(separator, [waveform.samples], waveform.channels, waveform.sample_rate, config, chosen)
    parts = list(pieces)
    return {
        name: Waveform(samples=np.concatenate([part[name] for part in parts], axis=1), sample_rate=waveform.sample_rate)
        for name in (*chosen, residual_name(chosen))
    }


def residual_name(targets: Sequence[str]) -> str:
    """What is left of a mixture without `targets`: "accompaniment" of one target, "residual" of several."""
    return ACCOMPANIMENT if len(targets) == 1 and targets[0] != ACCOMPANIMENT else "residual"


def separate_paths(config: SeparateConfig, separator: Separator | None = None) -> SeparationReport:
    """Separate all of `config.inputs`, going on after a file that fails; progress is drawn on stderr.

    Raises ConfigError or CheckpointError for what concerns all files, before anything is written.
    """
    _refuse_impossible(config)
    device = choose_device(config.separation.device)
    tracks = find_inputs(config.inputs, output=Path(config.output))
    separator = separator or checkpoints.load_separator(config.checkpoint, device)
    _chosen(separator, config.stems)
    separated: list[SeparatedFile] = []
    failed: list[FailedFile] = []
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with _progress(console) as bar:
        task = bar.add_task(f"separating on {device}", total=len(tracks))
        for name, source in tracks.items():
            try:
                done = separate_file(separator, source, config, name=name)
                separated.append(done)
                speed = done.seconds / max(done.wall_seconds, 1e-9)
                console.print(f"{source}: {done.seconds:.1f} s of audio, {speed:.1f} x real time", markup=False)
            except CyclesepError as problem:
                failed.append(FailedFile(source=source, reason=str(problem)))
            bar.advance(task)
    return SeparationReport(separated=tuple(separated), failed=tuple(failed))


def separate_file(separator: Separator, source: Path, config: SeparateConfig, *, name: str = "") -> SeparatedFile:
    """Separate one file in constant memory; its stems appear whole, or none of them does.

    `name` stands for `{track}` in `config.name` (default: the file's own). Raises AudioError for a file that cannot be
    read or has more channels than the separator takes, StorageError if the stems cannot be written.
    """
    began = time.monotonic()
    chosen = _chosen(separator, config.stems)
    written = [*chosen, residual_name(chosen)] if _with_residual(config, chosen) else chosen
    track = name or _track_name(Path(source.name))
    suffix = f".{config.file_format}"
    paths = {stem: Path(config.output) / (config.name.format(track=track, stem=stem) + suffix) for stem in written}
    if any(path.resolve() == source.resolve() for path in paths.values()):
        raise ConfigError(f"{source}: a stem would replace its own input; choose another output or name")
    # How much softer is known when the last sample is: until then the peaks are kept in float files.
    rescaling = config.sample_format != "float" and config.clipping == "rescale"
    with _AudioSource(source) as heard, ExitStack() as stack:
        final = _final_format(config, heard)
        partials = {stem: stack.enter_context(replacing(path)) for stem, path in paths.items()}
        pieces = _named_pieces(separator, heard, heard.channels, heard.sample_rate, config.separation, chosen)
        excess = _write(partials, pieces, **(final | {"format": "RF64", "subtype": "FLOAT"} if rescaling else final))
        gain = 1.0 / max(1.0, excess) if rescaling else 1.0
        for partial in partials.values() if rescaling else ():
            _rescale(partial, gain, **final)
    seconds = heard.num_samples / heard.sample_rate
    wall_seconds = time.monotonic() - began
    return SeparatedFile(source=source, stems=paths, seconds=seconds, wall_seconds=wall_seconds, gain=gain)


def find_inputs(inputs: Sequence[str], *, output: Path | None = None) -> dict[str, Path]:
    """Audio files by track name: named ones, and those found in folders and by patterns.

    Names are unique: the path below the folder without its suffix, with the suffix where two files differ in it only.
    What an earlier run has written into an `output` below a folder is passed over. Raises ConfigError if there is none.
    """
    found: dict[str, Path] = {}
    for text in inputs:
        for root, path in _matches(text, output):
            if path not in found.values():
                found[_unused(_track_name(path.relative_to(root)), path, found)] = path
    if not found:
        raise ConfigError(
            f"inputs: {', '.join(inputs)} holds no audio files; give some, or folders of them "
            f"({' '.join(sorted(AUDIO_SUFFIXES))})"
        )
    return found


class _AudioSource:
    """Blocks `(channels, time)` of an audio file, read as they are asked for, all of their values finite."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: soundfile.SoundFile | None = None
        self._whole: Waveform | None = None
        self.num_samples = 0
        try:
            self._file = soundfile.SoundFile(path)
            self.channels, self.sample_rate = self._file.channels, self._file.samplerate
            self.expected = self._file.frames
        except (soundfile.LibsndfileError, OSError):
            # Formats that only ffmpeg knows are decoded whole; here the reason of a failure is told as well.
            self._whole = audio.read(path)
            self.channels, self.sample_rate = self._whole.channels, self._whole.sample_rate
            self.expected = self._whole.num_samples

    def __enter__(self) -> "_AudioSource":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def __iter__(self) -> Iterator[Samples]:
        blocks: Iterable[Samples] = [self._whole.samples] if self._whole is not None else self._blocks()
        for block in blocks:
            self.num_samples += block.shape[1]
            yield block
        if self.num_samples == 0:
            raise AudioError(f"{self._path}: holds no samples; leave the file out or export it again")

    def _blocks(self) -> Iterator[Samples]:
        assert self._file is not None
        try:
            while len(block := self._file.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                name = f"{self._path}, from {self.num_samples / self.sample_rate:.1f} s on"
                yield audio.checked(Waveform(samples=block.T, sample_rate=self.sample_rate), name=name).samples
        except soundfile.LibsndfileError as problem:
            raise AudioError(
                f"{self._path}: damaged after {self.num_samples} samples ({problem}); export it again"
            ) from problem


def _named_pieces(
    separator: Separator,
    blocks: Iterable[Samples],
    channels: int,
    sample_rate: int,
    config: SeparationConfig | None,
    chosen: Sequence[str],
) -> Iterator[dict[str, Samples]]:
    """Piece after piece of the chosen targets and of what they leave."""
    rows = [separator.targets.index(target) for target in chosen]
    config = config or SeparationConfig()
    for mixture, estimates in separate_blocks(
        separator, blocks, channels=channels, sample_rate=sample_rate, config=config
    ):
        kept = estimates[rows]
        yield dict(zip(chosen, kept, strict=True)) | {residual_name(chosen): mixture - kept.sum(axis=0)}


def _write(partials: Mapping[str, Path], pieces: Iterable[Mapping[str, Samples]], **options: Any) -> float:
    """Write pieces into one file per stem; gives back by how much the loudest sample exceeds full scale (1: fits)."""
    excess = 0.0
    try:
        with ExitStack() as stack:
            files = {
                stem: stack.enter_context(soundfile.SoundFile(partial, "w", **options))
                for stem, partial in partials.items()
            }
            for piece in pieces:
                for stem, file in files.items():
                    file.write(piece[stem].T)
                    excess = max(excess, float(piece[stem].max()) / _PCM_PEAK, -float(piece[stem].min()))
    except soundfile.LibsndfileError as problem:
        where = next(iter(partials.values())).parent
        raise StorageError(f"{where}: cannot be written ({problem}); free space or choose another place") from problem
    return excess


def _rescale(partial: Path, gain: float, **options: Any) -> None:
    """Write a float file anew, in its final format."""
    with replacing(partial) as softer, soundfile.SoundFile(partial) as loud:
        blocks = loud.blocks(_BLOCK_SAMPLES, dtype="float32", always_2d=True)
        _write({"": softer}, ({"": block.T * np.float32(gain)} for block in blocks), **options)


def _final_format(config: SeparateConfig, source: _AudioSource) -> dict[str, Any]:
    subtype = {"float": "FLOAT", "pcm24": "PCM_24", "pcm16": "PCM_16"}[config.sample_format]
    size = source.expected * source.channels * 4
    container = "FLAC" if config.file_format == "flac" else "RF64" if size > _WAV_LIMIT_BYTES else "WAV"
    return {"samplerate": source.sample_rate, "channels": source.channels, "format": container, "subtype": subtype}


def _chosen(separator: Separator, stems: Sequence[str]) -> list[str]:
    unknown = [stem for stem in stems if stem not in separator.targets]
    if unknown:
        raise ConfigError(f"stems: the separator has no {unknown[0]!r}; it gives {', '.join(separator.targets)}")
    return list(stems or separator.targets)


def _with_residual(config: SeparateConfig, chosen: Sequence[str]) -> bool:
    return len(chosen) == 1 if config.residual is None else config.residual


def _refuse_impossible(config: SeparateConfig) -> None:
    if config.file_format == "flac" and config.sample_format == "float":
        raise ConfigError("sample_format: flac holds no float samples; set sample_format=pcm24, or file_format=wav")
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(config.name) if name is not None}
    except ValueError as problem:
        raise ConfigError(
            f"name: {config.name!r} is not a template ({problem}); write it like {{track}}/{{stem}}"
        ) from None
    if not {"stem"} <= fields <= {"stem", "track"}:
        raise ConfigError(f"name: {config.name!r} must hold {{stem}}, may hold {{track}}, and nothing else in braces")


def _matches(text: str, output: Path | None) -> Iterator[tuple[Path, Path]]:
    """(folder that names are relative to, file) for a file, for each file in a folder, or for a glob pattern's."""
    path = Path(text)
    if path.is_dir():
        below = output is not None and path.resolve() in output.resolve().parents
        for file in sorted(path.rglob("*")):
            if _is_audio(file) and not (below and output is not None and output.resolve() in file.resolve().parents):
                yield path, file
    elif any(sign in text for sign in "*?[") and not path.exists():
        matched = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        yield from ((file.parent, file) for file in matched if _is_audio(file))
    else:
        # A file that was named is tried whatever its suffix, and told about if it is missing.
        yield path.parent, path


def _is_audio(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")


def _track_name(path: Path) -> str:
    name = path.with_suffix("")
    return str(name.with_suffix("") if name.suffix == ".stem" else name)


def _unused(name: str, path: Path, taken: Mapping[str, Path]) -> str:
    candidates = itertools.chain([name, name + path.suffix], (f"{name}-{number}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _progress(console: Console) -> Progress:
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()]
    return Progress(*columns, console=console, disable=not console.is_terminal)
