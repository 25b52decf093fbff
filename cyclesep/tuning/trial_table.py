"""The table of trials, a row each: sampled settings, outcome, metrics, cost and origin; stored as parquet."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet
from ray import tune

from cyclesep.tuning.space import Parameter, Space
from cyclesep.tuning.trial import FINALIST, SEED, TrialConfig

Outcome = Literal["completed", "stopped early", "diverged", "failed"]

# Metrics and origin that a trial reports at its end; also names of columns.
_METRICS = ("sdr", "si_sdr", "si_sdri", "sir", "seconds", "parameters")
_ORIGIN = ("commit", "version", "hardware", "manifest_digest")


def trial_label(trial_id: str) -> str:
    """Return the label of a trial in tables: its number (t07), or the whole ID if Optuna assigned one without."""
    return f"t{int(trial_id.rpartition('_')[2]):02d}" if "_" in trial_id else trial_id


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial of a search, or one training run of a finalist."""

    phase: str
    """`search` or `finals`."""
    trial: str
    """ID of the trial."""
    run: str
    """Name of its run folder."""
    values: Mapping[str, Any]
    """Sampled settings by dotted name, as plain values (see `Parameter.to_plain`)."""
    outcome: Outcome
    reason: str = ""
    """Why it diverged or failed."""
    finalist: int | None = None
    """In the finals: index of the finalist."""
    seed: int = 0
    step: int = 0
    """Last step that was reported."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """`sdr`, `si_sdr`, `si_sdri`, `sir` in dB at the last step; `seconds` of training; `parameters`."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """Commit, version, hardware and digest of the shards."""
    wall_seconds: float = 0.0
    """Duration since the trial was last started."""
    curve: tuple[tuple[int, float], ...] = ()
    """Step and SDR in dB of each validation."""

    @property
    def sdr(self) -> float:
        """SDR in dB at the last step; NaN if there was no validation."""
        return self.metrics.get("sdr", math.nan)

    @property
    def label(self) -> str:
        """Label of the trial in tables."""
        return trial_label(self.trial)

    @property
    def is_ranked(self) -> bool:
        """Whether the trial ended normally, with a finite SDR."""
        return self.outcome in ("completed", "stopped early") and math.isfinite(self.sdr)


def rank_trials(rows: Sequence[TrialRow], objective: str = "sdr") -> list[TrialRow]:
    """Return the ranked rows, best first: those with the most steps first, by objective among equal steps."""
    ranked = [row for row in rows if row.is_ranked]
    return sorted(ranked, key=lambda row: (row.step, row.metrics.get(objective, -math.inf)), reverse=True)


def ranked_first(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return all rows: the ranked ones, best first, then the others."""
    return [*rank_trials(rows), *(row for row in rows if not row.is_ranked)]


def pareto_front(rows: Sequence[TrialRow], signs: Mapping[str, int]) -> list[TrialRow]:
    """Return the completed rows that no other row dominates; `signs` are 1 to maximize and -1 to minimize."""
    completed = [row for row in rows if row.outcome == "completed" and set(signs) <= set(row.metrics)]

    def dominates(one: TrialRow, other: TrialRow) -> bool:
        gains = [sign * (one.metrics[name] - other.metrics[name]) for name, sign in signs.items()]
        return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)

    return [row for row in completed if not any(dominates(other, row) for other in completed)]


def trial_row(result: tune.Result, *, phase: str, trial_config: TrialConfig, steps: int) -> TrialRow:
    """Return the row of a trial from its result in Tune."""
    metrics, sample = result.metrics or {}, result.config or {}
    reported = {name: value for name, value in metrics.items() if value is not None}
    last = {**_last_validation(result), **reported}
    outcome, reason = _outcome(result, last, steps)
    finalist = sample.get(FINALIST)
    space = trial_config.space
    values = trial_config.finalists[finalist] if finalist is not None else space.changes(sample)
    parameters = {parameter.name: parameter for parameter in space.parameters}
    row_metrics = {name: float(last[name]) for name in _METRICS if _is_finite_number(last.get(name))}
    if "seconds" not in last and "training_seconds" in last:
        row_metrics["seconds"] = float(last["training_seconds"])
    return TrialRow(
        phase=phase,
        trial=str(metrics.get("trial_id") or Path(result.path).name),
        run=str(last.get("run", "")),
        values={
            name: parameters[name].to_plain(value) if name in parameters else value for name, value in values.items()
        },
        outcome=outcome,
        reason=reason,
        finalist=finalist,
        seed=int(sample.get(SEED, trial_config.train["seed"])),
        step=int(last.get("step", 0)),
        metrics=row_metrics,
        origin={name: str(last.get(name, "")) for name in _ORIGIN},
        wall_seconds=float(metrics.get("time_total_s", 0.0)),
        curve=_curve(result),
    )


def write_rows(rows: Sequence[TrialRow], space: Space, path: Path, **constants: str) -> None:
    """Write rows as parquet; `constants` become columns with the same value in all rows."""
    schema = _schema(rows, space, constants)
    plain = [_to_plain(row, schema) | constants for row in rows]
    pyarrow.parquet.write_table(pa.Table.from_pylist(plain, schema=schema), path, compression="zstd")


