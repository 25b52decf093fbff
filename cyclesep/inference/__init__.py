"""Separation of arrays and audio files, and export; outputs keep the input's rate, channels, length and level.

Stems add up to the input: the input minus the chosen targets is the accompaniment (of one target) or the residual.
"""
