"""Crops: which windows of which tracks training draws, and how they are read, augmented and batched."""
