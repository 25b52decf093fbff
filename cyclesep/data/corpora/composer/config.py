"""Configuration of the synthetic songs."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge
from pydantic import NonNegativeInt


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Configuration of the synthetic songs."""

    seed: NonNegativeInt = 0
    """Random seed of the songs."""
    num_train: NonNegativeInt = 8
    """Number of training tracks; a larger corpus starts with the same songs."""
    num_valid: NonNegativeInt = 2
    """Number of validation tracks."""
    num_test: NonNegativeInt = 4
    """Number of test tracks."""
    seconds: Annotated[float, Ge(2.0)] = 12.0
    """Length of each track; stems have no long rests in tracks shorter than about four bars."""
