"""Synthetic songs with four stems, deterministic by seed, split and index.

track                                        SyntheticTrack and synthetic_tracks: the tracks of a corpus
writers                                      tracks as MUSDB18-HQ folders and .stem.mp4 files
piano                                        solo piano and clips of other instruments, for unpaired training
mastering                                    levels, limiter, 16-bit stems that sum to the mixture
vocals, drums, bass, harmony                 rendering of one stem each
voice, drum_kit, instruments, sampler        sound synthesis of voices and instruments
oscillators, effects, signals                signal processing
composition, melody, styles, names           composition: form, chords, melodies, styles, titles
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