def read_rows(path: Path, space: Space) -> list[TrialRow]:
    """Read the rows that `write_rows` wrote for the same space."""
    return [_from_plain(plain, space) for plain in pyarrow.parquet.read_table(path).to_pylist()]


def _from_plain(plain: Mapping[str, Any], space: Space) -> TrialRow:
    changed = json.loads(plain["changed"])
    own = ("phase", "trial", "run", "outcome", "reason", "finalist", "seed", "step", "wall_seconds")
    return TrialRow(
        **{name: plain[name] for name in own},
        values={
            each.name: _from_cell(each, plain[f"config/{each.name}"])
            for each in space.parameters
            if each.name in changed
        },
        metrics={name: plain[name] for name in _METRICS if plain[name] is not None},
        origin={name: plain[name] for name in _ORIGIN if plain[name] is not None},
        curve=tuple(zip(plain["curve_steps"], plain["curve_sdr"], strict=True)),
    )


def _schema(rows: Sequence[TrialRow], space: Space, constants: Mapping[str, str]) -> pa.Schema:
    return pa.schema(
        [
            ("phase", pa.string()),
            ("trial", pa.string()),
            ("run", pa.string()),
            ("outcome", pa.string()),
            ("reason", pa.string()),
            ("finalist", pa.int64()),
            ("seed", pa.int64()),
            ("step", pa.int64()),
            *((name, pa.float64()) for name in _METRICS),
            ("wall_seconds", pa.float64()),
            ("curve_steps", pa.list_(pa.int64())),
            ("curve_sdr", pa.list_(pa.float64())),
            # JSON list of the settings that differ from the default.
            ("changed", pa.string()),
            *((f"config/{each.name}", _column_type(rows, each)) for each in space.parameters),
            *((name, pa.string()) for name in (*_ORIGIN, *constants)),
        ]
    )


def _column_type(rows: Sequence[TrialRow], parameter: Parameter) -> pa.DataType:
    """Return float for numeric values, string for all others."""
    values = [row.values[parameter.name] for row in rows if parameter.name in row.values]
    return pa.float64() if values and all(_is_finite_number(value) for value in values) else pa.string()


def _to_cell(kind: pa.DataType, value: Any) -> Any:
    return value if kind == pa.float64() or isinstance(value, str) else json.dumps(value)


def _from_cell(parameter: Parameter, cell: Any) -> Any:
    """Return the sampled value of a cell: one of the choices, or a number of the parameter's type."""
    if parameter.kind != "choice":
        return parameter.from_plain(cell)
    choices = [parameter.to_plain(value) for value in parameter.values]
    return next((choice for choice in choices if cell in (choice, json.dumps(choice))), cell)


def _to_plain(row: TrialRow, schema: pa.Schema) -> dict[str, Any]:
    own = ("phase", "trial", "run", "outcome", "reason", "finalist", "seed", "step", "wall_seconds")
    return {
        **{name: getattr(row, name) for name in own},
        **{name: row.metrics.get(name) for name in _METRICS},
        "curve_steps": [step for step, _ in row.curve],
        "curve_sdr": [sdr for _, sdr in row.curve],
        "changed": json.dumps(sorted(row.values)),
        **{
            f"config/{name}": _to_cell(schema.field(f"config/{name}").type, value) for name, value in row.values.items()
        },
        **row.origin,
    }


def _outcome(result: tune.Result, last: Mapping[str, Any], steps: int) -> tuple[Outcome, str]:
    """Return the outcome of a trial and the reason for it."""
    if result.error is not None:
        lines = [line.strip() for line in str(result.error).strip().splitlines() if line.strip()]
        return "failed", (lines[-1] if lines else type(result.error).__name__)[:300]
    if last.get("outcome") in ("diverged", "failed"):
        return cast(Outcome, last["outcome"]), str(last.get("reason", ""))
    return ("completed" if last.get("step", 0) >= steps else "stopped early"), ""


def _last_validation(result: tune.Result) -> dict[str, Any]:
    """Return the metrics of the last report with an SDR; the final report of a failed trial has none."""
    frame = result.metrics_dataframe
    if frame is None or frame.empty or "sdr" not in frame:
        return {}
    validated = frame[frame["sdr"].notna()]
    if validated.empty:
        return {}
    last = validated.iloc[-1]
    names = [name for name in (*_METRICS, "training_seconds") if name in validated]
    return {name: last[name] for name in names if _is_finite_number(last[name])}


def _curve(result: tune.Result) -> tuple[tuple[int, float], ...]:
    frame = result.metrics_dataframe
    if frame is None or frame.empty or "sdr" not in frame:
        return ()
    validated = frame[frame["sdr"].notna()].drop_duplicates("step", keep="last").sort_values("step")
    return tuple((int(step), float(sdr)) for step, sdr in zip(validated["step"], validated["sdr"], strict=True))


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
