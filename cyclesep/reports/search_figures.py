"""Figures of the search report: learning curves, parallel coordinates, importance and cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from cyclesep.reports.figures import (
    INK,
    LINE,
    QUIET,
    PointGroup,
    PointLabel,
    label_points,
    new_figure,
    page_style,
    series_colour,
    strip_figure,
    themed_svg,
)
from cyclesep.reports.jinja import number
from cyclesep.tuning.finals import FinalistResult
from cyclesep.tuning.space import Parameter, Space
from cyclesep.tuning.trial_table import TrialRow

# Inches at 72 dpi.
_WIDTH, _HEIGHT = 560 / 72, 310 / 72
# Trials in colour; the others are grey.
_NUM_BEST = 3


@page_style()
def learning_curves_figure(rows: Sequence[TrialRow], best: Sequence[TrialRow], *, mixture_sdr: float) -> Markup:
    """Draw SDR over steps of each trial, the best in colour, with the mixture's SDR as a dashed line."""
    figure, axes = new_figure(width=_WIDTH, height=_HEIGHT)
    colours = _colours(best)
    for row in rows:
        if not row.curve:
            continue
        steps, values = [step for step, _ in row.curve], [sdr for _, sdr in row.curve]
        colour = colours.get(row.trial, QUIET)
        alpha = 1.0 if row.trial in colours else 0.4
        axes.plot(steps, values, color=colour, linewidth=1.6, alpha=alpha, zorder=3)
        points = axes.scatter(steps, values, s=16, color=colour, alpha=alpha, linewidths=0, zorder=4)
        texts = [f"{row.label}: {number(sdr)} dB at step {step:,}\n{row.outcome}" for step, sdr in row.curve]
        label_points(points, [PointLabel(text=text, link=row.label) for text in texts])
        axes.annotate(row.label, (steps[-1], values[-1]), xytext=(4, 0), textcoords="offset points", fontsize=9)
    axes.axhline(mixture_sdr, color=LINE, linewidth=1.6, linestyle="--", zorder=2)
    _limit_to_ranked(axes, rows, mixture_sdr)
    axes.set_xlabel("step")
    axes.set_ylabel("validation SDR in dB")
    return themed_svg(figure, label="Validation SDR of each trial over training steps")


@page_style()
def parallel_figure(rows: Sequence[TrialRow], best: Sequence[TrialRow], space: Space) -> Markup:
    """Draw a line per trial through its values and its SDR, each on its own axis."""
    ranked = [row for row in rows if row.is_ranked and set(row.values) >= {each.name for each in space.parameters}]
    figure, axes = new_figure(width=_WIDTH, height=_HEIGHT)
    low, high = _sdr_range(ranked)
    colours = _colours(best)
    for row in ranked:
        positions = [_axis_position(each, row.values[each.name]) for each in space.parameters]
        heights = [*positions, (row.sdr - low) / (high - low)]
        colour, alpha = colours.get(row.trial, QUIET), 1.0 if row.trial in colours else 0.35
        axes.plot(range(len(heights)), heights, color=colour, alpha=alpha, linewidth=1.6, zorder=3)
        points = axes.scatter(range(len(heights)), heights, s=22, color=colour, alpha=alpha, linewidths=0, zorder=4)
        texts = [f"{row.label}: {each.short_name} {_format_value(row.values[each.name])}" for each in space.parameters]
        texts.append(f"{row.label}: {number(row.sdr)} dB at step {row.step:,}")
        label_points(points, [PointLabel(text=text, link=row.label) for text in texts])
    bounds = [
        (_format_value(each.to_plain(each.values[0])), _format_value(each.to_plain(each.values[-1])))
        for each in space.parameters
    ]
    names = [each.short_name for each in space.parameters]
    _draw_vertical_axes(axes, [*names, "SDR in dB"], [*bounds, (f"{low:.1f}", f"{high:.1f}")])
    return themed_svg(figure, label="Parallel coordinates: values and SDR of each trial")


