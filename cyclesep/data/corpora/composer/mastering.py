"""Mastering of the stems: levels as in MUSDB18, a common limiter, and 16-bit samples that sum to the mixture."""

from collections.abc import Mapping
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter1d, uniform_filter1d

from cyclesep.audio.stem_names import MIXTURE
from cyclesep.data.corpora.composer.effects import block_curve, block_peaks, set_level
from cyclesep.data.corpora.composer.signals import Stereo, db_to_amplitude

# Mean active level of each stem in dB of full scale, and its standard deviation over songs.
STEM_LEVELS_DB: Mapping[str, float] = {"vocals": -19.0, "drums": -17.5, "bass": -17.8, "other": -17.5}
LEVEL_SPREAD_DB = 2.0
CEILING = 0.89
LIMITER_BLOCK = 64
LIMITER_REACH = 48
FULL_SCALE = 32_767


def balance(stems: Mapping[str, Stereo], rng: np.random.Generator) -> dict[str, Stereo]:
    """Scale each stem to its mean level plus a random offset."""
    balanced = {}
    for name, level_db in STEM_LEVELS_DB.items():
        offset_db = float(np.clip(rng.normal(0.0, LEVEL_SPREAD_DB), -2.0 * LEVEL_SPREAD_DB, 2.0 * LEVEL_SPREAD_DB))
        balanced[name] = set_level(stems[name], level_db + offset_db)
    return balanced


def limit(stems: Mapping[str, Stereo], rng: np.random.Generator) -> dict[str, Stereo]:
    """Apply a random gain, and limit the peaks of the mixture and of each stem to the ceiling.

    All stems have the same gain curve, so they sum to the limited mixture.
    """
    mixture = reduce(np.add, stems.values())
    peaks = np.max([block_peaks(audio, LIMITER_BLOCK) for audio in (mixture, *stems.values())], axis=0)
    drive = db_to_amplitude(rng.uniform(0.0, 5.0))
    allowed = np.minimum(1.0, CEILING / (drive * peaks + 1e-9))
    reach = 2 * LIMITER_REACH + 1
    gain = drive * uniform_filter1d(minimum_filter1d(allowed, reach), reach)
    curve = block_curve(gain, LIMITER_BLOCK, mixture.shape[-1])
    return {name: audio * curve for name, audio in stems.items()}


def quantise(stems: Mapping[str, Stereo]) -> dict[str, NDArray[np.int16]]:
    """Return 16-bit stems, with their exact sum "mixture" first; no sample is clipped."""
    rounded = {name: np.rint(audio * np.float32(FULL_SCALE)).astype(np.int32) for name, audio in stems.items()}
    mixture = reduce(np.add, rounded.values())
    peak = max(int(np.abs(samples).max()) for samples in (mixture, *rounded.values()))
    assert peak <= FULL_SCALE, f"peak of {peak} after the limiter"
    return {MIXTURE: mixture.astype(np.int16)} | {name: samples.astype(np.int16) for name, samples in rounded.items()}
