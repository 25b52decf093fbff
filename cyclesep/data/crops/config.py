"""Configuration of the crops that training draws from shards."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

Share = Annotated[float, Ge(0.0), Le(1.0)]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of the stems of a crop; with every value at 0 there is none."""

    gain_db: NonNegativeFloat = 6.0
    """Maximum gain or attenuation of each stem of each crop, in dB."""

    p_polarity: Share = 0.5
    """Probability that the polarity of a stem is inverted."""

    p_channel_swap: Share = 0.5
    """Probability that the channels of a stem are swapped; without effect on a mono corpus."""

    p_remix: Share = 0.5
    """Probability that the stems of a group of crops are shuffled across songs; only for crops with stems (paired)."""

    remix_group_size: PositiveInt = 4
    """Crops in such a group; batch_size must be a multiple of it."""

    p_pitch_tempo: Share = 0.0
    """Probability that pitch and tempo of a crop are changed; each change costs about a hundred times a read."""

    pitch_semitones: Annotated[float, Ge(0.0), Le(6.0)] = 2.0
    """Maximum pitch shift, up or down."""

    tempo_percent: Annotated[int, Ge(0), Le(40)] = 12
    """Maximum tempo change, up or down, in whole percent."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How crops are drawn from shards and batched."""

    crop_seconds: PositiveFloat = 2.0
    """Length of a crop."""

    batch_size: PositiveInt = 16
    """Crops in one step, divided equally among the workers."""

    pairing: Literal["paired", "unpaired", "semi_supervised", "on_the_fly"] = "paired"
    """paired: targets are aligned with the mixtures; unpaired: they come from other tracks; semi_supervised: batches
    alternate between the two; on_the_fly: aligned with mixtures of target recordings and accompaniment recordings."""

    paired_fraction: Annotated[float, Gt(0.0), Lt(1.0)] = 0.5
    """For semi_supervised: fraction of the steps with a paired batch; the other batches are unpaired."""

    num_paired_tracks: PositiveInt | None = None
    """For paired and semi_supervised: number of tracks with aligned stems, selected by their names; none: all."""

    mixture: Literal["sum", "recorded"] = "sum"
    """Paired mixtures: the sum of all stems, or the recorded mixture (the difference is then one more stem)."""

    p_active: Share = 0.0
    """Probability that a crop must contain the target, by the loudness per second in the manifest."""

    active_threshold_db: float = -50.0
    """RMS level above which a second counts as containing a stem, in dB re full scale."""

    mixture_track_fraction: Share = 0.5
    """For unpaired: of the tracks with mixture and target, the fraction used for mixtures; the rest is for targets."""

    max_level_offset_db: NonNegativeFloat = 6.0
    """For on_the_fly: maximum level difference between target and accompaniment, in dB."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Augmentation of the stems of a crop."""
