"""Crops: which windows of which tracks training draws, and how they are read, augmented and batched."""

from cyclesep.crops.config import CropConfig
from cyclesep.crops.stream import Batch, CropStream, crop_loader, validation_crops

__all__ = ["Batch", "CropConfig", "CropStream", "crop_loader", "validation_crops"]
