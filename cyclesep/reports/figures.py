"""Figures as SVG inside a page: drawn by matplotlib, coloured by the page's style, each point with a name.

The SVG of a figure is tens of kilobytes, where a plotting library in JavaScript would add megabytes to every page.
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

# Colours that stand for those of the style sheet, which follow the theme.
INK, QUIET, LINE = "#01fe01", "#01fe02", "#01fe03"
NUM_COLOURS = 8
_STYLE_COLOURS = {INK: "var(--ink)", QUIET: "var(--quiet)", LINE: "var(--line)"} | {
    f"#02fd{index:02x}": f"var(--series-{index})" for index in range(NUM_COLOURS)
}
# Inches at 72 to the inch: as wide as a phone, so that text is not shrunk there.
_WIDTH, _HEIGHT = 400 / 72, 260 / 72
# Characters of a legend's names that leave room for two of them side by side.
_LONGEST_OF_TWO = 28
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # The same figure is the same text.
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
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_numbers = count()


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a point says when it is pointed at or has the focus."""

    told: str
    link: str = ""
    """Points with the same link, in all figures of a page, light up together."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Points that stand above one name: a system's tracks."""

    name: str
    values: Sequence[float]
    marks: Sequence[Mark]
    """One for each value."""
    colour: int = 0
    """0 to 7, of the style sheet's series."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values over something that grows."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0


@contextmanager
def page_style() -> Iterator[None]:
    """Draw figures inside this: matplotlib makes ticks late, and in the style of that moment."""
    with matplotlib.rc_context(_STYLE):
        yield


def series_colour(index: int) -> str:
    """A colour for matplotlib that becomes the style sheet's `--series-INDEX`."""
    return f"#02fd{index % NUM_COLOURS:02x}"


@page_style()
def strip_figure(groups: Sequence[Group], *, axis: str, label: str) -> Markup:
    """Groups side by side, a point for each finite value and a line at each median."""
    figure, axes = new_figure()
    for place, group in enumerate(groups):
        finite = [(value, mark) for value, mark in zip(group.values, group.marks, strict=True) if np.isfinite(value)]
        if not finite:
            continue
        values = np.array([value for value, _ in finite])
        x = place + _spread(values)
        marks = axes.scatter(x, values, s=26, color=series_colour(group.colour), alpha=0.75, linewidths=0, zorder=3)
        name_marks(marks, [mark for _, mark in finite])
        median = float(np.median(values))
        axes.plot([place - 0.3, place + 0.26], [median, median], color=INK, linewidth=1.6, zorder=2)
        axes.text(place + 0.28, median, number(median, 1), fontsize=10, verticalalignment="center", zorder=5)
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_xticks(range(len(groups)), [_short(group.name) for group in groups])
    axes.tick_params(axis="x", length=0, labelcolor=INK)
    axes.set_ylabel(axis)
    return themed_svg(figure, label=label)


@page_style()
def curve_figure(
    curves: Sequence[Curve], *, axis: str, along: str, label: str, shade: tuple[float, float] | None = None
) -> Markup:
    """Lines over one axis, with a legend if there are several; points tell their values. `shade` marks a stretch."""
    figure, axes = new_figure()
    if shade is not None:
        axes.axvspan(*shade, color=LINE, alpha=0.6, linewidth=0, zorder=1)
    for curve in curves:
        colour = series_colour(curve.colour)
        few = len(curve.x) <= 40
        axes.plot(curve.x, curve.y, color=colour, linewidth=1.6, label=_printable(curve.name), zorder=3)
        shown = _thinned(curve)
        marks = axes.scatter([x for x, _ in shown], [y for _, y in shown], s=18, color=colour, linewidths=0, zorder=4)
        told = [Mark(told=_printable(f"{curve.name}: {y:.4g}\n{along} {x:,.0f}")) for x, y in shown]
        name_marks(marks, told, shown=few)
    axes.set_xlabel(along)
    axes.set_ylabel(axis)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if len(curves) > 1:
        # Above the axes, since somewhere a curve would run through it.
        columns = 2 if max(len(curve.name) for curve in curves) <= _LONGEST_OF_TWO else 1
        figure.legend(frameon=False, fontsize=10, loc="outside upper left", ncols=columns, labelcolor=INK)
    return themed_svg(figure, label=label)


