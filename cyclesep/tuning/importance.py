"""Importance of each parameter: Optuna's functional ANOVA over a random forest."""

from collections.abc import Mapping, Sequence

import optuna

from cyclesep.tuning.space import Parameter, Space
from cyclesep.tuning.trial_table import TrialRow

# Fewer trials are not meaningful.
MIN_TRIALS = 4


def common_step(rows: Sequence[TrialRow]) -> int | None:
    """Return the last step at which all ranked trials were validated; None with too few trials."""
    curves = [dict(row.curve) for row in rows if row.is_ranked and row.curve]
    shared = set.intersection(*(set(curve) for curve in curves)) if len(curves) >= MIN_TRIALS else set()
    return max(shared, default=None)


def parameter_importance(rows: Sequence[TrialRow], space: Space) -> dict[str, float]:
    """Return the fraction of the SDR's variance that each parameter explains, largest first; the sum is 1.

    Trials are compared at the last step that all of them reached, so that trials that were stopped early count. Empty
    if too few trials can be compared (F. Hutter, H. Hoos, K. Leyton-Brown, "An efficient approach for
    assessing hyperparameter importance", ICML 2014).
    """
    step = common_step(rows)
    if step is None:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions = {parameter.name: _distribution(parameter) for parameter in space.parameters}
    for row in rows:
        sdr = dict(row.curve).get(step)
        if row.is_ranked and sdr is not None and set(distributions) <= set(row.values):
            parameters = {name: row.values[name] for name in distributions}
            study.add_trial(optuna.create_trial(params=parameters, distributions=distributions, value=sdr))
    try:
        fractions: Mapping[str, float] = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )
    except (RuntimeError, ValueError):
        # Too few trials, or all of them have the same values.
        return {}
    return dict(sorted(fractions.items(), key=lambda item: item[1], reverse=True))


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    low, high = parameter.values[0], parameter.values[-1]
    if parameter.kind == "choice":
        return optuna.distributions.CategoricalDistribution([parameter.to_plain(value) for value in parameter.values])
    if parameter.kind == "randint":
        return optuna.distributions.IntDistribution(low, high)
    return optuna.distributions.FloatDistribution(float(low), float(high), log=parameter.kind == "loguniform")
