"""Configuration of separation and export; imports no torch."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class SeparationConfig:
    """How audio is split into segments, and the device that separates them."""

    segment_seconds: PositiveFloat = 8.0
    """Length of a segment, the network's input."""

    context_seconds: NonNegativeFloat = 0.5
    """Discarded at each end of a segment's output, where the network lacks context."""

    overlap_seconds: NonNegativeFloat = 0.1
    """Length of the crossfade between consecutive segments."""

    batch_size: PositiveInt = 4
    """Segments per batch; halved, with a warning, when GPU memory does not suffice."""

    device: Device = "auto"
    """Device of the network: `auto` uses a GPU if there is one; `cuda` without a GPU is an error."""


@dataclass(frozen=True, kw_only=True)
class SeparateConfig:
    """Configuration of `cyclesep separate`."""

    checkpoint: str
    """Checkpoint folder, or a run (its folder, or its name below `runs`), which resolves to its best checkpoint."""

    inputs: Annotated[tuple[str, ...], Field(min_length=1)]
    """Audio files, folders to search for audio, or glob patterns."""

    output: str = "separated"
    """Folder for the stems."""

    stems: tuple[str, ...] = ()
    """Targets to write; default: all targets of the separator."""

    residual: bool | None = None
    """Write the input minus the chosen targets; default: if one target is chosen."""

    filename_template: str = "{track}/{stem}.{ext}"
    """Path of a stem below `output`; `.{ext}` may be omitted."""

    format: Literal["wav", "flac", "mp3"] = "wav"
    """File format; mp3 has the best variable bit rate (V0, about 250 kbit/s in stereo)."""

    sample_format: Literal["float", "pcm24", "pcm16"] | None = None
    """Sample format; default: float in wav, pcm24 in flac. Only float can store peaks above full scale."""

    clipping: Literal["rescale", "clip", "error"] = "rescale"
    """Peaks above full scale in formats other than float: scale all stems of the track down, clip, or fail."""

    json: bool = False
    """Print one JSON document on stdout with the stems, duration and gain of each file, or why it failed."""

    separation: SeparationConfig = field(default_factory=SeparationConfig)

    @property
    def stores_peaks(self) -> bool:
        """Whether the files can store samples above full scale."""
        return self.format == "wav" and self.sample_format in (None, "float")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Configuration of `cyclesep export`."""

    checkpoint: str
    """Checkpoint folder, or a run (its folder, or its name below `runs`), which resolves to its best checkpoint."""

    output: str
    """File to write: .onnx for ONNX Runtime and others, .pt2 for torch.export; FILE.json describes how to use it."""

    segment_seconds: PositiveFloat = SeparationConfig.segment_seconds
    """Length of a segment, the network's input; fixed in the file."""

    context_seconds: NonNegativeFloat = SeparationConfig.context_seconds
    """What the application should discard at each end of a segment's output."""

    overlap_seconds: NonNegativeFloat = SeparationConfig.overlap_seconds
    """Length of the crossfade between consecutive segments in the application."""
