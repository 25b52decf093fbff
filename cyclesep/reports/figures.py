"""Figures as inline SVG: drawn by matplotlib, coloured by the page's style sheet, with labelled points.

The SVG of a figure takes tens of kilobytes; a plotting library in JavaScript would add megabytes to every page.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cyclesep.reports.jinja import number

# Placeholder colours, replaced by those of the style sheet, which depend on the theme.
INK, QUIET, LINE = "#01fe01", "#01fe02", "#01fe03"
NUM_COLOURS = 8
_STYLE_COLOURS = {INK: "var(--ink)", QUIET: "var(--quiet)", LINE: "var(--line)"} | {
    f"#02fd{index:02x}": f"var(--series-{index})" for index in range(NUM_COLOURS)
}
# Inches at 72 dpi: the width of a phone, so that text is not scaled down there.
_WIDTH, _HEIGHT = 400 / 72, 260 / 72
# Longest name, in characters, of a legend with two columns.
_TWO_COLUMN_CHARACTERS = 28
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # Makes the SVG reproducible.
    "svg.hashsalt": "cyclesep",
    "font.size": 11.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_figure_numbers = count()


@dataclass(frozen=True, kw_only=True)
class PointLabel:
    """The tooltip of a point."""

    text: str
    link: str = ""
    """Points with the same link, in all figures of a page, are highlighted together."""


@dataclass(frozen=True, kw_only=True)
class PointGroup:
    """Points in one column of a strip plot, such as the tracks of a system."""

    name: str
    values: Sequence[float]
    labels: Sequence[PointLabel]
    """One per value."""
    colour: int = 0
    """Index of a series colour, 0 to 7."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line: values over increasing x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0


@contextmanager
def page_style() -> Iterator[None]:
    """Set matplotlib's style while a figure is drawn and saved, since ticks are created late."""
    with matplotlib.rc_context(_STYLE):
        yield


def series_colour(index: int) -> str:
    """Return a placeholder colour that becomes the style sheet's `--series-INDEX`."""
    return f"#02fd{index % NUM_COLOURS:02x}"


@page_style()
def strip_figure(groups: Sequence[PointGroup], *, axis: str, label: str) -> Markup:
    """Draw groups next to each other, a point per finite value and a line at each median."""
    figure, axes = new_figure()
    for column, group in enumerate(groups):
        finite = [(value, label) for value, label in zip(group.values, group.labels, strict=True) if np.isfinite(value)]
        if not finite:
            continue
        values = np.array([value for value, _ in finite])
        x = column + _jitter(values)
        points = axes.scatter(x, values, s=26, color=series_colour(group.colour), alpha=0.75, linewidths=0, zorder=3)
        label_points(points, [label for _, label in finite])
        median = float(np.median(values))
        axes.plot([column - 0.3, column + 0.26], [median, median], color=INK, linewidth=1.6, zorder=2)
        axes.text(column + 0.28, median, number(median, 1), fontsize=10, verticalalignment="center", zorder=5)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_xticks(range(len(groups)), [_shorten(group.name) for group in groups])
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    axes.set_ylabel(axis)
    return themed_svg(figure, label=label)


@page_style()
def curve_figure(
    curves: Sequence[Curve], *, axis: str, along: str, label: str, shade: tuple[float, float] | None = None
) -> Markup:
    """Draw lines with labelled points, with a legend if there are several; `shade` marks an interval of x."""
    figure, axes = new_figure()
    if shade is not None:
        axes.axvspan(*shade, color=LINE, alpha=0.6, linewidth=0, zorder=1)
    for curve in curves:
        colour = series_colour(curve.colour)
        few = len(curve.x) <= 40
        axes.plot(curve.x, curve.y, color=colour, linewidth=1.6, label=_replace_invalid(curve.name), zorder=3)
        sampled = _subsample(curve)
        points = axes.scatter(
            [x for x, _ in sampled], [y for _, y in sampled], s=18, color=colour, linewidths=0, zorder=4
        )
        labels = [PointLabel(text=f"{curve.name}: {y:.4g}\n{along} {x:,.0f}") for x, y in sampled]
        label_points(points, labels, visible=few)
    axes.set_xlabel(along)
    axes.set_ylabel(axis)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if len(curves) > 1:
        # Above the axes, where no curve crosses it.
        columns = 2 if max(len(curve.name) for curve in curves) <= _TWO_COLUMN_CHARACTERS else 1
        figure.legend(frameon=False, fontsize=10, loc="outside upper left", ncols=columns, labelcolor=INK)
    return themed_svg(figure, label=label)


