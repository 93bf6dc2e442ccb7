"""How all figures look, so that they can be told apart in grey: lightness, dashes and markers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

NAVY, STEEL, OCHRE, BRICK, GREEN = "#12355b", "#5f86a8", "#c9a227", "#8c3b2e", "#4f7d4a"
PURPLE, GREY, LIGHT_GREY = "#8a6fb0", "#6e6e6e", "#a8a8a8"
SMALL = 8.0
"""Points, of text within a figure."""


class Style(NamedTuple):
    """Of a line, and of a bar that stands for the same thing."""

    colour: str
    dashes: str | tuple[int, tuple[int, ...]] = "-"
    marker: str | tuple[int, int, int] = ""
    width: float = 1.6
    hatch: str = ""

    def line(self, label: str = "") -> dict[str, Any]:
        """What ``Axes.plot``, ``step`` and ``stairs`` take (the last without ``marker``)."""
        return {
            "color": self.colour,
            "linestyle": self.dashes,
            "linewidth": self.width,
            "label": label,
            "zorder": 2 + self.width,
        }

    def marks(self, label: str = "") -> dict[str, Any]:
        """The same, with a marker at each point."""
        size = 5.5 if isinstance(self.marker, str) else 8.0  # stars are thin
        edges = {"markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.6}
        return {**self.line(label), "marker": self.marker, **edges}

    def band(self) -> dict[str, Any]:
        """What ``Axes.fill_between`` takes: strong around strong lines."""
        return {"color": self.colour, "alpha": 0.08 * self.width, "linewidth": 0, "zorder": 1}

    def bar(self, label: str = "") -> dict[str, Any]:
        """What ``Axes.bar`` takes."""
        return {"facecolor": self.colour, "edgecolor": "white", "hatch": self.hatch, "label": label}


CYCLE = (
    Style(NAVY, "-", "o", 2.4),
    Style(OCHRE, "--", "s", 1.6, "//"),
    Style(STEEL, ":", "^", 2.0, ".."),
    Style(BRICK, "-.", "D", 1.6, "xx"),
    Style(GREEN, (0, (5, 1)), "v", 1.6, "\\\\"),
    Style(PURPLE, (0, (3, 1, 1, 1)), "P", 1.6, "++"),
    Style(GREY, (0, (1, 1)), "X", 1.6, "oo"),
    Style(LIGHT_GREY, (0, (6, 2, 2, 2)), "<", 1.6, "--"),
    Style("#b5838d", (0, (4, 1, 1, 1, 1, 1)), (3, 1, 0), 1.6, "O"),
    Style("#6b705c", (0, (2, 1)), (6, 1, 0), 1.6, "||"),
)
"""For things without a style of their own, the most important first."""
_BETWEEN = (
    (10, (1, 2, 3, 5, 7)),
    (100, (1, 2, 5)),
    (float("inf"), (1,)),
)
"""Labels of a decade, for scales that reach less than so many times their start."""
_SHORT = 4
"""Scales that reach less far are labelled as if they were linear, which they nearly are."""


def tidy(axes: Iterable[Axes]) -> None:
    """A light grid, and no frame where there are no figures."""
    for one in axes:
        one.grid(alpha=0.3)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)


def plain_logs(*some: Axis) -> None:
    """Logarithmic scales labelled 0.1, 1, 10, with figures between if they are short."""
    for axis in some:
        low, high = sorted(axis.get_view_interval())
        if high < _SHORT * low:
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        else:
            densest = next(subs for reach, subs in _BETWEEN if high < reach * low)
            axis.set_major_locator(LogLocator(subs=densest))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
        axis.set_minor_formatter(NullFormatter())


def tail(axes: Axes, values: npt.NDArray[np.float64], style: Style, label: str) -> None:
    """The share of values that are larger, against the value."""
    larger = 1 - np.arange(len(values)) / len(values)
    axes.step(np.sort(values), larger, where="post", markevery=0.12, **style.marks(label))


def label_ends(axes: Axes) -> None:
    """Names beside the right ends of the labelled lines, moved apart where they would overlap.

    Last of all: limits and layout of the figure must not change after it.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    to_axes = axes.transAxes.inverted()
    ends = []
    for line in axes.get_lines():
        seen = _last_within(axes, line)
        if seen is not None and not str(line.get_label()).startswith("_"):
            height = float(to_axes.transform(axes.transData.transform(seen))[1])
            ends.append((height, seen, line))
    ends.sort(key=lambda end: end[0])
    gap = 1.25 * SMALL * figure.dpi / 72 / axes.get_window_extent().height
    for height, (_, seen, line) in zip(apart([end[0] for end in ends], gap), ends, strict=True):
        axes.annotate(
            str(line.get_label()),
            seen,
            (1.04, height),
            textcoords="axes fraction",
            fontsize=SMALL,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": LIGHT_GREY, "shrinkB": 3},
        )


def _last_within(axes: Axes, line: Line2D) -> tuple[float, float] | None:
    """The last point of a line that can be seen."""
    low, high = sorted(axes.get_ylim())
    points = np.asarray(line.get_xydata(), dtype=float)
    seen = points[(points[:, 1] >= low) & (points[:, 1] <= high)]
    return (float(seen[-1, 0]), float(seen[-1, 1])) if len(seen) else None


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights, moved as little as it takes to keep a gap between them, from 0 to 1."""
    placed: list[list[float]] = []
    for height in heights:
        placed.append([height])
        while len(placed) > 1 and _start(placed[-2], gap) + gap * len(placed[-2]) > _start(
            placed[-1], gap
        ):
            placed[-2:] = [placed[-2] + placed[-1]]
    return [_start(group, gap) + gap * index for group in placed for index in range(len(group))]


def _start(group: Sequence[float], gap: float) -> float:
    """Where the first of a group begins, if the group stays around its mean, within 0 and 1."""
    extent = gap * (len(group) - 1)
    return max(0.0, min(1.0 - extent, sum(group) / len(group) - extent / 2))


def save(figure: Figure, picture: Path) -> None:
    """As PNG for screens and PDF for print, side by side."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"pdf.fonttype": 42}):  # text stays text in the PDF
        for file in (picture.with_suffix(".png"), picture.with_suffix(".pdf")):
            figure.savefig(file, dpi=150)
            print(f"written to {file}")
