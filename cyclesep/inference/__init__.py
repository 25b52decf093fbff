"""Separation of audio in memory and of files: same rate, channels, length and gain out as in.

What the chosen targets leave of the input is the accompaniment (of one target) or the residual (of several): the input
minus the estimates, at the input's own rate, so that the stems always add up to the input.
"""
