"""Scores of separated music: BSS Eval v4 and v3 equal to museval's, SI-SDR, uSDR, tables, oracles."""

from cyclesep.scoring.bss_eval import evaluate
from cyclesep.scoring.museval_format import eval_mus_track, to_museval_json, to_track_store, write_museval_json
from cyclesep.scoring.simple import si_sdr, usdr
from cyclesep.scoring.table import ScoreTable, Summary, TrackValue
from cyclesep.scoring.track import TargetScore, TrackScore, score_track

__all__ = [
    "ScoreTable",
    "Summary",
    "TargetScore",
    "TrackScore",
    "TrackValue",
    "eval_mus_track",
    "evaluate",
    "score_track",
    "si_sdr",
    "to_museval_json",
    "to_track_store",
    "usdr",
    "write_museval_json",
]
