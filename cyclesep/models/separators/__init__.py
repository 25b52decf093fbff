"""Separators, networks that map the waveform of a mixture to the waveforms of its targets.

Every separator maps `(batch, channels, time)` of any length to estimates `(batch, targets, channels, time)`.
"""