def new_figure(*, width: float = _WIDTH, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure and its axes; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def name_marks(collection: matplotlib.collections.PathCollection, marks: Sequence[Mark], *, shown: bool = True) -> None:
    """Give each point of a scatter plot what it says; points that are not shown appear when pointed at."""
    collection.set_gid("marks" if shown else "quiet-marks")
    collection.cyclesep_marks = list(marks)  # type: ignore[attr-defined]


def themed_svg(figure: Figure, *, label: str, stretched: bool = False) -> Markup:
    """The figure as an SVG element that follows the page's theme.

    `label` tells those who do not see it what it shows. A stretched one takes whatever shape its place has.
    """
    marks = [
        mark
        for axes in figure.axes
        for collection in sorted(axes.collections, key=lambda artist: artist.get_zorder())
        for mark in getattr(collection, "cyclesep_marks", ())
    ]
    root = ElementTree.fromstring(_written(figure))
    _trim(root)
    root.attrib |= {"aria-label": _printable(label), "role": "group" if marks else "img"}
    del root.attrib["width"], root.attrib["height"]
    if stretched:
        root.set("preserveAspectRatio", "none")
    _name_points(root, marks)
    _own_ids(root)
    return Markup(_without_namespaces(root))


def _written(figure: Figure) -> str:
    file = io.StringIO()
    with page_style(), warnings.catch_warnings():
        # Of glyphs that matplotlib's font lacks: the browser's has them.
        warnings.simplefilter("ignore")
        figure.savefig(file, format="svg", transparent=True)
    return file.getvalue()


def _trim(root: ElementTree.Element) -> None:
    """Without what nobody reads, and in the fonts and colours of the page."""
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


def _name_points(root: ElementTree.Element, marks: Sequence[Mark]) -> None:
    groups = [element for element in root.iter() if element.get("id") in ("marks", "quiet-marks")]
    points = [(group, use) for group in groups for use in group.iter(f"{{{_SVG}}}use")]
    for (group, use), mark in zip(points, marks, strict=True):
        group.set("class", group.get("id", ""))
        use.attrib |= {"class": "mark", "role": "img", "aria-label": _printable(mark.told)}
        if mark.link:
            use.set("data-link", _printable(mark.link))
    if marks:
        root.set("class", "marked")


def _own_ids(root: ElementTree.Element) -> None:
    """Ids that only this figure has, and only those that something refers to."""
    own = f"#figure{next(_numbers)}-"
    used = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in (f"{{{_XLINK}}}href", "clip-path"):
                used |= set(re.findall("#([^)]+)", value))
                element.set(name, value.replace("#", own))
    for element in root.iter():
        name = element.attrib.pop("id", "")
        if name in used:
            element.set("id", own[1:] + name)


def _without_namespaces(root: ElementTree.Element) -> str:
    """In HTML an svg element needs none."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    return ElementTree.tostring(root, encoding="unicode")


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sideways places, between -0.3 and 0.3, that keep points of nearly the same value apart."""
    extent = float(np.ptp(values)) or 1.0
    bins = np.floor((values - values.min()) / extent * 24).astype(int)
    places = np.zeros(len(values))
    for each in np.unique(bins):
        members = np.flatnonzero(bins == each)
        step = min(0.09, 0.6 / max(1, len(members) - 1))
        places[members] = (np.arange(len(members)) - (len(members) - 1) / 2) * step
    return places


def _thinned(curve: Curve, most: int = 60) -> list[tuple[float, float]]:
    points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if np.isfinite(y)]
    return [points[index] for index in sorted(set(np.linspace(0, len(points) - 1, most).astype(int)))] if points else []


def _short(name: str, most: int = 13) -> str:
    name = _printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
