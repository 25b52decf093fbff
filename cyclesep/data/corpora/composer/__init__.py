"""Synthetic songs with four stems, deterministic by seed, split and index.

config                                       SyntheticConfig: number, length and seed of the songs
track                                        SyntheticTrack and synthetic_tracks: the tracks of a corpus
writers                                      tracks as MUSDB18-HQ folders and .stem.mp4 files
mastering                                    levels, limiter, 16-bit stems that sum to the mixture
vocals, drums, bass, harmony                 rendering of one stem each
voice, drum_kit, instruments, sampler        sound synthesis of voices and instruments
oscillators, effects, signals                signal processing
composition, melody, styles, names           composition: form, chords, melodies, styles, titles
"""