@page_style()
def importance_figure(fractions: Mapping[str, float], space: Space) -> Markup:
    """Draw a bar per parameter: the fraction of the SDR's variance that it explains."""
    figure, axes = new_figure()
    short = {each.name: each.short_name for each in space.parameters}
    names = list(fractions)[::-1]
    axes.barh([short[name] for name in names], [fractions[name] for name in names], color=series_colour(0), zorder=3)
    for row, name in enumerate(names):
        axes.text(fractions[name], row, f" {number(fractions[name])}", verticalalignment="center", fontsize=10)
    axes.set_xlabel("fraction of the variance of SDR")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    return themed_svg(figure, label="Importance of each parameter")


@page_style()
def cost_figure(rows: Sequence[TrialRow], best: Sequence[TrialRow]) -> Markup:
    """Draw the SDR of each trial over its training time."""
    figure, axes = new_figure()
    colours = _colours(best)
    for row in rows:
        seconds = row.metrics.get("seconds")
        if seconds is None or not row.is_ranked:
            continue
        points = axes.scatter([seconds], [row.sdr], s=30, color=colours.get(row.trial, QUIET), linewidths=0, zorder=3)
        text = f"{row.label}: {seconds:,.0f} s of training, {number(row.sdr)} dB\n{row.outcome} at step {row.step:,}"
        label_points(points, [PointLabel(text=text, link=row.label)])
        axes.annotate(row.label, (seconds, row.sdr), xytext=(4, 3), textcoords="offset points", fontsize=9)
    axes.set_xlabel("training time in seconds")
    axes.set_ylabel("validation SDR in dB")
    return themed_svg(figure, label="SDR of each trial over its training time")


def finals_figure(ranking: Sequence[FinalistResult]) -> Markup:
    """Draw a point for each seed of each finalist."""
    groups = [
        PointGroup(
            name=result.label,
            values=[row.sdr for row in result.rows],
            labels=[PointLabel(text=f"{result.label}, seed {row.seed}: {number(row.sdr)} dB") for row in result.rows],
            colour=index,
        )
        for index, result in enumerate(ranking)
    ]
    return strip_figure(groups, axis="validation SDR in dB", label="SDR of each finalist with each seed")


def _colours(best: Sequence[TrialRow]) -> dict[str, str]:
    return {row.trial: series_colour(index) for index, row in enumerate(best[:_NUM_BEST])}


def _sdr_range(rows: Sequence[TrialRow]) -> tuple[float, float]:
    values = [row.sdr for row in rows] or [0.0]
    return (min(values), max(values)) if max(values) > min(values) else (min(values) - 1.0, max(values) + 1.0)


def _limit_to_ranked(axes: Axes, rows: Sequence[TrialRow], mixture_sdr: float) -> None:
    """Limit the axis to the ranked trials, and to the mixture if it is not far below them."""
    values = [sdr for row in rows if row.is_ranked for _, sdr in row.curve] or [mixture_sdr]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    if low - span < mixture_sdr < low:
        low = mixture_sdr
    axes.set_ylim(low - 0.08 * span, high + 0.08 * span)


def _axis_position(parameter: Parameter, value: Any) -> float:
    """Return the position of a value on its axis, from 0 to 1."""
    if parameter.kind == "choice":
        plain = [parameter.to_plain(each) for each in parameter.values]
        return plain.index(value) / max(1, len(plain) - 1) if value in plain else 0.5
    low, high, position = (float(each) for each in (*parameter.values, value))
    if parameter.kind == "loguniform":
        low, high, position = math.log(low), math.log(high), math.log(position)
    return (position - low) / (high - low)


def _draw_vertical_axes(axes: Axes, names: Sequence[str], bounds: Sequence[tuple[str, str]]) -> None:
    style: dict[str, Any] = {"horizontalalignment": "center", "fontsize": 9.5, "color": QUIET}
    for x, (low, high) in enumerate(bounds):
        axes.axvline(x, color=LINE, linewidth=1.2, zorder=1)
        axes.text(x, -0.04, low, verticalalignment="top", **style)
        axes.text(x, 1.04, high, verticalalignment="bottom", **style)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0, labelcolor=INK, pad=14)
    axes.set_yticks([])
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)


def _format_value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
