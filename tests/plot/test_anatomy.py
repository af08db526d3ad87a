"""Figures of what a curvature is made of show the numbers that they are given."""

import math
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from scipy.stats import spearmanr

from sharpjax import plot
from tests.plot import cases

TWO = ("sgd", "sgd_clip")
FRACTIONS = [0.01, 0.1, 1.0]


def test_lorenz_draws_both_shares_and_leaves_out_what_means_nothing():
    found = cases.ranked(TWO, FRACTIONS)
    left, right = plot.lorenz(found, FRACTIONS).axes
    for axes, power in ((left, 0.5), (right, 1.0)):
        for line, name in zip(axes.lines[:2], TWO, strict=True):
            np.testing.assert_allclose(line.get_xdata(), [1, 10, 100])
            np.testing.assert_allclose(line.get_ydata(), np.array(FRACTIONS) ** power)
            assert line.is_dashed() == name.endswith("_clip")
    unsure = found["sgd"]
    unsure = type(unsure)(-unsure.sharpness, unsure.sharpness_se, unsure.share, unsure.squared_norm)
    left, right = plot.lorenz({**found, "sgd": unsure}, FRACTIONS).axes
    assert [line.is_dashed() for line in left.lines[:2]] == [True, False]  # The line at 1.
    assert left.texts[0].get_text().endswith("not drawn:\nSGD")


def test_blocks_in_pairs_make_a_grid_a_direction():
    labels = (("encoder 1", "q"), ("encoder 1", "norm"), ("decoder 1", "q"))
    found = cases.blocks(TWO, labels)
    order = {"rows": ["decoder 1", "encoder 1"], "columns": ["norm", "q"]}
    figure = plot.blocks(found, **order)
    first = figure.axes[0]
    want = 100 * np.array([[math.nan, 3], [2, 1]]) / 6
    np.testing.assert_allclose(np.ma.filled(first.images[0].get_array(), math.nan), want)
    assert first.get_title(loc="left") == "SGD: 6 within, −4 across"
    assert [t.get_text() for t in first.get_yticklabels()] == order["rows"]
    # With half of the crossing pairs: 1 − 1, 2 − 2 and 3 − 1.
    first, _ = plot.blocks(found, crossing=True, **order).axes
    want = [[math.nan, 100], [0, 0]]
    np.testing.assert_allclose(np.ma.filled(first.images[0].get_array(), math.nan), want)


def test_blocks_of_any_labels_make_one_grid():
    figure = plot.blocks(cases.blocks(TWO, ("embedding", "head")))
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.images[0].get_array(), 100 * np.array([[1, 1], [2, 2]]) / 3)
    with pytest.raises(ValueError, match="'adam' has others"):
        plot.blocks(cases.blocks(TWO, ("a", "b")) | cases.blocks(["adam"], ("a", "c")))


def test_diagonal_counts_every_coordinate_once():
    draw = np.random.default_rng(0)
    gradient = {"w": np.exp(draw.normal(size=(20, 10))), "b": np.array([0.0, 1.0])}
    curvature = {"w": gradient["w"] * draw.normal(size=(20, 10)), "b": np.array([1.0, -2.0])}
    figure = plot.diagonal(gradient, curvature)
    axes, bar = figure.axes
    counts = np.ma.filled(axes.collections[0].get_array(), 0)
    assert np.nansum(counts) == 201 and bar.get_ylabel() == "coordinates"
    flat = [np.concatenate([np.abs(t["b"]).ravel(), np.abs(t["w"]).ravel()])
            for t in (gradient, curvature)]  # fmt: skip
    said = f"rank correlation {spearmanr(*flat).statistic:.2f}\n1 exact zeros not drawn"
    assert axes.get_title(loc="left") == said.replace("-", "−")
    twice = plot.diagonal([1e-3, 1e-2], [0.1, 0.2], weights=[5, 7], title="mine").axes[0]
    assert np.nansum(np.ma.filled(twice.collections[0].get_array(), 0)) == 12
    with pytest.raises(ValueError, match="got 2 and 1"):
        plot.diagonal([1.0, 2.0], [1.0])
    plot.diagonal([0.0], [1.0]).draw_without_rendering()


def test_spectrum_holds_all_weight_and_each_mark():
    marks = {"sgd": 1.0, "sgd_clip": 0.5, "adam": math.nan}
    figure = plot.spectrum(cases.spectrum(), marks)
    (axes,) = figure.axes
    grid, density = axes.lines[0].get_data()
    assert abs(np.trapezoid(density, grid) - 1) < 0.05
    drawn = {line.get_xdata()[0]: line.is_dashed() for line in axes.lines[-2:]}
    assert drawn == {1.0: False, 0.5: True}
    assert axes.get_xlim()[0] < -0.1 and axes.get_xlim()[1] > 3
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["SGD", "SGD, clipped"]


