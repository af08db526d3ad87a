"""Figures of a comparison and of a point: what is drawn is what was measured, and can be read."""

import math

import numpy as np
import pandas
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from sharpjax import plot
from tests.plot import cases

MANY = [plot.sharpness, plot.convergence, plot.landscape, plot.histogram, plot.atlas]


def marked(axes, *markers):
    return [line for line in axes.lines if line.get_marker() in markers]


@pytest.fixture(scope="module", params=[1, 7, 25, 47])
def measured(request):
    names = cases.names(request.param)
    return names, cases.comparison(names)


@pytest.mark.parametrize("draw", MANY, ids=lambda f: f.__name__)
def test_legend_names_all_and_covers_none_and_text_has_one_size(draw, measured):
    names, found = measured
    figure = draw(found)
    (legend,) = figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert {plot.label(n) for n in names} <= set(said)
    handles = [
        (to_hex(h.get_color()), str(h._dash_pattern), h.get_marker())
        for h, text in zip(legend.get_lines(), said, strict=True)
        if text in {plot.label(n) for n in names}
    ]
    assert len(set(handles)) == len(names)
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0
    for axes in figure.axes:
        assert axes.get_tightbbox().y0 >= box.y1
        assert axes.get_window_extent().height > 1.5 * figure.dpi
    assert figure.get_figwidth() == 6.4
    assert {axes.xaxis.label.get_size() for axes in figure.axes} == {9.0}


def test_sharpness_is_drawn_at_each_step_with_its_error():
    found = cases.comparison(["adam", "adam_clip"])
    axes = plot.sharpness(found).axes[0]
    table = found.to_pandas()
    assert axes.get_ylabel() == "sharpness vᵀHv"  # No SGD, no ratio.
    for line, name in zip(axes.containers, ("adam", "adam_clip"), strict=True):
        mine = table[table["algorithm"] == name]
        np.testing.assert_allclose(line.lines[0].get_ydata(), mine["sharpness"])
        assert line.lines[0].is_dashed() == name.endswith("_clip")
        (bars,) = line.lines[2]
        ends = np.array([path[:, 1] for path in bars.get_segments()])
        np.testing.assert_allclose(np.diff(ends).ravel(), 2 * mine["sharpness_se"])


def test_rows_of_one_step_become_their_mean_and_deviation():
    rows = [("sgd", 1, 2.0), ("sgd", 1, 4.0), ("sgd", 2, math.nan), ("sgd", 2, 3.0)]
    frame = pandas.DataFrame(rows, columns=["algorithm", "epoch", "ratio"])
    (drawn,) = plot.sharpness(frame, x="epoch").axes[0].containers
    np.testing.assert_allclose(drawn.lines[0].get_ydata(), [3.0, 3.0])
    (bars,) = drawn.lines[2]
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], 3 + np.array([-1, 1]) * 2**0.5)


@pytest.mark.parametrize("ratio", [-0.3, 0.0, math.nan])
def test_ratios_that_have_no_logarithm(ratio):
    frame = cases.comparison(["sgd", "adam"], steps=(10,)).to_pandas()
    frame.loc[frame["algorithm"] == "adam", "ratio"] = ratio
    axes = plot.sharpness(frame).axes[0]
    triangles = [x for line in marked(axes, "v") for x in line.get_xdata()]
    assert len(triangles) == (not math.isnan(ratio))
    assert np.isfinite(axes.get_ylim()).all()


def test_reference_is_hollow_and_named_only_where_there_is_one():
    frame = cases.comparison(["sgd", "adam"]).to_pandas()
    reference = pandas.DataFrame({"step": [10], "algorithm": ["adam"], "ratio": [0.01]})
    figure = plot.sharpness(frame, reference=reference, reference_label="the paper’s value")
    (hollow,) = (line for line in marked(figure.axes[0], "o") if len(line.get_xdata()) == 1)
    assert hollow.get_markerfacecolor() == "white" and hollow.get_ydata()[0] == 0.01
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "the paper’s value" in said
    elsewhere = reference.assign(step=11)
    figure = plot.sharpness(frame, reference=elsewhere, reference_label="the paper’s value")
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "the paper’s value" not in said


