"""Comparison of evaluations, with a paired test over tracks for each difference.

A difference is significant if three conditions hold: Wilcoxon's signed-rank test over tracks (Biometrics Bulletin 1,
1945), with p-values corrected for the number of questions (S. Holm, Scandinavian Journal of Statistics 6, 1979); the
interval of the median difference excludes zero (percentile bootstrap over tracks, B. Efron, Annals of Statistics 7,
1979); and the difference is larger than that between trainings with different random seeds, which a test over tracks
cannot detect.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from cyclesep.errors import ConfigError, ScoringError, StorageError
from cyclesep.evaluation.config import CompareConfig
from cyclesep.evaluation.results import EVALUATED_KINDS, SUMMARY, Results
from cyclesep.evaluation.track_scores import TrackRow, TrackScores
from cyclesep.storage.path import StoragePath

Significance = Literal["better", "worse", "within noise"]

SIGNIFICANT = 0.05
# With fewer tracks p stays above 0.05 even if all tracks agree.
MIN_TRACKS = 6
# Bootstrap samples that are in memory at a time, in values.
_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ComparedSystem:
    """One system of one evaluation."""

    label: str
    """A for the first one, which all others are compared with."""
    run: str
    system: str
    frame_seconds: float | None
    version: str
    rows: tuple[TrackRow, ...]

    def values(self, key: tuple[str, str, str], metric: str) -> dict[str, float]:
        """Return the finite values of the rows with this comparison key, by track."""
        values = {row.track_id: row.values.get(metric, np.nan) for row in self.rows if row.comparison_key == key}
        return {track: value for track, value in values.items() if np.isfinite(value)}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of one target of a system minus that of the first system, over the tracks that both have."""

    label: str
    split: str
    scoring_group: str
    target: str
    metric: str
    tracks: int
    first: float
    """Median over these tracks, dB."""
    second: float
    difference: float
    """Median over tracks of second minus first, dB."""
    low: float
    """Lower end of the 95 % bootstrap interval of `difference`."""
    high: float
    p: float
    """P-value of Wilcoxon's two-sided test, before Holm's correction."""
    p_holm: float
    verdict: Significance
    reason: str
    """Why it is within noise: "equal", "few tracks" for the number of questions, "tracks vary", or below
    `min_effect_db`."""


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """All differences, and warnings about scores that are hard to compare."""

    systems: tuple[ComparedSystem, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """Return the comparison as strict JSON."""
        plain = {
            "systems": [{"label": each.label, "run": each.run, "system": each.system} for each in self.systems],
            "warnings": self.warnings,
            "differences": [asdict(difference) for difference in self.differences],
        }
        return json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def compare(config: CompareConfig) -> ComparisonResult:
    """Compare evaluations with the first one, target by target, over the tracks that both have scored.

    Raises ScoringError for a folder without an evaluation, ConfigError for a system that is not in it or if there is
    nothing to compare.
    """
    systems = tuple(_find_systems(config))
    if len(systems) < 2:
        raise ConfigError(f"runs: {config.runs[0]} has only one system; give another run to compare it with")
    return compare_systems(systems, config)


def compare_systems(systems: tuple[ComparedSystem, ...], config: CompareConfig) -> ComparisonResult:
    """Compare all systems with the first one; raises ConfigError if they share no target and track."""
    first, *others = systems
    warnings = [warning for other in others for warning in _warnings(first, other)]
    questions = [
        (other, key, metric)
        for key in dict.fromkeys(row.comparison_key for row in first.rows)
        for metric in config.metrics
        for other in others
    ]
    answerable = [(*question, values) for question in questions if (values := _paired(first, *question)).size]
    if not answerable:
        raise ConfigError("runs: no target and track in common; evaluate both on the same music")
    p_values = [_wilcoxon(values[:, 1] - values[:, 0]) for *_, values in answerable]
    differences = tuple(
        _difference(config, other, key, metric, values, p, p_holm)
        for (other, key, metric, values), p, p_holm in zip(answerable, p_values, holm(p_values), strict=True)
    )
    return ComparisonResult(systems=systems, differences=differences, warnings=tuple(warnings))


def bootstrap_interval(
    differences: NDArray[np.float64], *, bootstrap_samples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of the median of `differences` `(tracks,)`, resampled with replacement."""
    count = len(differences)
    if count < 2:
        # scipy needs two values.
        return float(differences[0]), float(differences[0])
    interval = scipy.stats.bootstrap(
        (differences,),
        np.median,
        n_resamples=bootstrap_samples,
        batch=max(1, _BLOCK_VALUES // count),
        confidence_level=confidence,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values with Holm's correction, which bounds the probability of any false positive among them."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return [float(value) for value in adjusted]


def _difference(
    config: CompareConfig,
    other: ComparedSystem,
    key: tuple[str, str, str],
    metric: str,
    values: NDArray[np.float64],
    p: float,
    p_holm: float,
) -> Difference:
    differences = values[:, 1] - values[:, 0]
    median = float(np.median(differences))
    low, high = bootstrap_interval(differences, bootstrap_samples=config.bootstrap_samples)
    reason = _noise_reason(differences, (low, high), (p, p_holm), config.min_effect_db)
    split, scoring_group, target = key
    return Difference(
        label=other.label,
        split=split,
        scoring_group=scoring_group,
        target=target,
        metric=metric,
        tracks=len(differences),
        first=float(np.median(values[:, 0])),
        second=float(np.median(values[:, 1])),
        difference=median,
        low=low,
        high=high,
        p=p,
        p_holm=p_holm,
        verdict="within noise" if reason else "better" if median > 0 else "worse",
        reason=reason,
    )


def _noise_reason(
    differences: NDArray[np.float64], interval: tuple[float, float], p_values: tuple[float, float], min_effect_db: float
) -> str:
    """Return why a difference may be noise; empty if it is significant."""
    p, p_holm = p_values
    if not differences.any():
        return "equal"
    if len(differences) < MIN_TRACKS or p < SIGNIFICANT <= p_holm:
        return "few tracks"
    if p >= SIGNIFICANT or interval[0] <= 0 <= interval[1]:
        return "tracks vary"
    return f"< {min_effect_db:g} dB" if abs(float(np.median(differences))) <= min_effect_db else ""


def _wilcoxon(differences: NDArray[np.float64]) -> float:
    if not differences.any():
        return 1.0
    return float(scipy.stats.wilcoxon(differences).pvalue)


def _paired(
    first: ComparedSystem, other: ComparedSystem, key: tuple[str, str, str], metric: str
) -> NDArray[np.float64]:
    """Return `(tracks, 2)` values of both systems, of the tracks where both have one."""
    a, b = first.values(key, metric), other.values(key, metric)
    return np.array([(a[track], b[track]) for track in a if track in b])


def _find_systems(config: CompareConfig) -> Iterator[ComparedSystem]:
    if len(config.systems) > 1 and len(config.systems) != len(config.runs) and len(config.runs) > 1:
        raise ConfigError(f"systems: {len(config.systems)} names for {len(config.runs)} runs; give one for each run")
    number = 0
    for index, run in enumerate(config.runs):
        table, summary = _read(run)
        for system in _selected_systems(config, index, table, summary):
            rows = tuple(row for row in table.scored if row.system == system)
            yield ComparedSystem(
                label=_label(number),
                run=run,
                system=system,
                frame_seconds=summary.get("config", {}).get("frame_seconds"),
                version=summary.get("version", ""),
                rows=rows,
            )
            number += 1


def _selected_systems(config: CompareConfig, index: int, table: TrackScores, summary: dict[str, Any]) -> list[str]:
    """Return the names of the systems of one run to compare."""
    available = list(dict.fromkeys(row.system for row in table.scored))
    if len(config.runs) == 1:
        selected = list(config.systems) or available
    elif config.systems:
        selected = [config.systems[index % len(config.systems)]]
    else:
        evaluated = {system["name"] for system in summary.get("systems", []) if system["kind"] in EVALUATED_KINDS}
        selected = [system for system in available if system in evaluated] or available
    missing = next((system for system in selected if system not in available), None)
    if missing is not None:
        raise ConfigError(f"systems: {missing!r} not found in {config.runs[index]}; available: {', '.join(available)}")
    return selected


def _read(run: str) -> tuple[TrackScores, dict[str, Any]]:
    """Return the track scores and summary.json of an evaluation."""
    results = Results(folder=StoragePath.of(run))
    try:
        summary = json.loads(results.folder.read_text(SUMMARY))
    except ValueError as problem:
        raise ScoringError(f"{run}: {SUMMARY} is damaged ({problem}); run the evaluation again") from problem
    except StorageError as problem:
        raise ScoringError(f"{run}: is not an output folder of `cyclesep evaluate`: {problem}") from problem
    return results.read_tracks(), summary


def _warnings(first: ComparedSystem, other: ComparedSystem) -> Iterator[str]:
    """Yield what makes the scores of two systems hard to compare."""
    pair = f"{first.label} and {other.label}"
    keys = [{row.comparison_key for row in each.rows} for each in (first, other)]
    unshared = sorted({f"{target} of {group}" for _, group, target in keys[0] ^ keys[1]})
    if unshared:
        yield f"{pair}: scored with other targets, excluded: {'; '.join(unshared)}"
    references = [{row.track_id: row.references for row in each.rows} for each in (first, other)]
    for label, tracks in (
        (first.label, references[0].keys() - references[1].keys()),
        (other.label, references[1].keys() - references[0].keys()),
    ):
        if tracks:
            names = ", ".join(sorted(tracks)[:3]) + (", ..." if len(tracks) > 3 else "")
            yield f"{pair}: {len(tracks)} tracks have scores in {label} only and are excluded: {names}"
    changed = [track for track, digest in references[0].items() if references[1].get(track, digest) != digest]
    if changed:
        yield f"{pair}: the references of {len(changed)} tracks differ; another corpus, or another sample rate"
    if first.frame_seconds != other.frame_seconds:
        yield f"{pair}: frames of {first.frame_seconds} s and {other.frame_seconds} s"
    if first.version != other.version:
        yield f"{pair}: scored by cyclesep {first.version} and {other.version}"


def _label(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"A{number}"