def test_the_edge_of_stability_is_in_the_spectrum():
    (axes,) = plot.spectrum(cases.spectrum(), edge=40.0).axes
    (line,) = [line for line in axes.lines if line.is_dashed()]
    assert line.get_xdata()[0] == 40 and axes.get_xlim()[1] > 40
    assert "edge " in [text.get_text() for text in axes.texts]


def test_spectra_of_blocks_are_a_row_each():
    one = cases.spectrum()
    several = SimpleNamespace(
        labels=("embedding", ("layer 1", "q")),
        eigenvalues=np.stack([one.eigenvalues, 2 * one.eigenvalues]),
        weights=np.stack([one.weights] * 2),
        distance=0.25,
    )
    (axes,) = plot.spectrum(several, {"sgd": 1.0}).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["embedding", "layer 1 q"]
    assert axes.get_title(loc="left").endswith("0.25")
    shades = axes.collections[0].get_array()
    assert shades.shape[0] == 2
    middles = axes.collections[0].get_coordinates()[0, :, 0]
    middles = (middles[1:] + middles[:-1]) / 2
    # The largest value's peak: 3, and 6.
    peaks = [middles[np.argmax(np.where(middles > 1, row, -np.inf))] for row in shades]
    np.testing.assert_allclose(peaks, [3, 6], rtol=0.05)


def test_gauss_newton_marks_what_is_negative():
    found = {"sgd": cases.split(3.0, 2.0), "adam": cases.split(1.0, 1.5)}
    axes = plot.gauss_newton(found).axes[0]
    points = {
        round(float(c.lines[0].get_xdata()[0]), 6): c.lines[0].get_markerfacecolor()
        for c in axes.containers
    }
    assert sorted(points) == [0.5, 1.0, 1.5, 2.0, 3.0]  # |residual| of SGD is 1 too.
    assert points[0.5] == "white" and points[2.0] != "white"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["SGD", "Adam"]


def test_span_shows_promises_and_eigenvalues():
    search = lambda decrease: SimpleNamespace(best_decrease=decrease)  # noqa: E731
    found = {"sgd": search(0.4), "adam": search(0.2), "span": search(0.7)}
    left, right = plot.span(cases.span(("sgd", "adam")), found).axes
    np.testing.assert_allclose([bar.get_width() for bar in left.patches], [0.4, 0.2, 0.7])
    promised = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(promised, [0.5, 0.25, 0.75])  # slope²/(2λ), and their sum.
    values = [c.lines[0].get_ydata()[0] for c in right.containers]
    np.testing.assert_allclose(values, [2, 1], rtol=1e-6)
    assert [t.get_text() for t in left.get_yticklabels()][-1] == "best in the span"


def clip_points(sign=1.0):
    for fraction in (0.0, 0.01, 0.1, 1.0):
        stats = SimpleNamespace(slope=-1 + fraction / 2, sharpness=sign * (2 - fraction))
        yield SimpleNamespace(
            fraction=fraction,
            stats=stats,
            search=SimpleNamespace(best_decrease=0.1 + fraction * (1 - fraction)),
        )


def test_clip_curve_marks_the_best_fraction():
    points = list(clip_points())
    figure = plot.clip_curve(points)
    slope, sharpness, decrease = figure.axes
    np.testing.assert_allclose(slope.lines[0].get_ydata(), [0.995, 0.95, 0.5])
    assert slope.lines[1].get_ydata()[0] == 1.0  # Unclipped.
    assert sharpness.get_yscale() == "log"
    (best,) = (line for line in decrease.lines if line.get_marker() == "o")
    np.testing.assert_allclose(best.get_xydata(), [[10, 0.19]])
    rows = [(p.fraction, p.stats.slope, p.stats.sharpness, p.search.best_decrease) for p in points]
    frame = pandas.DataFrame(rows, columns=["fraction", "slope", "sharpness", "best_decrease"])
    again = plot.clip_curve({"momentum": frame.iloc[::-1]}, mark=None)
    for axes, other in zip(figure.axes, again.axes, strict=True):
        np.testing.assert_allclose(axes.lines[0].get_xydata(), other.lines[0].get_xydata())
    said = [text.get_text() for text in again.legends[0].get_texts()]
    assert said == ["momentum", "unclipped"]
    assert plot.clip_curve(clip_points(-1.0)).axes[1].get_yscale() == "symlog"


