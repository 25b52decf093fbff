"""What training draws from shards: the settings of crops."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Gt, Lt
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from cyclesep.data.crops.augment import AugmentConfig, Share


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """What a batch of crops holds and how the crops are drawn."""

    crop_seconds: PositiveFloat = 2.0
    """Length of a crop."""

    batch_size: PositiveInt = 16
    """Crops in one step over all workers; each worker takes an equal share."""

    pairing: Literal["paired", "unpaired", "semi_supervised", "on_the_fly"] = "paired"
    """Whether targets are aligned with the mixtures, come from other tracks than the mixtures do, or take turns;
    composed: aligned with mixtures made of recordings of the target alone and of accompaniment alone."""

    paired_fraction: Annotated[float, Gt(0.0), Lt(1.0)] = 0.5
    """Semi-supervised: share of the steps whose batch is paired; the other batches are unpaired."""

    num_paired_tracks: PositiveInt | None = None
    """Paired and semi-supervised: how many tracks give aligned stems, chosen by their names; none: all that can."""

    mixture: Literal["sum", "recorded"] = "sum"
    """Paired mixtures: the sum of all stems, or as recorded (what the stems leave over is then one more stem)."""

    p_active: Share = 0.0
    """Share of crops that must contain the target, by the loudness per second in the manifest."""

    active_threshold_db: float = -50.0
    """A second contains a stem that is at least this loud (dB of full scale, RMS)."""

    mixture_track_fraction: Share = 0.5
    """Unpaired: share of the tracks that could give both which give mixtures; the others give targets."""

    max_level_offset_db: NonNegativeFloat = 6.0
    """Where mixtures are composed: a target is up to this much louder or softer than the accompaniment."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How the stems of a crop are varied."""
