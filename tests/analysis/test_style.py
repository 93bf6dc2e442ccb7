"""What all figures share."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from analysis.style import CYCLE, NAVY, Style, apart, label_ends, plain_logs, save, tail
from analysis.view import KNOWN


@pytest.mark.parametrize("styles", [CYCLE, tuple(KNOWN.values())])
def test_no_two_styles_are_alike_in_grey(styles: tuple[Style, ...]) -> None:
    """Markers, dashes and hatches tell them apart without any colour."""
    for one, other in combinations(styles, 2):
        assert one.marker != other.marker
        assert one.dashes != other.dashes
        assert one.hatch != other.hatch


def test_the_system_under_study_is_the_darkest_and_thickest() -> None:
    """So that it is found at first sight, in grey as well."""
    ours, *others = KNOWN.values()
    lightness = {style.colour: sum(to_rgb(style.colour)) for style in KNOWN.values()}
    assert ours == KNOWN["astrolabe"]
    assert all(lightness[ours.colour] < lightness[other.colour] for other in others)
    assert all(ours.width > other.width for other in others)


@given(st.lists(st.floats(-0.5, 1.5), max_size=12))
def test_labels_are_kept_apart_and_in_order(heights: list[float]) -> None:
    """Whatever the lines do, names are a gap from one another, within the axes."""
    placed = apart(sorted(heights), 0.08)
    assert all(high - low >= 0.08 - 1e-9 for low, high in pairwise(placed))
    assert all(-1e-9 <= one <= 1 + 1e-9 for one in placed)


def test_labels_with_room_stay_at_their_lines() -> None:
    """Only those that would overlap move."""
    assert apart([0.1, 0.5, 0.52], 0.1) == pytest.approx([0.1, 0.46, 0.56])


def test_lines_are_named_at_the_last_point_that_can_be_seen() -> None:
    """A line that leaves the axes is named where it does; one without a name is not."""
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 2, 3], [1, 2, 3], **Style(NAVY).marks("stays"))
    axes.plot([1, 2, 3], [1, 3, 90], **Style(NAVY).marks("leaves"))
    axes.plot([1, 2, 3], [0, 0, 0], color="black")
    axes.set_ylim(0, 4)
    label_ends(axes)
    named = {text.get_text(): text.xy for text in axes.texts}  # type: ignore[attr-defined]
    assert named == {"stays": (3, 3), "leaves": (2, 3)}


@pytest.mark.parametrize(
    ("high", "labels"),
    [
        (1.4, "1 1.1 1.2 1.3 1.4"),
        (3.0, "1 1.5 2 2.5 3"),
        (8.0, "1 2 3 5 7"),
        (60.0, "1 2 5 10 20 50"),
        (1e4, "1 10 100 1000 10000"),
    ],
)
def test_logarithmic_scales_have_plain_numbers(high: float, labels: str) -> None:
    """As many as the scale needs, and no powers of ten."""
    axes = Figure().subplots()
    axes.set_yscale("log")
    axes.set_ylim(1.0, high)
    plain_logs(axes.yaxis)
    shown = [
        tick.get_text() for tick in axes.get_yticklabels() if 1 <= float(tick.get_text()) <= high
    ]
    assert shown == labels.split()
    assert not any(tick.get_text() for tick in axes.get_yticklabels(minor=True))


def test_a_tail_falls_from_one() -> None:
    """The share that is larger, at each value."""
    axes = Figure().subplots()
    tail(axes, np.array([3.0, 1.0, 2.0, 4.0]), Style(NAVY), "waits")
    values, shares = np.asarray(axes.get_lines()[0].get_data())
    assert values.tolist() == [1, 2, 3, 4]
    assert shares.tolist() == [1, 0.75, 0.5, 0.25]


def test_figures_are_saved_for_screens_and_for_print(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PNG and PDF side by side, in a folder that is made, and said."""
    save(Figure(), tmp_path / "new" / "picture.svg")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "new" / "picture.pdf").read_bytes().startswith(b"%PDF")
    assert capsys.readouterr().out.count("written to") == 2