def test_parts_are_shares_that_point_downhill():
    error = np.array([0.1, 0.1])
    stats = SimpleNamespace(slope=np.array([-3.0, 1.0]), slope_se=error,
                            sharpness=np.array([6.0, 2.0]), sharpness_se=error)  # fmt: skip
    figure = plot.parts({"sgd": stats, "sgd_clip": stats}, ["frequent", "rare"])
    slope, sharpness = figure.axes
    np.testing.assert_allclose(slope.containers[0].lines[0].get_ydata(), [0.75, -0.25])
    np.testing.assert_allclose(sharpness.containers[1].lines[0].get_ydata(), [0.75, 0.25])
    assert [t.get_text() for t in sharpness.get_xticklabels()] == ["frequent", "rare"]
    with pytest.raises(ValueError, match="each of 2 parts, got 1"):
        plot.parts({"sgd": stats}, ["all"])


def test_plane_has_its_least_loss_and_both_updates():
    x, y = np.linspace(-1, 2, 13), np.linspace(-1, 1, 9)
    losses = 3 + (x[None, :] - 1) ** 2 + 4 * (y[:, None] - 0.5) ** 2
    losses[0, 0] = math.inf
    found = SimpleNamespace(x=x, y=y, losses=losses, of_a=(1.5, 0.0), of_b=(0.5, 0.75))
    figure = plot.plane(found, ("sgd", "adam"))
    axes = figure.axes[0]
    (cross,) = (line for line in axes.lines if line.get_marker() == "x")
    np.testing.assert_allclose(cross.get_xydata(), [[1.0, 0.5]])
    style = plot.Style(("sgd", "adam"))
    dots = {
        tuple(line.get_xydata()[0]): line.get_color()
        for line in axes.lines
        if line.get_marker() == "o"
    }
    assert dots == {(1.5, 0.0): style.colour("sgd"), (0.5, 0.75): style.colour("adam")}
    rays = [line.get_xydata()[1] for line in axes.lines if len(line.get_xydata()) == 2]
    np.testing.assert_allclose(rays, [[2, 0], [2 / 3, 1]])
    assert not axes.texts
    found.of_a = (30.0, 0.0)  # Beyond the grid.
    axes = plot.plane(found, ("sgd", "adam")).axes[0]
    assert [arrow.xy[0] for arrow in axes.texts] == [2.0]
    assert axes.get_xlim() == (-1, 2) and axes.get_ylim() == (-1, 1)
    flat = SimpleNamespace(x=x, y=y, losses=np.full((9, 13), 2.0), of_a=(1, 0), of_b=(0, 1))
    plot.plane(flat).draw_without_rendering()


def test_dominant_share_is_cumulative():
    figure = plot.dominant({"sgd": [0.5, 0.25, 0.125], "sgd_clip": [0.1, 0.1, 0.1]})
    first, second = figure.axes[0].lines[:2]
    np.testing.assert_allclose(first.get_xydata(), [[1, 0.5], [2, 0.75], [3, 0.875]])
    np.testing.assert_allclose(second.get_ydata(), [0.1, 0.2, 0.3])
    assert second.is_dashed() and not first.is_dashed()


def test_noise_has_downhill_to_the_right():
    found = SimpleNamespace(
        signal_to_noise={"sgd": -0.3, "adam": 0.1},
        signal_to_noise_se={"sgd": 0.05, "adam": math.nan},
        noise_scale=120.0,
        noise_scale_se=math.nan,
    )
    axes = plot.noise(found).axes[0]
    assert [c.lines[0].get_xdata()[0] for c in axes.containers] == [0.3, -0.1]
    assert axes.get_title(loc="left") == "noise scale 120 examples"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["SGD", "Adam"]


def test_results_of_the_library_itself_are_drawn():
    pytest.importorskip("sharpjax.named")
    import jax.numpy as jnp

    from sharpjax.compare import compare

    loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**2 * jnp.array([1.0, 9.0])) / 2  # noqa: E731
    batches = [jnp.array([1.0, 1.0])] * 3
    found = compare(
        *(loss, jnp.array([3.0, 4.0]), ["sgd", "sgd_clip", "adam"], batches),
        *(jnp.ones((2, 2)),),
        follow="adam",
        learning_rate=0.1,
        every=1,
    )
    for draw in (plot.sharpness, plot.atlas, plot.convergence):
        assert draw(found).axes[0].has_data()
    for draw in (plot.landscape, plot.histogram, plot.cosines, plot.atlas):
        assert draw(found.points[-1]).axes[0].has_data()
        assert draw(found).axes[0].has_data()
