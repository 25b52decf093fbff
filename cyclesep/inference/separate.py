"""Files in, stems out: one after the other, each whole or not at all, going on after one that fails."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from cyclesep.audio.audio_io import Samples
from cyclesep.checkpoints.separator import load_separator
from cyclesep.errors import ConfigError, CyclesepError
from cyclesep.inference import output_names
from cyclesep.inference.audio_reader import AudioSource
from cyclesep.inference.audio_writer import StemWriter
from cyclesep.inference.chunked_inference import Separator, choose_device
from cyclesep.inference.config import SeparateConfig, refuse_impossible
from cyclesep.inference.file_progress import SeparationProgress
from cyclesep.inference.input_files import find_inputs, track_name
from cyclesep.inference.result import FailedFile, SeparatedFile, SeparationReport, make_report
from cyclesep.inference.stems import chosen_targets, named_pieces, residual_name
from cyclesep.storage.atomic_io import replacing

# Told how many seconds are done, and how many the file declares.
Advance = Callable[[float, float], None]


def separate_paths(config: SeparateConfig, separator: Separator | None = None) -> SeparationReport:
    """Separate all of `config.inputs`, going on after a file that fails; progress is drawn on stderr.

    Raises ConfigError or CheckpointError for what concerns all files, before anything is written.
    """
    refuse_impossible(config)
    device = choose_device(config.separation.device)
    tracks = find_inputs(config.inputs, output=Path(config.output))
    separator = separator or load_separator(config.checkpoint, device)
    # What is wrong with this name is wrong for all files.
    _planned(separator, config, "track")
    planned: dict[Path, dict[str, Path]] = {}
    separated: list[SeparatedFile] = []
    failed: list[FailedFile] = []
    for track, source in tracks.items():
        try:
            planned[source] = _planned(separator, config, track)
        except ConfigError as problem:
            failed.append(_failed(source, problem))
    output_names.refuse_collisions(planned, config.filename_template)
    kept = frozenset(Path(os.path.realpath(source)) for source in tracks.values())
    with SeparationProgress(len(planned)) as progress:
        for source, paths in planned.items():
            progress.begin(source)
            try:
                _refuse_replacing(source, paths, kept)
                done = _separate(separator, source, config, paths, progress.advance)
                separated.append(done)
                progress.done(done)
            except CyclesepError as problem:
                failed.append(_failed(source, problem))
    return make_report(separator, str(device), separated, failed)


def separate_file(separator: Separator, source: Path, config: SeparateConfig, *, name: str = "") -> SeparatedFile:
    """Separate one file in constant memory; its stems appear whole, or none of them does.

    `name` stands for `{track}` in `config.name` (default: the file's own). Raises AudioError for a file that cannot be
    read, has more channels than the separator takes or does not fit the format, StorageError if the stems cannot be
    written, ConfigError if one of them would replace the file itself.
    """
    refuse_impossible(config)
    paths = _planned(separator, config, name or track_name(Path(source.name)))
    _refuse_replacing(source, paths, frozenset([Path(os.path.realpath(source))]))
    return _separate(separator, source, config, paths, lambda *_: None)


def _separate(
    separator: Separator, source: Path, config: SeparateConfig, paths: dict[str, Path], advance: Advance
) -> SeparatedFile:
    began = time.monotonic()
    with AudioSource(source) as heard, ExitStack() as stack:
        writer = StemWriter.of(config, heard, source)
        partials = {stem: stack.enter_context(replacing(path)) for stem, path in paths.items()}
        pieces = named_pieces(
            separator,
            heard,
            channels=heard.channels,
            sample_rate=heard.sample_rate,
            config=config.separation,
            chosen=chosen_targets(separator, config.stems),
        )
        gain = writer.write(partials, _followed(pieces, heard, advance), name=source)
    return SeparatedFile(
        source=source,
        stems=paths,
        seconds=heard.num_samples / heard.sample_rate,
        wall_seconds=time.monotonic() - began,
        gain=gain,
    )


def _failed(source: Path, problem: CyclesepError) -> FailedFile:
    told = str(problem)
    return FailedFile(source=source, reason=told if str(source) in told else f"{source}: {told}")


def _planned(separator: Separator, config: SeparateConfig, track: str) -> dict[str, Path]:
    chosen = chosen_targets(separator, config.stems)
    with_residual = len(chosen) == 1 if config.residual is None else config.residual
    stems = [*chosen, residual_name(chosen)] if with_residual else chosen
    return output_names.stem_paths(
        Path(config.output), config.filename_template, track=track, stems=stems, ext=config.format
    )


def _refuse_replacing(source: Path, paths: Mapping[str, Path], kept: frozenset[Path]) -> None:
    for path in paths.values():
        replaced = Path(os.path.realpath(path))
        if replaced in kept:
            whose = "its own input" if replaced == Path(os.path.realpath(source)) else f"the input {path}"
            raise ConfigError(f"{source}: a stem would replace {whose}; choose another output or name")


def _followed(
    pieces: Iterator[dict[str, Samples]], heard: AudioSource, advance: Advance
) -> Iterator[Mapping[str, Samples]]:
    """The pieces as they are; how far they reach is told on the way."""
    done = 0
    for piece in pieces:
        yield piece
        done += next(iter(piece.values())).shape[1]
        advance(done / heard.sample_rate, heard.expected / heard.sample_rate)
