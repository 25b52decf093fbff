"""Write stems to wav, flac or mp3 files in chunks, and handle peaks above full scale."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from cyclesep.audio.audio_io import Samples
from cyclesep.audio.audio_reader import BLOCK_SAMPLES, AudioReader
from cyclesep.errors import AudioError, StorageError
from cyclesep.inference.config import SeparateConfig

# The largest sample of a 16-bit file; 24 bits can store a little more.
_PCM_PEAK = 32767 / 32768
# Larger files need RF64, since a wav header cannot store their size.
_WAV_LIMIT_BYTES = 4_000_000_000
# ISO 11172-3 and 13818-3, and the usual extension to the lowest rates.
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_MAX_CHANNELS = {"mp3": 2, "flac": 8}
_SUBTYPES = {"float": "FLOAT", "pcm24": "PCM_24", "pcm16": "PCM_16"}
# A variable bit rate, because LAME attenuates audio at a constant one, by 5 % below 32 kHz; its best quality is "V0".
_MP3_OPTIONS = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "VARIABLE", "compression_level": 0.0}


@dataclass(frozen=True, kw_only=True)
class StemWriter:
    """Writes the stems of one input file in the configured format."""

    clipping: str
    stores_peaks: bool
    options: dict[str, Any]
    """Arguments of soundfile.SoundFile for the final files."""

    @classmethod
    def of(cls, config: SeparateConfig, audio: AudioReader, source: Path) -> "StemWriter":
        """Return the writer for stems of `audio`; raise AudioError for an unsupported rate or channel count."""
        _check_format(config.format, audio, source)
        options = {"samplerate": audio.sample_rate, "channels": audio.channels} | _format_options(config, audio)
        return cls(clipping=config.clipping, stores_peaks=config.stores_peaks, options=options)

    def write(self, partials: Mapping[str, Path], chunks: Iterable[Mapping[str, Samples]], *, source: Path) -> float:
        """Write all chunks to one file per stem; return the gain applied: 1, or less if `rescale` reduced it.

        Raises AudioError with `clipping="error"` if a peak exceeds full scale, StorageError if writing fails.
        """
        rescaling = not self.stores_peaks and self.clipping == "rescale"
        # The gain is known only at the end, so the stems are first written as float files.
        float_options = {"format": "RF64", "subtype": "FLOAT"}
        unscaled = {name: self.options[name] for name in ("samplerate", "channels")} | float_options
        peak = _write(partials, chunks, **(unscaled if rescaling else self.options))
        if peak > 1 and self.clipping == "error" and not self.stores_peaks:
            raise AudioError(
                f"{source}: a stem peaks {20 * np.log10(peak):.2f} dB above full scale, with clipping=error; "
                "set clipping=rescale or clip, or format=wav sample_format=float"
            )
        gain = 1.0 / max(1.0, peak) if rescaling else 1.0
        for partial in partials.values() if rescaling else ():
            _rescale(partial, gain, **self.options)
        return gain


def _format_options(config: SeparateConfig, audio: AudioReader) -> dict[str, Any]:
    if config.format == "mp3":
        return _MP3_OPTIONS
    if config.format == "flac":
        return {"format": "FLAC", "subtype": _SUBTYPES[config.sample_format or "pcm24"]}
    size = audio.declared_samples * audio.channels * 4
    container = "RF64" if size > _WAV_LIMIT_BYTES else "WAV"
    return {"format": container, "subtype": _SUBTYPES[config.sample_format or "float"]}


def _check_format(format: str, audio: AudioReader, source: Path) -> None:
    unsupported = None
    if format == "mp3" and audio.sample_rate not in _MP3_RATES:
        unsupported = f"a sample rate of {audio.sample_rate} Hz"
    elif audio.channels > _MAX_CHANNELS.get(format, audio.channels):
        unsupported = f"{audio.channels} channels"
    if unsupported is not None:
        raise AudioError(f"{source}: has {unsupported}, which {format} does not support; set format=wav")


def _write(partials: Mapping[str, Path], chunks: Iterable[Mapping[str, Samples]], **options: Any) -> float:
    """Write chunks into one file per stem; return the largest peak as a fraction of full scale."""
    peak = 0.0
    lossy = options["format"] == "MP3"
    for partial in partials.values():
        # Raises OSError with the reason if a file cannot be created; libsndfile gives none.
        partial.touch()
    try:
        with ExitStack() as stack:
            files = {
                stem: stack.enter_context(soundfile.SoundFile(partial, "w", **options))
                for stem, partial in partials.items()
            }
            for chunk in chunks:
                for stem, file in files.items():
                    peak = max(peak, float(chunk[stem].max()) / _PCM_PEAK, -float(chunk[stem].min()))
                    # libsndfile clips PCM itself; for mp3 its behavior is undocumented.
                    file.write((np.clip(chunk[stem], -1.0, 1.0) if lossy else chunk[stem]).T)
    except soundfile.LibsndfileError as problem:
        folder = next(iter(partials.values())).parent
        # error_string has no prefix with the name of the partial file.
        raise StorageError(
            f"{folder}: cannot be written ({problem.error_string}); free space or choose another folder"
        ) from problem
    return peak


def _rescale(partial: Path, gain: float, **options: Any) -> None:
    """Apply `gain` to a float file and rewrite it in its final format."""
    scaled = partial.with_stem(f"{partial.stem}-scaled")
    try:
        with soundfile.SoundFile(partial) as unscaled:
            blocks = unscaled.blocks(BLOCK_SAMPLES, dtype="float32", always_2d=True)
            _write({"": scaled}, ({"": block.T * np.float32(gain)} for block in blocks), **options)
        scaled.replace(partial)
    finally:
        scaled.unlink(missing_ok=True)
