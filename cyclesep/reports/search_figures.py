"""Figures of a search: learning curves, parallel coordinates, importance, cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from cyclesep.reports.figures import (
    INK,
    LINE,
    QUIET,
    Group,
    Mark,
    name_marks,
    new_figure,
    page_style,
    series_colour,
    strip_figure,
    themed_svg,
)
from cyclesep.reports.jinja import number
from cyclesep.tuning.finalists import FinalistResult
from cyclesep.tuning.space import Parameter, Space
from cyclesep.tuning.trial_table import TrialRow

# Inches at 72 to the inch.
_WIDE, _HIGH = 560 / 72, 310 / 72
# Trials that stand out of all others.
_NUM_BEST = 3


@page_style()
def curves_chart(rows: Sequence[TrialRow], best: Sequence[TrialRow], *, mixture_sdr: float) -> Markup:
    """SDR over steps of every trial; the best ones in colour, the mixture as a line."""
    figure, axes = new_figure(width=_WIDE, height=_HIGH)
    colours = _colours(best)
    for row in rows:
        if not row.curve:
            continue
        steps, values = [step for step, _ in row.curve], [sdr for _, sdr in row.curve]
        colour = colours.get(row.trial, QUIET)
        strength = 1.0 if row.trial in colours else 0.4
        axes.plot(steps, values, color=colour, linewidth=1.6, alpha=strength, zorder=3)
        marks = axes.scatter(steps, values, s=16, color=colour, alpha=strength, linewidths=0, zorder=4)
        told = [f"{row.label}: {number(sdr)} dB at step {step:,}\n{row.outcome}" for step, sdr in row.curve]
        name_marks(marks, [Mark(told=each, link=row.label) for each in told])
        axes.annotate(row.label, (steps[-1], values[-1]), xytext=(4, 0), textcoords="offset points", fontsize=9)
    axes.axhline(mixture_sdr, color=LINE, linewidth=1.6, linestyle="--", zorder=2)
    _keep_in_sight(axes, rows, mixture_sdr)
    axes.set_xlabel("step")
    axes.set_ylabel("validation SDR in dB")
    return themed_svg(figure, label="Validation SDR of every trial over its steps")


@page_style()
def parallel_chart(rows: Sequence[TrialRow], best: Sequence[TrialRow], space: Space) -> Markup:
    """A line for each trial through its values and its SDR, each on an axis of its own."""
    ranked = [row for row in rows if row.is_ranked and set(row.values) >= {each.name for each in space.parameters}]
    figure, axes = new_figure(width=_WIDE, height=_HIGH)
    low, high = _sdr_range(ranked)
    colours = _colours(best)
    for row in ranked:
        places = [_place(each, row.values[each.name]) for each in space.parameters]
        heights = [*places, (row.sdr - low) / (high - low)]
        colour, strength = colours.get(row.trial, QUIET), 1.0 if row.trial in colours else 0.35
        axes.plot(range(len(heights)), heights, color=colour, alpha=strength, linewidth=1.6, zorder=3)
        marks = axes.scatter(range(len(heights)), heights, s=22, color=colour, alpha=strength, linewidths=0, zorder=4)
        told = [f"{row.label}: {each.short_name} {_short(row.values[each.name])}" for each in space.parameters]
        told.append(f"{row.label}: {number(row.sdr)} dB at step {row.step:,}")
        name_marks(marks, [Mark(told=each, link=row.label) for each in told])
    ends = [
        (_short(each.to_plain(each.values[0])), _short(each.to_plain(each.values[-1]))) for each in space.parameters
    ]
    _vertical_axes(
        axes, [each.short_name for each in space.parameters] + ["SDR in dB"], [*ends, (f"{low:.1f}", f"{high:.1f}")]
    )
    return themed_svg(figure, label="Parallel coordinates: the values and the SDR of every trial")


@page_style()
def importance_chart(shares: Mapping[str, float], space: Space) -> Markup:
    """A bar for each parameter: its share of the variance of SDR."""
    figure, axes = new_figure()
    short = {each.name: each.short_name for each in space.parameters}
    names = list(shares)[::-1]
    axes.barh([short[name] for name in names], [shares[name] for name in names], color=series_colour(0), zorder=3)
    for place, name in enumerate(names):
        axes.text(shares[name], place, f" {number(shares[name])}", verticalalignment="center", fontsize=10)
    axes.set_xlabel("share of the variance of SDR")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    return themed_svg(figure, label="Importance of each parameter")


@page_style()
def cost_chart(rows: Sequence[TrialRow], best: Sequence[TrialRow]) -> Markup:
    """Seconds of training and SDR of each trial: what was paid and what it gave."""
    figure, axes = new_figure()
    colours = _colours(best)
    for row in rows:
        seconds = row.figures.get("seconds")
        if seconds is None or not row.is_ranked:
            continue
        marks = axes.scatter([seconds], [row.sdr], s=30, color=colours.get(row.trial, QUIET), linewidths=0, zorder=3)
        told = f"{row.label}: {seconds:,.0f} s of training, {number(row.sdr)} dB\n{row.outcome} at step {row.step:,}"
        name_marks(marks, [Mark(told=told, link=row.label)])
        axes.annotate(row.label, (seconds, row.sdr), xytext=(4, 3), textcoords="offset points", fontsize=9)
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("validation SDR in dB")
    return themed_svg(figure, label="Cost of each trial beside its SDR")


def finals_chart(standings: Sequence[FinalistResult]) -> Markup:
    """A point for each seed of each contender."""
    groups = [
        Group(
            name=standing.label,
            values=[row.sdr for row in standing.rows],
            marks=[Mark(told=f"{standing.label}, seed {row.seed}: {number(row.sdr)} dB") for row in standing.rows],
            colour=index,
        )
        for index, standing in enumerate(standings)
    ]
    return strip_figure(groups, axis="validation SDR in dB", label="SDR of each contender with each seed")


def _colours(best: Sequence[TrialRow]) -> dict[str, str]:
    return {row.trial: series_colour(index) for index, row in enumerate(best[:_NUM_BEST])}


def _sdr_range(rows: Sequence[TrialRow]) -> tuple[float, float]:
    values = [row.sdr for row in rows] or [0.0]
    return (min(values), max(values)) if max(values) > min(values) else (min(values) - 1.0, max(values) + 1.0)


def _keep_in_sight(axes: Axes, rows: Sequence[TrialRow], mixture_sdr: float) -> None:
    """A trial that has diverged may stand far below, and so may the mixture; the other trials are what is looked at."""
    values = [sdr for row in rows if row.is_ranked for _, sdr in row.curve] or [mixture_sdr]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    if low - span < mixture_sdr < low:
        low = mixture_sdr
    axes.set_ylim(low - 0.08 * span, high + 0.08 * span)


def _place(parameter: Parameter, value: Any) -> float:
    """Where a value stands on its axis, from 0 to 1."""
    if parameter.kind == "choice":
        plain = [parameter.to_plain(each) for each in parameter.values]
        return plain.index(value) / max(1, len(plain) - 1) if value in plain else 0.5
    low, high, here = (float(each) for each in (*parameter.values, value))
    if parameter.kind == "loguniform":
        low, high, here = math.log(low), math.log(high), math.log(here)
    return (here - low) / (high - low)


def _vertical_axes(axes: Axes, names: Sequence[str], ends: Sequence[tuple[str, str]]) -> None:
    for place, (low, high) in enumerate(ends):
        axes.axvline(place, color=LINE, linewidth=1.2, zorder=1)
        axes.text(place, -0.04, low, horizontalalignment="center", verticalalignment="top", fontsize=9.5, color=QUIET)
        axes.text(
            place, 1.04, high, horizontalalignment="center", verticalalignment="bottom", fontsize=9.5, color=QUIET
        )
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0, labelcolor=INK, pad=14)
    axes.set_yticks([])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