def test_trajectories_of_their_own_have_a_panel_each():
    both = [cases.comparison(["sgd", "adam"], trajectory=t).to_pandas() for t in ("sgd", "adam")]
    frame = pandas.concat(both)
    figure = plot.sharpness(frame, value="step_ratio")
    assert [a.get_title(loc="left") for a in figure.axes] == ["SGD trajectory", "Adam trajectory"]
    with pytest.raises(ValueError, match="ax is for one panel, and there are 2"):
        plot.sharpness(frame, ax=Figure().add_subplot())


def test_optimizers_on_their_own_trajectories_share_a_panel_each_at_its_last_point():
    found = cases.Tables({
        name: pandas.concat([
            frame[frame["algorithm"].isin([own, ""])]
            for own, steps in (("sgd", (10, 20)), ("adam", (10, 20, 30)))
            for frame in [cases.comparison(["sgd", "adam"], steps, own).to_pandas(name)]
        ])
        for name in ("directions", "landscape", "histogram")
    })  # fmt: skip
    directions = found.tables["directions"]
    directions.loc[directions["algorithm"] == "adam", "ratio"] = math.nan  # No SGD there.
    (axes,) = plot.sharpness(found).axes
    assert axes.get_ylabel() == "sharpness vᵀHv"
    lengths = [len(c.lines[0].get_xdata()) for c in axes.containers]
    assert lengths == [2, 3]
    axes = plot.landscape(found, scale="log").axes[0]
    assert len(marked(axes, "D", "v")) == 2
    table = found.to_pandas().groupby("algorithm").last()
    newton = {line.get_xdata()[0] for line in marked(axes, "D", "v")}
    assert newton == set(table["newton_step"])
    (axes,) = plot.histogram(found).axes  # They have no gradient in common.
    assert len(axes.lines) == 2


def test_atlas_lines_join_equal_promises():
    figure = plot.atlas(cases.comparison(cases.names(7)))
    (axes,) = figure.axes
    grey = [line for line in axes.lines if line.get_color() == "#c4c4c4"]
    assert grey
    for line in grey:
        slope, curvature = line.get_xydata().T
        promised = slope**2 / (2 * curvature)
        np.testing.assert_allclose(promised, promised[0])
        np.testing.assert_allclose(np.log10(promised[0]), round(np.log10(promised[0])), atol=1e-9)


def test_landscape_passes_through_what_was_measured_and_ends_at_the_critical_step():
    found = cases.comparison(["sgd", "adam"], steps=(10,))
    linear, logarithmic = plot.landscape(found, linear=["sgd", "adam"]).axes
    assert (linear.get_xscale(), logarithmic.get_xscale()) == ("linear", "log")
    curves = [line for line in logarithmic.lines[1:] if len(line.get_xdata()) > 1]
    for name, line in zip(("sgd", "adam"), curves, strict=True):
        x, y = line.get_data()
        table = found.to_pandas("landscape")
        mine = table[(table["algorithm"] == name) & (table["distance"].between(x[0], x[-1]))]
        assert len(mine) > 3
        losses = np.interp(mine["distance"], x, y)
        np.testing.assert_allclose(losses, mine["loss"], atol=1e-9)
        row = found.to_pandas().set_index("algorithm").loc[name]
        np.testing.assert_allclose(x[-1], row["critical_step"])
        np.testing.assert_allclose(y[-1], cases.START, atol=1e-9)


def test_landscape_without_a_critical_step_ends_where_the_loss_is_back_or_in_a_bar():
    found = cases.comparison(["sgd"], steps=(10,))
    table = found.to_pandas("landscape")
    axes = plot.landscape(table, scale="log").axes[0]
    newton = found.to_pandas()["newton_step"].iloc[0]
    assert abs(axes.lines[1].get_xdata()[-1] / (2 * newton) - 1) < 0.01
    assert not marked(axes, "|")
    falling = table[table["distance"] <= 1.5 * newton]
    axes = plot.landscape(falling, scale="log").axes[0]
    (bar,) = marked(axes, "|")
    assert bar.get_xdata()[0] == falling["distance"].max()
    assert bar.get_ydata()[0] == falling["loss"].iloc[-1]


