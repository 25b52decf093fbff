"""Configuration of the crops that training draws from shards."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

Fraction = Annotated[float, Ge(0.0), Le(1.0)]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of the stems of a crop; a value of 0 disables its augmentation."""

    gain_db: NonNegativeFloat = 6.0
    """Maximum gain or attenuation of each stem of each crop, in dB."""

    p_polarity: Fraction = 0.5
    """Probability that the polarity of a stem is inverted."""

    p_channel_swap: Fraction = 0.5
    """Probability that the channels of a stem are swapped; without effect on a mono corpus."""

    p_remix: Fraction = 0.5
    """Probability that the stems of a group of crops are shuffled across songs; only for paired crops."""

    remix_group_size: PositiveInt = 4
    """Number of crops in a remix group; batch_size must be a multiple of it."""

    p_speed: Fraction = 0.0
    """Probability that the speed of a crop is changed by resampling, which changes pitch and tempo together."""

    speed_percent: Annotated[int, Ge(0), Le(40)] = 10
    """Maximum change of speed, up or down, in whole percent."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Sampling, augmentation and batching of crops from shards."""

    crop_seconds: PositiveFloat = 2.0
    """Length of a crop, in seconds."""

    batch_size: PositiveInt = 16
    """Number of crops per step, divided equally among the workers."""

    pairing: Literal["paired", "unpaired", "semi_supervised", "on_the_fly"] = "paired"
    """paired: targets are aligned with the mixtures; unpaired: they come from other tracks; semi_supervised: batches
    alternate between the two; on_the_fly: aligned with mixtures of target recordings and accompaniment recordings."""

    paired_fraction: Annotated[float, Gt(0.0), Lt(1.0)] = 0.5
    """For semi_supervised: fraction of the steps with a paired batch; the other batches are unpaired."""

    num_paired_tracks: PositiveInt | None = None
    """For paired and semi_supervised: number of tracks with aligned stems, selected by a hash of their names; none:
    all."""

    mixture: Literal["sum", "recorded"] = "sum"
    """Paired mixtures: the sum of all stems, or the recorded mixture (the difference is then one more stem)."""

    p_active: Fraction = 0.0
    """Probability that a crop is required to contain a target, by the loudness per second in the manifest."""

    active_threshold_db: float = -50.0
    """Minimum RMS level of a second that contains a stem, in dB re full scale."""

    mixture_track_fraction: Fraction = 0.5
    """For unpaired: fraction of the tracks with mixture and target that is used for mixtures; the others are used for
    targets."""

    max_level_offset_db: NonNegativeFloat = 6.0
    """For on_the_fly: maximum level difference between target and accompaniment, in dB."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the stems of a crop."""
