"""Discriminators: networks that tell recordings from estimates.

Every discriminator maps `(batch, channels, time)` to one list of feature maps per sub-network, the logits last; logits
are patches, never one number for a whole crop, so that any length will do.
"""