def test_landscape_marks_both_minima():
    found = cases.comparison(["sgd"], steps=(10,))
    landscape, point = found.to_pandas("landscape"), found.to_pandas().iloc[0]
    far = landscape.iloc[-1:].assign(distance=1e6, loss=math.inf)  # From bracketing.
    linear = plot.landscape(pandas.concat([landscape, far]), found.to_pandas()).axes[0]
    (filled,) = marked(linear, "o")
    best = landscape.loc[landscape["loss"].idxmin()]
    assert (filled.get_xdata()[0], filled.get_ydata()[0]) == (best["distance"], best["loss"])
    (hollow,) = marked(linear, "D", "v")
    assert hollow.get_xdata()[0] == point["newton_step"]
    assert linear.get_xlim()[1] < 3 * best["distance"]


def test_landscape_without_a_descent_or_a_measurement():
    rows = [("adafactor", s, 3.0 + s) for s in (0.0, 1e-3, 1.0)]
    flat = pandas.DataFrame(rows, columns=["algorithm", "distance", "loss"])
    figure = plot.landscape(flat)
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert [max(line.get_ydata()) > 3 for line in axes.lines].count(True) == 1
        assert not marked(axes, "|")


def test_a_far_optimizer_does_not_squeeze_the_linear_axis():
    found = cases.comparison(cases.names(25), steps=(10,))
    linear, logarithmic = plot.landscape(found).axes
    assert "without" in linear.get_title(loc="left")
    assert len(marked(logarithmic, "o")) == 25 > len(marked(linear, "o")) >= 12


def test_convergence_smooths_long_runs_only():
    found = cases.comparison(["sgd", "adam"])
    axes = plot.convergence(found).axes[0]
    table = found.to_pandas("convergence")
    mine = table[table["algorithm"] == "sgd"]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), mine[["step", "loss"]])
    long = pandas.DataFrame({"algorithm": "sgd", "step": range(1, 1001), "loss": 1.0})
    long["loss"] += long["step"] / 1000
    (line,) = plot.convergence(long).axes[0].lines
    x, y = line.get_data()
    assert len(x) == 100
    np.testing.assert_allclose(y, 1 + x / 1000)  # Means of a line are on it.


def test_diverged_run_ends_in_a_cross():
    rows = pandas.DataFrame({"algorithm": "sgd", "step": [1, 2, 3], "loss": [3.0, 2.5, math.nan]})
    figure = plot.convergence(rows)
    (cross,) = marked(figure.axes[0], "x")
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (2, 2.5)
    assert "diverged" in [text.get_text() for text in figure.legends[0].get_texts()]
    at_once = plot.convergence(rows.assign(loss=math.inf)).axes[0]
    assert [line.get_marker() for line in at_once.lines] == ["x"]


def test_explosion_does_not_flatten_the_others():
    calm = {"algorithm": "sgd", "step": [1, 2, 3], "loss": [3.0, 2.5, 2.0]}
    wild = {"algorithm": "adam", "step": [1, 2, 3], "loss": [3.0, 1e6, math.inf]}
    axes = plot.convergence(pandas.concat(map(pandas.DataFrame, (calm, wild)))).axes[0]
    assert axes.get_ylim()[1] < 10
    (cross,) = marked(axes, "x")
    assert cross.get_ydata()[0] < axes.get_ylim()[1]


def test_empty_bins_of_a_histogram_are_seen():
    bins = [(-5.0, 3), (-4.75, 1), (-2.0, 7)]  # Bins without a coordinate are not recorded.
    rows = [("", "gradient", lower, lower + 0.25, count) for lower, count in bins]
    frame = pandas.DataFrame(rows, columns=["algorithm", "quantity", "lower", "upper", "count"])
    (line,) = plot.histogram(frame).axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [-4.875, -4.625, -4.375, -2.125, -1.875])
    np.testing.assert_array_equal(line.get_ydata(), [3, 1, 0, 0, 7])


