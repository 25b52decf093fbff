"""Configuration of music corpora."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field

from cyclesep.data.corpora.composer.config import SyntheticConfig


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Source of the music and its division into train, valid and test."""

    kind: Literal["musdb18", "stems", "unpaired", "synthetic"] = "synthetic"
    """musdb18: MUSDB18 or MUSDB18-HQ; stems: a folder of track folders; unpaired: two folders of unrelated recordings;
    synthetic: songs composed by cyclesep."""
    path: str = ""
    """For musdb18: the root folder with train/ and test/, one .stem.mp4, or a folder of .stem.mp4 files. For stems: the
    folder with the track folders, or with train/, valid/ and test/ that contain track folders."""
    default_split: Literal["train", "valid", "test"] = "test"
    """For musdb18: the split of a single .stem.mp4 and of .stem.mp4 files outside train/ and test/."""
    target: Annotated[str, Field(pattern=r"^[^/\x00]*[^/.\x00][^/\x00]*$")] = "vocals"
    """For unpaired: the stem name of recordings of the target."""
    target_path: str = ""
    """For unpaired: the folder with recordings of the target alone, searched recursively."""
    background_path: str = ""
    """For unpaired: the folder with all other recordings, searched recursively."""
    background_type: Literal["mixtures", "accompaniment"] = "mixtures"
    """For unpaired: mixtures if the other recordings contain the target among other sounds, accompaniment if not."""
    valid_fraction: Annotated[float, Ge(0.0), Le(1.0)] = 0.1
    """For stems without split folders and for unpaired: fraction of validation tracks, selected by a hash of their
    names."""
    test_fraction: Annotated[float, Ge(0.0), Le(1.0)] = 0.1
    """For stems without split folders and for unpaired: fraction of test tracks, selected by a hash of their names."""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    """For synthetic: number, length and seed of the songs."""
