"""Discriminators, networks that distinguish real recordings from estimates.

Every discriminator maps `(batch, channels, time)` of any length to one list of feature maps per sub-network. The last
map holds the logits, one per patch of the input.
"""