def test_updates_are_divided_by_their_root_mean_square():
    found = cases.comparison(["sgd"], steps=(10,))
    (line,) = plot.histogram(found).axes[1].lines
    x, y = line.get_data()
    np.testing.assert_allclose(np.sum(y * 100**x) / np.sum(y), 1.0)


def test_cosines_of_many_are_as_wide_as_other_figures(measured):
    figure = plot.cosines(measured[1])
    assert figure.get_figwidth() == 6.4
    assert len(figure.axes[0].get_yticklabels()) == len(measured[0])


def test_cosines_have_their_values_and_names():
    figure = plot.cosines(cases.comparison(["sgd", "adam"]))
    cosine, overlap = figure.axes
    apart = math.exp(-1 / 3)
    np.testing.assert_allclose(cosine.images[0].get_array(), [[1, apart], [apart, 1]])
    np.testing.assert_allclose(overlap.images[0].get_array(), [[1, 0.5], [0.5, 1]])
    assert [t.get_text() for t in cosine.get_yticklabels()] == ["SGD", "Adam"]
    assert {t.get_text() for t in overlap.texts} == {"1", "0.5"}


@pytest.mark.parametrize("draw", [plot.sharpness, plot.convergence, plot.atlas, plot.histogram])
def test_a_callers_axes_are_drawn_in_and_keep_their_legend(draw):
    mine = Figure()
    axes = mine.add_subplot()
    assert draw(cases.comparison(["sgd", "adam"]), ax=axes) is mine
    assert axes.has_data() and not mine.legends and mine.axes == [axes]
    part = Figure(layout="constrained").subfigures(1, 2)[0]
    assert draw(cases.comparison(["sgd", "adam"]), figure=part) is part
    assert part.axes and part.legends


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(TypeError, match="must be a Point, a Comparison or a DataFrame, got dict"):
        plot.sharpness({})
    frame = cases.comparison(["sgd"]).to_pandas()
    with pytest.raises(ValueError, match="no column 'slope'"):
        plot.atlas(frame.drop(columns="slope"))
    with pytest.raises(ValueError, match="no row"):
        plot.sharpness(frame.iloc[:0])
    with pytest.raises(ValueError, match="scale"):
        plot.landscape(cases.comparison(["sgd"]), scale="symlog")
    with pytest.raises(ValueError, match="none of"):
        empty = cases.comparison(["sgd"]).to_pandas("cosines").assign(cosine=math.nan)
        plot.cosines(empty, values=["cosine"])


def test_a_notebook_shows_a_figure():
    assert plot.atlas(cases.comparison(["sgd"]))._repr_png_().startswith(b"\x89PNG")


def test_labels_of_an_atlas_stand_apart_and_name_every_mark():
    """Thirty-two optimizers, half of them in one place."""
    draw = np.random.default_rng(0)
    names = cases.names(32)
    at = [(-0.1, 0.5) if i % 2 else 10.0 ** draw.uniform([-2, -3], [0, 1]) for i in range(32)]
    slope, curvature = np.array(at).T
    frame = pandas.DataFrame({"algorithm": names, "slope": slope, "sharpness": curvature})
    figure = plot.atlas(frame, labels=True)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    written = {t.get_text(): t for t in axes.texts if t.get_text() in map(plot.label, names)}
    assert {*written} == {*map(plot.label, names)}
    boxes = np.array(
        [Text.get_window_extent(t).extents for t in written.values()]
    )  # Without lines.
    frame = axes.get_window_extent().extents
    assert (boxes[:, :2] > frame[:2] - 2).all() and (boxes[:, 2:] < frame[2:] + 2).all()
    sides = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(
        boxes[:, None, :2], boxes[:, :2]
    )
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    np.fill_diagonal(shared, 0)
    assert shared.max() < 0.05 * np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).min()
    assert [t.get_text() for t in figure.legends[0].texts] == ["clipped"]
    # One that has no minimum has no place among them, and is in the legend.
    concave = pandas.DataFrame(
        {"algorithm": ["sgd", "adam"], "slope": -1.0, "sharpness": [1.0, -1.0]}
    )
    (legend,) = plot.atlas(concave, labels=True).legends
    assert [t.get_text() for t in legend.texts] == ["Adam"]
