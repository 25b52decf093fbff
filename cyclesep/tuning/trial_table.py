"""The table of trials: one row for each, with what it drew, how it ended, what it cost and what it was made from."""

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
from cyclesep.tuning.trial import CONTENDER, SEED, Plan

Outcome = Literal["completed", "stopped early", "diverged", "failed"]

# What a trial tells of itself at its end, and where it stands in the table.
_FIGURES = ("sdr", "si_sdr", "si_sdr_gain", "sir", "seconds", "parameters")
_CARD = ("commit", "version", "hardware", "manifest_digest")


def label(trial_id: str) -> str:
    """What a trial is called in tables: its number (t07), or the whole ID where Optuna gave it one without a number."""
    return f"t{int(trial_id.rpartition('_')[2]):02d}" if "_" in trial_id else trial_id


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial of a search, or one training of a finalist."""

    phase: str
    """`search` or `finals`."""
    trial: str
    run: str
    """Its folder below the runs of its phase."""
    values: Mapping[str, Any]
    """What was tried, by dotted name; plain values (see `Parameter.to_plain`)."""
    outcome: Outcome
    reason: str = ""
    """Why it diverged or failed."""
    contender: int | None = None
    """In a final: whose settings these are, by number."""
    seed: int = 0
    step: int = 0
    """Steps done."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """`sdr`, `si_sdr`, `si_sdr_gain`, `sir` in dB at the last step; `seconds` of training; `parameters`."""
    card: Mapping[str, str] = field(default_factory=dict)
    """Commit, version, hardware and the shards' digest."""
    wall_seconds: float = 0.0
    """From the start of the trial to its end, without what was before a restart."""
    curve: tuple[tuple[int, float], ...] = ()
    """Step and SDR in dB of each validation."""

    @property
    def sdr(self) -> float:
        """At the last step, dB; NaN if nothing was validated."""
        return self.figures.get("sdr", math.nan)

    @property
    def label(self) -> str:
        """What the trial is called in tables: its number."""
        return label(self.trial)

    @property
    def is_ranked(self) -> bool:
        """Whether it has come to an end that can be compared."""
        return self.outcome in ("completed", "stopped early") and math.isfinite(self.sdr)


def rank(rows: Sequence[TrialRow], objective: str = "sdr") -> list[TrialRow]:
    """Rows that can be compared, best first: of those that went furthest the best, then those that went less far."""
    ranked = [row for row in rows if row.is_ranked]
    return sorted(ranked, key=lambda row: (row.step, row.figures.get(objective, -math.inf)), reverse=True)


def pareto_front(rows: Sequence[TrialRow], signs: Mapping[str, int]) -> list[TrialRow]:
    """Completed rows that no other one beats in all objectives; `signs` are 1 for large ones and -1 for small ones."""
    completed = [row for row in rows if row.outcome == "completed" and set(signs) <= set(row.figures)]

    def beats(one: TrialRow, other: TrialRow) -> bool:
        gains = [sign * (one.figures[name] - other.figures[name]) for name, sign in signs.items()]
        return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)

    return [row for row in completed if not any(beats(other, row) for other in completed)]


def row_of(result: tune.Result, *, phase: str, plan: Plan, steps: int) -> TrialRow:
    """The row of what Tune knows of one trial."""
    metrics, drawn = result.metrics or {}, result.config or {}
    curve = _curve(result)
    last = {**(_last_told(result) or {}), **{name: value for name, value in metrics.items() if value is not None}}
    outcome, reason = _ending(result, last, steps)
    contender = drawn.get(CONTENDER)
    values = plan.contenders[contender] if contender is not None else plan.space.changes(drawn)
    parameters = {parameter.name: parameter for parameter in plan.space.parameters}
    return TrialRow(
        phase=phase,
        trial=str(metrics.get("trial_id") or Path(result.path).name),
        run=str(last.get("run", "")),
        values={name: _plain(parameters, name, value) for name, value in values.items()},
        outcome=outcome,
        reason=reason,
        contender=contender,
        seed=int(drawn.get(SEED, plan.train["seed"])),
        step=int(last.get("step", 0)),
        figures={name: float(last[name]) for name in _FIGURES if _is_figure(last.get(name))}
        | ({} if "seconds" in last or "training_seconds" not in last else {"seconds": float(last["training_seconds"])}),
        card={name: str(last.get(name, "")) for name in _CARD},
        wall_seconds=float(metrics.get("time_total_s", 0.0)),
        curve=curve,
    )


def write_rows(rows: Sequence[TrialRow], space: Space, path: Path, **about: str) -> None:
    """Write rows as parquet; `about` becomes columns that are alike in all rows."""
    schema = _schema(rows, space, about)
    plain = [_to_plain(row, schema) | about for row in rows]
    pyarrow.parquet.write_table(pa.Table.from_pylist(plain, schema=schema), path, compression="zstd")


