"""Runs side by side, and whether what lies between them is more than noise: a paired test over tracks.

A difference counts when three things agree: the tracks do (Wilcoxon's signed-rank test, Biometrics Bulletin 1, 1945,
its p-values corrected for the number of questions asked at once: S. Holm, Scandinavian Journal of Statistics 6, 1979),
the interval of the median difference leaves out zero (percentile bootstrap over tracks, B. Efron, Annals of Statistics
7, 1979), and it is larger than what one recipe gives from seed to seed, which no test over tracks can see.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from cyclesep.errors import ConfigError, ScoringError, StorageError
from cyclesep.evaluation.config import CompareConfig
from cyclesep.evaluation.track_scores import SUMMARY, TRACKS, TrackRow, TrackScores
from cyclesep.storage.path import StoragePath

Verdict = Literal["better", "worse", "within noise"]

SIGNIFICANT = 0.05
# With fewer, even tracks that all agree reach no p below 0.05.
MIN_TRACKS = 6
# Draws of the bootstrap that are held at a time, in values.
_BLOCK_VALUES = 1 << 22

_OWN_KINDS = ("Separator", "EstimateFolder")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One system of one run."""

    label: str
    """A for the first, which the others are compared with."""
    run: str
    system: str
    frame_seconds: float | None
    version: str
    rows: tuple[TrackRow, ...]

    def values(self, company: tuple[str, str, str], metric: str) -> dict[str, float]:
        """By track, finite ones only."""
        found = {row.track_id: row.values.get(metric, np.nan) for row in self.rows if row.company == company}
        return {track: value for track, value in found.items() if np.isfinite(value)}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of one target: a contender against the first, over the tracks that both have."""

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
    """Ends of the 95 % bootstrap interval of `difference`."""
    high: float
    p: float
    """Wilcoxon's, two-sided, before Holm's correction."""
    p_holm: float
    verdict: Verdict
    because: str
    """Of noise: "equal", "few tracks" for so many questions, "tracks vary", or less than seeds make."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All differences, and what speaks against reading them."""

    contenders: tuple[Contender, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """Plain values, strict JSON."""
        told = {
            "contenders": [{"label": c.label, "run": c.run, "system": c.system} for c in self.contenders],
            "warnings": self.warnings,
            "differences": [asdict(difference) for difference in self.differences],
        }
        return json.dumps(told, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def compare(config: CompareConfig) -> Comparison:
    """Compare runs with the first of them, target by target, over the tracks that both have scored.

    Raises ScoringError for a folder that holds no evaluation, ConfigError for a system that it does not hold or if
    there is nothing to compare.
    """
    contenders = tuple(_contenders(config))
    if len(contenders) < 2:
        raise ConfigError(f"runs: {config.runs[0]} holds one system only; give another run to compare it with")
    return of_contenders(contenders, config)


def of_contenders(contenders: tuple[Contender, ...], config: CompareConfig) -> Comparison:
    """Compare all with the first; raises ConfigError if they share no target and track."""
    warnings = [warning for other in contenders[1:] for warning in _warnings(contenders[0], other)]
    asked = [
        (other, company, metric)
        for company in dict.fromkeys(row.company for row in contenders[0].rows)
        for metric in config.metrics
        for other in contenders[1:]
    ]
    found = [(*question, values) for question in asked if (values := _paired(contenders[0], *question)).size]
    if not found:
        raise ConfigError("runs: they have no target and track in common; evaluate both on the same music")
    p_values = [_wilcoxon(values[:, 1] - values[:, 0]) for *_, values in found]
    differences = tuple(
        _difference(config, other, company, metric, values, p, p_holm)
        for (other, company, metric, values), p, p_holm in zip(found, p_values, holm(p_values), strict=True)
    )
    return Comparison(contenders=contenders, differences=differences, warnings=tuple(warnings))


def bootstrap_interval(
    differences: NDArray[np.float64], *, bootstrap_samples: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the median of `differences` `(tracks,)` over draws of as many tracks with replacement."""
    rng = np.random.default_rng(seed)
    count = len(differences)
    at_once = max(1, _BLOCK_VALUES // count)
    edges = [*range(0, bootstrap_samples, at_once), bootstrap_samples]
    medians = [
        np.median(differences[rng.integers(count, size=(stop - start, count))], axis=1)
        for start, stop in pairwise(edges)
    ]
    low, high = np.quantile(np.concatenate(medians), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of questions asked at once, corrected so that all of them together err with the chosen probability."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    running = 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = running
    return [float(value) for value in adjusted]


def _difference(
    config: CompareConfig,
    other: Contender,
    company: tuple[str, str, str],
    metric: str,
    values: NDArray[np.float64],
    p: float,
    p_holm: float,
) -> Difference:
    between = values[:, 1] - values[:, 0]
    middle = float(np.median(between))
    low, high = bootstrap_interval(between, bootstrap_samples=config.bootstrap_samples)
    because = _doubt(between, (low, high), (p, p_holm), config.min_effect_db)
    split, scoring_group, target = company
    return Difference(
        label=other.label,
        split=split,
        scoring_group=scoring_group,
        target=target,
        metric=metric,
        tracks=len(between),
        first=float(np.median(values[:, 0])),
        second=float(np.median(values[:, 1])),
        difference=middle,
        low=low,
        high=high,
        p=p,
        p_holm=p_holm,
        verdict="within noise" if because else "better" if middle > 0 else "worse",
        because=because,
    )


def _doubt(
    between: NDArray[np.float64], interval: tuple[float, float], p_values: tuple[float, float], min_effect_db: float
) -> str:
    """Why a difference may be noise; empty if it is none."""
    p, p_holm = p_values
    if not between.any():
        return "equal"
    if len(between) < MIN_TRACKS or p < SIGNIFICANT <= p_holm:
        return "few tracks"
    if p >= SIGNIFICANT or interval[0] <= 0 <= interval[1]:
        return "tracks vary"
    return f"< {min_effect_db:g} dB" if abs(float(np.median(between))) <= min_effect_db else ""


def _wilcoxon(differences: NDArray[np.float64]) -> float:
    if not differences.any():
        return 1.0
    return float(scipy.stats.wilcoxon(differences).pvalue)


def _paired(first: Contender, other: Contender, company: tuple[str, str, str], metric: str) -> NDArray[np.float64]:
    """`(tracks, 2)`: values of both on the tracks where both have one."""
    a, b = first.values(company, metric), other.values(company, metric)
    return np.array([(a[track], b[track]) for track in a if track in b])


def _contenders(config: CompareConfig) -> Iterator[Contender]:
    if len(config.systems) > 1 and len(config.systems) != len(config.runs) and len(config.runs) > 1:
        raise ConfigError(f"systems: {len(config.systems)} names for {len(config.runs)} runs; give one for each")
    number = 0
    for place, run in enumerate(config.runs):
        table, about = _read(run)
        for system in _chosen(config, place, table, about):
            rows = tuple(row for row in table.scored if row.system == system)
            yield Contender(
                label=_label(number),
                run=run,
                system=system,
                frame_seconds=about.get("config", {}).get("frame_seconds"),
                version=about.get("version", ""),
                rows=rows,
            )
            number += 1


def _chosen(config: CompareConfig, place: int, table: TrackScores, about: dict[str, Any]) -> list[str]:
    """The systems of one run that take part."""
    held = list(dict.fromkeys(row.system for row in table.scored))
    if len(config.runs) == 1:
        wanted = list(config.systems) or held
    elif config.systems:
        wanted = [config.systems[place % len(config.systems)]]
    else:
        own = {system["name"] for system in about.get("systems", []) if system["kind"] in _OWN_KINDS}
        wanted = [system for system in held if system in own] or held
    missing = next((system for system in wanted if system not in held), None)
    if missing is not None:
        raise ConfigError(f"systems: {config.runs[place]} holds no {missing!r}; it holds {', '.join(held)}")
    return wanted


def _read(run: str) -> tuple[TrackScores, dict[str, Any]]:
    folder = StoragePath.of(run)
    try:
        about = json.loads(folder.read_text(SUMMARY))
    except ValueError as problem:
        raise ScoringError(f"{run}: its {SUMMARY} is damaged ({problem}); run the evaluation again") from problem
    except StorageError as problem:
        raise ScoringError(f"{run}: is no folder that `cyclesep evaluate` wrote (output=...): {problem}") from problem
    with folder.reading(TRACKS) as path:
        return TrackScores.read(path), about


def _warnings(first: Contender, other: Contender) -> Iterator[str]:
    """What makes the scores of two contenders hard to compare."""
    pair = f"{first.label} and {other.label}"
    companies = [dict.fromkeys(row.company for row in contender.rows) for contender in (first, other)]
    unshared = sorted({f"{target} of {company}" for _, company, target in companies[0].keys() ^ companies[1].keys()})
    if unshared:
        yield f"{pair}: scored with other targets, left out: {'; '.join(unshared)}"
    references = [{row.track_id: row.references for row in contender.rows} for contender in (first, other)]
    alone = [sorted(references[place].keys() - references[1 - place].keys()) for place in (0, 1)]
    for label, tracks in zip((first.label, other.label), alone, strict=True):
        if tracks:
            named = ", ".join(tracks[:3]) + (", ..." if len(tracks) > 3 else "")
            yield f"{pair}: {len(tracks)} tracks have scores in {label} alone and are left out: {named}"
    changed = [track for track, digest in references[0].items() if references[1].get(track, digest) != digest]
    if changed:
        yield f"{pair}: the references of {len(changed)} tracks differ; this is another corpus, or another rate of it"
    if first.frame_seconds != other.frame_seconds:
        yield f"{pair}: frames of {first.frame_seconds} s against {other.frame_seconds} s"
    if first.version != other.version:
        yield f"{pair}: scored by cyclesep {first.version} and {other.version}"


def _label(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"A{number}"
