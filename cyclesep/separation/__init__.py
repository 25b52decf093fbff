"""Separation of audio in memory and of files: same rate, channels, length and gain out as in.

What the chosen targets leave of the input is the accompaniment (of one target) or the residual (of several): the input
minus the estimates, at the input's own rate, so that the stems always add up to the input.
"""

from cyclesep.separation.config import SeparateConfig
from cyclesep.separation.inputs import find_inputs
from cyclesep.separation.outcome import FailedFile, SeparatedFile, SeparationReport
from cyclesep.separation.pieces import residual_name, separate_waveform
from cyclesep.separation.run import separate_file, separate_paths
from cyclesep.windowing import SeparationConfig

__all__ = [
    "FailedFile",
    "SeparateConfig",
    "SeparatedFile",
    "SeparationConfig",
    "SeparationReport",
    "find_inputs",
    "residual_name",
    "separate_file",
    "separate_paths",
    "separate_waveform",
]
