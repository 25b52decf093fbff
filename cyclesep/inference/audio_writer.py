"""Stems into files: wav, flac or mp3, piece after piece, their peaks treated as the user wishes."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from cyclesep.audio.audio_io import Samples
from cyclesep.errors import AudioError, StorageError
from cyclesep.inference.audio_reader import BLOCK_SAMPLES, AudioSource
from cyclesep.inference.config import SeparateConfig

# The largest sample of a 16-bit file; 24 bits hold a little more.
_PCM_PEAK = 32767 / 32768
# Above this a wav header cannot count the bytes; RF64 is the wav that can.
_WAV_LIMIT_BYTES = 4_000_000_000
# ISO 11172-3 and 13818-3, and the usual extension to the lowest rates.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_FLAC_CHANNELS = 8
_SUBTYPES = {"float": "FLOAT", "pcm24": "PCM_24", "pcm16": "PCM_16"}
# Variable, for at a constant bit rate LAME makes audio softer, by 5 % below 32 kHz; its best quality, "V0".
_MP3_OPTIONS = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.0}


@dataclass(frozen=True, kw_only=True)
class StemWriter:
    """Writes the stems of one input in the format that the config and the input ask for."""

    clipping: str
    keeps_peaks: bool
    options: dict[str, Any]
    """What soundfile is told of the final files."""

    @classmethod
    def of(cls, config: SeparateConfig, source: AudioSource, name: Path) -> "StemWriter":
        """The writer for stems of `source`; raises AudioError if the format cannot hold its rate or channels."""
        _refuse_misfit(config.format, source, name)
        shape = {"samplerate": source.sample_rate, "channels": source.channels}
        return cls(
            clipping=config.clipping, keeps_peaks=config.keeps_peaks, options=shape | _format_options(config, source)
        )

    def write(self, partials: Mapping[str, Path], pieces: Iterable[Mapping[str, Samples]], *, name: Path) -> float:
        """Write all pieces; gives back the gain that was applied: 1, or less where `rescale` had to.

        Raises AudioError with `clipping="error"` if a peak does not fit, StorageError if the place refuses.
        """
        rescaling = not self.keeps_peaks and self.clipping == "rescale"
        # How much softer is known when the last sample is: until then the peaks are kept in float files.
        loud = {**self.options, "format": "RF64", "subtype": "FLOAT"}
        excess = _write(partials, pieces, **(_plain(loud) if rescaling else self.options))
        if excess > 1 and self.clipping == "error" and not self.keeps_peaks:
            raise AudioError(
                f"{name}: a stem peaks {20 * np.log10(excess):.2f} dB above full scale and clipping=error was asked "
                f"for; take clipping=rescale or clip, or format=wav sample_format=float"
            )
        gain = 1.0 / max(1.0, excess) if rescaling else 1.0
        for partial in partials.values() if rescaling else ():
            _rescale(partial, gain, **self.options)
        return gain


def _format_options(config: SeparateConfig, source: AudioSource) -> dict[str, Any]:
    if config.format == "mp3":
        return _MP3_OPTIONS
    if config.format == "flac":
        return {"format": "FLAC", "subtype": _SUBTYPES[config.sample_format or "pcm24"]}
    size = source.expected * source.channels * 4
    container = "RF64" if size > _WAV_LIMIT_BYTES else "WAV"
    return {"format": container, "subtype": _SUBTYPES[config.sample_format or "float"]}


def _refuse_misfit(format: str, source: AudioSource, name: Path) -> None:
    misfit = None
    if format == "mp3" and source.sample_rate not in _MP3_RATES:
        misfit = f"a sample rate of {source.sample_rate} Hz"
    elif source.channels > {"mp3": 2, "flac": _FLAC_CHANNELS}.get(format, source.channels):
        misfit = f"{source.channels} channels"
    if misfit is not None:
        raise AudioError(f"{name}: has {misfit}, which {format} cannot hold; set format=wav")


def _write(partials: Mapping[str, Path], pieces: Iterable[Mapping[str, Samples]], **options: Any) -> float:
    """Write pieces into one file per stem; gives back by how much the loudest sample exceeds full scale (1: fits)."""
    excess = 0.0
    lossy = options["format"] == "MP3"
    for partial in partials.values():
        # OSError says why a place takes no file; libsndfile does not.
        partial.touch()
    try:
        with ExitStack() as stack:
            files = {
                stem: stack.enter_context(soundfile.SoundFile(partial, "w", **options))
                for stem, partial in partials.items()
            }
            for piece in pieces:
                for stem, file in files.items():
                    excess = max(excess, float(piece[stem].max()) / _PCM_PEAK, -float(piece[stem].min()))
                    # libsndfile clips for PCM; what its MP3 encoder does with peaks it does not say.
                    file.write((np.clip(piece[stem], -1.0, 1.0) if lossy else piece[stem]).T)
    except soundfile.LibsndfileError as problem:
        where = next(iter(partials.values())).parent
        # Without its prefix, which names the partial file.
        raise StorageError(
            f"{where}: cannot be written ({problem.error_string}); free space or choose another place"
        ) from problem
    return excess


def _rescale(partial: Path, gain: float, **options: Any) -> None:
    """Write a float file anew, in its final format."""
    # Of errors tells who gave `partial`, by the name that it is to have.
    softer = partial.with_stem(f"{partial.stem}-softer")
    try:
        with soundfile.SoundFile(partial) as loud:
            blocks = loud.blocks(BLOCK_SAMPLES, dtype="float32", always_2d=True)
            _write({"": softer}, ({"": block.T * np.float32(gain)} for block in blocks), **options)
        softer.replace(partial)
    finally:
        softer.unlink(missing_ok=True)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("bitrate_mode", "compression_level")}
