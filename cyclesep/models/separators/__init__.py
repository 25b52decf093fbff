"""Separators: networks that take a mixture apart, waveform in and waveform out.

Every separator maps `(batch, channels, time)` of any length to estimates `(batch, targets, channels, time)`.
"""
