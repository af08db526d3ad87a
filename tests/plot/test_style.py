"""One colour an optimizer, clipped forms dashed, no two alike, whatever their number."""

import importlib
import sys

import matplotlib
import pytest

from sharpjax import plot
from sharpjax.plot import style
from tests.plot import cases


def look(made, name):
    line = made.line(name)
    return line["color"], str(line["linestyle"]), line.get("marker", "")


@pytest.mark.parametrize("count", [1, 7, 25, 47])
def test_no_two_lines_are_alike(count):
    names = cases.names(count)
    made = plot.Style(names)
    assert len({look(made, name) for name in names}) == count
    for name in names:
        assert (made.line(name)["linestyle"] == "-") == (not name.endswith("_clip"))
        base = style.family(name)
        assert look(made, name)[::2] == look(made, base)[::2]


def test_no_two_are_alike_of_more_than_anybody_has():
    names = [f"made_up_{i}" for i in range(300)]
    made = plot.Style(names)
    assert len({look(made, name) for name in names}) == 300


def test_the_papers_colours_do_not_depend_on_the_others():
    few, many = plot.Style(["sgd"]), plot.Style(cases.names(47))
    for name in cases.PAPER:
        assert few.colour(name) == many.colour(name) == style.COLOURS[style.family(name)]
        assert not many.marker(name)
    assert len({few.colour(n) for n in style.COLOURS}) == 4


def test_kinds_and_fractions_of_clipping_have_their_own_dashes():
    names = ["lion", "lion_clip", "lion_clip_update", "lion_clip_clip_update"]
    names += ["lion_clip:0.1", "lion_clip:0.2"]
    made = plot.Style(names)
    assert len({str(made.line(name)["linestyle"]) for name in names}) == len(names)
    assert len({made.colour(name) for name in names}) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sgd", "SGD"),
        ("normalized_sgd_clip", "Normalized SGD, clipped"),
        ("adamw_clip_update", "AdamW, update clipped"),
        ("lion_clip_clip_update", "Lion, gradient and update clipped"),
        ("sgd_clip:0.1", "SGD, clipped 10 %"),
        ("lbfgs", "L-BFGS"),
        ("optax.adam", "optax.adam"),
        ("My rule: lr=0.1", "My rule: lr=0.1"),
        ("clip", "Clip"),
    ],
)
def test_labels(name, said):
    assert plot.label(name) == said


def test_legends_have_families_together_and_the_papers_first():
    made = plot.Style(["lion_clip", "adam", "sgd_clip", "lion", "sgd", "adafactor"])
    order = ["sgd", "sgd_clip", "adafactor", "adam", "lion", "lion_clip"]
    assert made.ordered(made.names) == order


def test_no_setting_is_changed_and_no_figure_is_left_with_pyplot():
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    plot.sharpness(cases.comparison(["sgd", "adam"]))
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.delitem(sys.modules, "sharpjax.plot")
    with pytest.raises(ImportError, match=r"sharpjax.plot needs pandas: .*sharpjax\[plot\]"):
        importlib.import_module("sharpjax.plot")
