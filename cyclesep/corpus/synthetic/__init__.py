"""Music that the program composes itself."""

from cyclesep.corpus.synthetic.track import PRESETS, SyntheticConfig, SyntheticTrack, synthetic_tracks

__all__ = ["PRESETS", "SyntheticConfig", "SyntheticTrack", "synthetic_tracks"]
