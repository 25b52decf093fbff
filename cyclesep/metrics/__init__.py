"""Scores of separated music: BSS Eval v4 and v3 equal to museval's, SI-SDR, uSDR, tables, oracles."""

from cyclesep.metrics.bss_eval import Mode, evaluate
from cyclesep.metrics.museval_format import eval_mus_track, to_museval_json, to_track_store, write_museval_json
from cyclesep.metrics.oracles import OracleMask, mixture_as_estimate, separate_by_oracle, separate_by_rules
from cyclesep.metrics.score_table import ScoreTable
from cyclesep.metrics.si_sdr import si_sdr, usdr
from cyclesep.metrics.track_score import FRAME_METRICS, TRACK_METRICS, TargetScore, TrackScore, score_track

__all__ = [
    "FRAME_METRICS",
    "TRACK_METRICS",
    "Mode",
    "OracleMask",
    "ScoreTable",
    "TargetScore",
    "TrackScore",
    "eval_mus_track",
    "evaluate",
    "mixture_as_estimate",
    "score_track",
    "separate_by_oracle",
    "separate_by_rules",
    "si_sdr",
    "to_museval_json",
    "to_track_store",
    "usdr",
    "write_museval_json",
]