def new_figure(*, width: float = _WIDTH, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    """Return an empty figure and its axes; sizes are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def label_points(
    collection: matplotlib.collections.PathCollection, labels: Sequence[PointLabel], *, visible: bool = True
) -> None:
    """Attach a label to each point of a scatter plot; points that are not visible appear on hover."""
    collection.set_gid("marks" if visible else "quiet-marks")
    collection.cyclesep_labels = list(labels)  # type: ignore[attr-defined]


def themed_svg(figure: Figure, *, label: str, stretched: bool = False) -> Markup:
    """Return the figure as an SVG element that follows the page's theme.

    `label` is its accessible name. A stretched figure fills its container regardless of the aspect ratio.
    """
    labels = [
        label
        for axes in figure.axes
        for collection in sorted(axes.collections, key=lambda artist: artist.get_zorder())
        for label in getattr(collection, "cyclesep_labels", ())
    ]
    root = ElementTree.fromstring(_save_svg(figure))
    _trim(root)
    root.attrib |= {"aria-label": _replace_invalid(label), "role": "group" if labels else "img"}
    del root.attrib["width"], root.attrib["height"]
    if stretched:
        root.set("preserveAspectRatio", "none")
    _add_labels(root, labels)
    _make_ids_unique(root)
    return Markup(_to_html(root))


def _save_svg(figure: Figure) -> str:
    file = io.StringIO()
    with page_style(), warnings.catch_warnings():
        # Warnings about glyphs that only the browser's font has.
        warnings.simplefilter("ignore")
        figure.savefig(file, format="svg", transparent=True)
    return file.getvalue()


def _trim(root: ElementTree.Element) -> None:
    """Remove metadata and whitespace, and use the fonts and colours of the page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.tail = None
        if not (element.text or "").strip():
            element.text = None
        if "style" in element.attrib:
            style = re.sub(r"font-family:[^;]*; ?", "", element.attrib["style"])
            element.set("style", re.sub("#[0-9a-f]{6}", lambda found: _STYLE_COLOURS.get(found[0], found[0]), style))


def _add_labels(root: ElementTree.Element, labels: Sequence[PointLabel]) -> None:
    groups = [element for element in root.iter() if element.get("id") in ("marks", "quiet-marks")]
    points = [(group, use) for group in groups for use in group.iter(f"{{{_SVG}}}use")]
    for (group, use), label in zip(points, labels, strict=True):
        group.set("class", group.get("id", ""))
        use.attrib |= {"class": "mark", "role": "img", "aria-label": _replace_invalid(label.text)}
        if label.link:
            use.set("data-link", _replace_invalid(label.link))
    if labels:
        root.set("class", "marked")


def _make_ids_unique(root: ElementTree.Element) -> None:
    """Prefix IDs with the number of the figure, and remove IDs that nothing refers to."""
    prefix = f"#figure{next(_figure_numbers)}-"
    used = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in (f"{{{_XLINK}}}href", "clip-path"):
                used |= set(re.findall("#([^)]+)", value))
                element.set(name, value.replace("#", prefix))
    for element in root.iter():
        name = element.attrib.pop("id", "")
        if name in used:
            element.set("id", prefix[1:] + name)


def _to_html(root: ElementTree.Element) -> str:
    """Serialize without namespaces, which HTML does not need."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    return ElementTree.tostring(root, encoding="unicode")


def _jitter(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return horizontal offsets, between -0.3 and 0.3, that separate points with similar values."""
    extent = float(np.ptp(values)) or 1.0
    bins = np.floor((values - values.min()) / extent * 24).astype(int)
    offsets = np.zeros(len(values))
    for each in np.unique(bins):
        members = np.flatnonzero(bins == each)
        step = min(0.09, 0.6 / max(1, len(members) - 1))
        offsets[members] = (np.arange(len(members)) - (len(members) - 1) / 2) * step
    return offsets


def _subsample(curve: Curve, count: int = 60) -> list[tuple[float, float]]:
    """Return at most `count` finite points at even distances."""
    points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if np.isfinite(y)]
    return (
        [points[index] for index in sorted(set(np.linspace(0, len(points) - 1, count).astype(int)))] if points else []
    )


def _shorten(name: str, length: int = 13) -> str:
    name = _replace_invalid(name)
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _replace_invalid(text: str) -> str:
    """Replace characters that XML does not allow."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
