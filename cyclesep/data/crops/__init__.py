"""Sampling, reading, augmentation and batching of crops (short excerpts of tracks) for training."""
