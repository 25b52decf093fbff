"""Separate audio files one after the other into stem files; a file that fails does not stop the others."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from cyclesep.audio.audio_io import Samples
from cyclesep.audio.audio_reader import AudioReader
from cyclesep.checkpoints.loaded_separator import LoadedSeparator, load_separator
from cyclesep.errors import ConfigError, CyclesepError
from cyclesep.inference import output_names
from cyclesep.inference.audio_writer import StemWriter
from cyclesep.inference.chunked_inference import SeparatorLike, choose_device
from cyclesep.inference.config import SeparateConfig
from cyclesep.inference.file_progress import SeparationProgress
from cyclesep.inference.input_files import find_inputs
from cyclesep.inference.result import FailedFile, SeparatedFile, SeparationResult
from cyclesep.inference.stems import residual_name, select_targets, separate_stream
from cyclesep.storage.atomic_io import replacing
from cyclesep.storage.uri import display_path

# Called with the seconds done and the seconds that the file declares.
OnProgress = Callable[[float, float], None]


def separate_files(config: SeparateConfig, separator: SeparatorLike | None = None) -> SeparationResult:
    """Separate all of `config.inputs`, and show progress on stderr.

    Raises ConfigError or CheckpointError, before anything is written, for problems that concern all files.
    """
    _check_config(config)
    device = choose_device(config.separation.device)
    tracks = find_inputs(config.inputs, output=Path(config.output))
    separator = separator or load_separator(config.checkpoint, device)
    # Fails if the template is invalid for every file.
    _stem_paths(separator, config, "track")
    planned: dict[Path, dict[str, Path]] = {}
    separated: list[SeparatedFile] = []
    failed: list[FailedFile] = []
    for track, source in tracks.items():
        try:
            planned[source] = _stem_paths(separator, config, track)
        except ConfigError as problem:
            failed.append(_failed_file(source, problem))
    output_names.check_collisions(planned, config.filename_template)
    inputs = frozenset(Path(os.path.realpath(source)) for source in tracks.values())
    with SeparationProgress(len(planned)) as progress:
        for source, paths in planned.items():
            progress.begin(source)
            try:
                _check_inputs_kept(source, paths, inputs)
                separated.append(_separate(separator, source, config, paths, progress.advance))
                progress.done(separated[-1])
            except CyclesepError as problem:
                failed.append(_failed_file(source, problem))
    return SeparationResult(
        separated=tuple(separated),
        failed=tuple(failed),
        checkpoint=display_path(separator.uri) if isinstance(separator, LoadedSeparator) else "",
        device=str(device),
    )


def _check_config(config: SeparateConfig) -> None:
    """Raise ConfigError for conflicting settings, or an invalid filename template."""
    if config.format == "flac" and config.sample_format == "float":
        raise ConfigError("sample_format: flac does not support float; set sample_format=pcm24, or format=wav")
    if config.format == "mp3" and config.sample_format is not None:
        raise ConfigError(
            f"sample_format={config.sample_format}: mp3 has no sample format; omit sample_format, or set format=wav"
        )
    output_names.check_template(config.filename_template)


def _separate(
    separator: SeparatorLike,
    source: Path,
    config: SeparateConfig,
    paths: dict[str, Path],
    on_progress: OnProgress,
) -> SeparatedFile:
    began = time.monotonic()
    with AudioReader(source) as audio, ExitStack() as stack:
        writer = StemWriter.of(config, audio, source)
        partials = {stem: stack.enter_context(replacing(path)) for stem, path in paths.items()}
        chunks = separate_stream(
            separator,
            audio,
            channels=audio.channels,
            sample_rate=audio.sample_rate,
            config=config.separation,
            targets=select_targets(separator, config.stems),
        )
        gain = writer.write(partials, _report_progress(chunks, audio, on_progress), source=source)
    return SeparatedFile(
        source=source,
        stems=paths,
        seconds=audio.num_samples / audio.sample_rate,
        wall_seconds=time.monotonic() - began,
        gain=gain,
    )


def _failed_file(source: Path, problem: CyclesepError) -> FailedFile:
    message = str(problem)
    return FailedFile(source=source, reason=message if str(source) in message else f"{source}: {message}")


def _stem_paths(separator: SeparatorLike, config: SeparateConfig, track: str) -> dict[str, Path]:
    targets = select_targets(separator, config.stems)
    with_residual = len(targets) == 1 if config.residual is None else config.residual
    stems = [*targets, residual_name(targets)] if with_residual else targets
    return output_names.stem_paths(
        Path(config.output), config.filename_template, track=track, stems=stems, ext=config.format
    )


def _check_inputs_kept(source: Path, paths: Mapping[str, Path], inputs: frozenset[Path]) -> None:
    """Raise ConfigError if a stem would replace an input file."""
    for path in paths.values():
        replaced = Path(os.path.realpath(path))
        if replaced in inputs:
            what = "its own input" if replaced == Path(os.path.realpath(source)) else f"the input {path}"
            raise ConfigError(f"{source}: a stem would replace {what}; change output or filename_template")


def _report_progress(
    chunks: Iterator[dict[str, Samples]], audio: AudioReader, on_progress: OnProgress
) -> Iterator[Mapping[str, Samples]]:
    done = 0
    for chunk in chunks:
        yield chunk
        done += next(iter(chunk.values())).shape[1]
        on_progress(done / audio.sample_rate, audio.declared_samples / audio.sample_rate)
