"""Separation and scoring of a whole test split on a Ray cluster; what is finished stays finished."""

from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.outcomes import TrackOutcome
from cyclesep.evaluation.run import EvaluationReport, evaluate

__all__ = ["EvaluateConfig", "EvaluationReport", "TrackOutcome", "evaluate"]
