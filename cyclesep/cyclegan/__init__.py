"""The cycle-GAN: one optimisation step of any recipe, its losses' weights, and what keeps it stable."""

from cyclesep.cyclegan.config import CycleGANConfig
from cyclesep.cyclegan.model import CycleGAN

__all__ = ["CycleGAN", "CycleGANConfig"]