def read_rows(path: Path, space: Space) -> list[TrialRow]:
    """Read what `write_rows` wrote for that space."""
    return [_from_plain(plain, space) for plain in pyarrow.parquet.read_table(path).to_pylist()]


def _from_plain(plain: Mapping[str, Any], space: Space) -> TrialRow:
    changed = json.loads(plain["changed"])
    own = ("phase", "trial", "run", "outcome", "reason", "contender", "seed", "step", "wall_seconds")
    return TrialRow(
        **{name: plain[name] for name in own},
        values={
            each.name: _from_cell(each, plain[f"config/{each.name}"])
            for each in space.parameters
            if each.name in changed
        },
        figures={name: plain[name] for name in _FIGURES if plain[name] is not None},
        card={name: plain[name] for name in _CARD if plain[name] is not None},
        curve=tuple(zip(plain["curve_steps"], plain["curve_sdr"], strict=True)),
    )


def _schema(rows: Sequence[TrialRow], space: Space, about: Mapping[str, str]) -> pa.Schema:
    return pa.schema(
        [
            ("phase", pa.string()),
            ("trial", pa.string()),
            ("run", pa.string()),
            ("outcome", pa.string()),
            ("reason", pa.string()),
            ("contender", pa.int64()),
            ("seed", pa.int64()),
            ("step", pa.int64()),
            *((name, pa.float64()) for name in _FIGURES),
            ("wall_seconds", pa.float64()),
            ("curve_steps", pa.list_(pa.int64())),
            ("curve_sdr", pa.list_(pa.float64())),
            # Names of the settings that differ from the default.
            ("changed", pa.string()),
            *((f"config/{each.name}", _type(rows, each)) for each in space.parameters),
            *((name, pa.string()) for name in (*_CARD, *about)),
        ]
    )


def _type(rows: Sequence[TrialRow], parameter: Parameter) -> pa.DataType:
    """Numbers as numbers, anything else as text."""
    values = [row.values[parameter.name] for row in rows if parameter.name in row.values]
    return pa.float64() if values and all(_is_figure(value) for value in values) else pa.string()


def _to_cell(kind: pa.DataType, value: Any) -> Any:
    return value if kind == pa.float64() or isinstance(value, str) else json.dumps(value)


def _from_cell(parameter: Parameter, cell: Any) -> Any:
    """What was drawn: a choice as it stands in the space, whole numbers whole."""
    if parameter.kind != "choice":
        return parameter.from_plain(cell)
    choices = [parameter.to_plain(value) for value in parameter.values]
    return next((choice for choice in choices if cell in (choice, json.dumps(choice))), cell)


def _to_plain(row: TrialRow, schema: pa.Schema) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in ("phase", "trial", "run", "outcome", "reason", "contender", "seed")},
        "step": row.step,
        **{name: row.figures.get(name) for name in _FIGURES},
        "wall_seconds": row.wall_seconds,
        "curve_steps": [step for step, _ in row.curve],
        "curve_sdr": [sdr for _, sdr in row.curve],
        "changed": json.dumps(sorted(row.values)),
        **{
            f"config/{name}": _to_cell(schema.field(f"config/{name}").type, value) for name, value in row.values.items()
        },
        **row.card,
    }


def _plain(parameters: Mapping[str, Parameter], name: str, value: Any) -> Any:
    return parameters[name].to_plain(value) if name in parameters else value


def _ending(result: tune.Result, last: Mapping[str, Any], steps: int) -> tuple[Outcome, str]:
    if result.error is not None:
        told = [line.strip() for line in str(result.error).strip().splitlines() if line.strip()]
        return "failed", (told[-1] if told else type(result.error).__name__)[:300]
    if last.get("outcome") in ("diverged", "failed"):
        return cast(Outcome, last["outcome"]), str(last.get("reason", ""))
    return ("completed" if last.get("step", 0) >= steps else "stopped early"), ""


def _last_told(result: tune.Result) -> dict[str, Any] | None:
    """The last validation that a trial told before the report of its end, which may tell none."""
    frame = result.metrics_dataframe
    if frame is None or frame.empty or "sdr" not in frame:
        return None
    told = frame[frame["sdr"].notna()]
    names = [name for name in (*_FIGURES, "training_seconds") if name in told]
    return {} if told.empty else {name: told.iloc[-1][name] for name in names if _is_figure(told.iloc[-1][name])}


def _curve(result: tune.Result) -> tuple[tuple[int, float], ...]:
    frame = result.metrics_dataframe
    if frame is None or frame.empty or "sdr" not in frame:
        return ()
    told = frame[frame["sdr"].notna()].drop_duplicates("step", keep="last").sort_values("step")
    return tuple((int(step), float(sdr)) for step, sdr in zip(told["step"], told["sdr"], strict=True))


def _is_figure(value: Any) -> bool:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
