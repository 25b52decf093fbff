"""What a separation of files is told."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from cyclesep.errors import ConfigError
from cyclesep.inference import output_names
from cyclesep.inference.chunked_inference import SeparationConfig

SampleFormat = Literal["float", "pcm24", "pcm16"]


@dataclass(frozen=True, kw_only=True)
class SeparateConfig:
    """Files to separate, how, and what to write."""

    checkpoint: str
    """Checkpoint folder, or run (its folder, or its name below `runs`), whose best checkpoint is taken."""

    inputs: Annotated[tuple[str, ...], Field(min_length=1)]
    """Audio files, folders that are searched for audio, or glob patterns."""

    output: str = "separated"
    """StoragePath for the stems."""

    stems: tuple[str, ...] = ()
    """Targets to write; none: all that the separator has. One of several gives it and everything else."""

    residual: bool | None = None
    """Whether to write what the targets leave of the input; none: if one target is written."""

    filename_template: str = "{track}/{stem}.{ext}"
    """Path of a stem below `output`; `.{ext}` may be left out."""

    format: Literal["wav", "flac", "mp3"] = "wav"
    """Kind of file; mp3 has a variable bit rate, of the best quality (V0, about 250 kbit/s in stereo)."""

    sample_format: SampleFormat | None = None
    """How samples are stored; none: float in wav, pcm24 in flac. Only float holds peaks above full scale."""

    clipping: Literal["rescale", "clip", "error"] = "rescale"
    """Peaks above full scale where they do not fit: make all stems of the track softer, clip, or refuse the file."""

    json: bool = False
    """Print one JSON document on stdout, about each file: its stems, seconds, gain, or why it failed."""

    separation: SeparationConfig = field(default_factory=SeparationConfig)

    @property
    def keeps_peaks(self) -> bool:
        """Whether the files hold samples above full scale."""
        return self.format == "wav" and self.sample_format in (None, "float")


def refuse_impossible(config: SeparateConfig) -> None:
    """Raise ConfigError for settings that cannot go together, or a name that is no template."""
    if config.format == "flac" and config.sample_format == "float":
        raise ConfigError("sample_format: flac holds no float samples; set sample_format=pcm24, or format=wav")
    if config.format == "mp3" and config.sample_format is not None:
        raise ConfigError(
            f"sample_format: mp3 has none, and {config.sample_format} was asked for; leave it out, or set format=wav"
        )
    output_names.refuse_bad_template(config.filename_template)
