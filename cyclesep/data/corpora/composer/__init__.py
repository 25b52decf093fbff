"""Music that the program composes itself: four stems a song, deterministic by seed, split and number.

track          SyntheticConfig, SyntheticTrack, synthetic_tracks: what a user asks for
writers        the same tracks as MUSDB18-HQ folders and .stem.mp4 files
piano          solo piano beside clips of other instruments, for unpaired training
mastering      levels, limiter, 16-bit stems that add up to the mixture
vocals, drums, bass, harmony                 one stem each
voice, melody, instruments, sampler, oscillators, effects, signals      what they play on
composition, styles, names                   the song on paper
"""

from cyclesep.data.corpora.composer.piano import PianoDomainConfig, write_piano_domain
from cyclesep.data.corpora.composer.track import PRESETS, SyntheticTrack, synthetic_tracks
from cyclesep.data.corpora.composer.writers import write_musdb_hq, write_stem_mp4
from cyclesep.data.corpora.config import SyntheticConfig

__all__ = [
    "PRESETS",
    "PianoDomainConfig",
    "SyntheticConfig",
    "SyntheticTrack",
    "synthetic_tracks",
    "write_musdb_hq",
    "write_piano_domain",
    "write_stem_mp4",
]
