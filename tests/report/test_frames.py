"""What charts draw of the tables, on quadratics whose curves are known."""

import numpy as np
import pandas
import pytest

from sharpjax.report import frames
from tests.plot import cases

AT = ["trajectory", "step"]


@pytest.fixture(scope="module")
def tables():
    return cases.comparison(["sgd", "adam"], steps=(10, 20)).tables


def test_curves_end_where_the_loss_is_back_at_its_start(tables):
    directions = tables["directions"]
    made = frames.curves(tables["landscape"], directions, AT)
    for (_, step, name), mine in made.groupby([*AT, "algorithm"]):
        one = directions[(directions["step"] == step) & (directions["algorithm"] == name)].iloc[0]
        assert mine["distance"].is_monotonic_increasing
        assert mine["distance"].iloc[-1] == pytest.approx(one["critical_step"])
        assert mine["loss"].iloc[-1] == one["loss"] == mine["loss"].iloc[0]
        t = mine["distance"]
        np.testing.assert_allclose(
            mine["loss"], cases.START + one["slope"] * t + one["sharpness"] * t**2 / 2
        )


def test_curve_without_a_critical_step_ends_at_four_best_steps(tables):
    directions = tables["directions"].assign(critical_step=np.nan, best_step=0.02)
    landscape = tables["landscape"].assign(loss=1.0)
    made = frames.curves(landscape, directions, AT)
    seen = landscape[landscape["distance"] <= 0.08]
    assert sorted(made["distance"]) == sorted(seen["distance"]) and 2 < len(seen) < len(landscape)


def test_minima_are_those_of_the_search_and_of_the_model(tables):
    directions = tables["directions"].copy()
    made = frames.minima(directions, AT)
    assert made["mark"].value_counts().to_dict() == {
        "lowest loss found": 4,
        "quadratic model's minimum": 4,
    }
    # On quadratics they are the same.
    by = [group.sort_values([*AT, "algorithm"]) for _, group in made.groupby("mark")]
    np.testing.assert_allclose(by[0][["distance", "loss"]], by[1][["distance", "loss"]])
    directions.loc[0, "predicted_decrease"] *= 100
    assert len(frames.minima(directions, AT)) == 7


def test_bars_of_ratios_and_ones_that_reach_zero(tables):
    directions = tables["directions"].copy()
    directions.loc[1, "sharpness_se"] = 50.0
    made = frames.with_errors(directions)
    np.testing.assert_allclose(
        made["ratio_se"], made["ratio"] * made["sharpness_se"] / made["sharpness"]
    )
    np.testing.assert_allclose(made["steepness"], -made["slope"])
    assert 0 < made["sharpness_low"][1] < made["sharpness"].min()
    np.testing.assert_allclose(made["sharpness_high"], made["sharpness"] + made["sharpness_se"])
    assert "steepness" not in directions.columns


def test_magnitudes_have_a_mean_square_of_one_and_breaks_at_gaps():
    bins = [("sgd", -2.0, -1.5, 3), ("sgd", -1.5, -1.0, 5), ("sgd", 0.0, 0.5, 2)]
    bins += [("sgd", -np.inf, -20.0, 9), ("", -1.0, -0.5, 4)]
    frame = pandas.DataFrame(bins, columns=["algorithm", "lower", "upper", "count"])
    frame["quantity"] = np.where(frame["algorithm"] == "", "gradient", "update")
    frame["step"] = 1
    made = frames.magnitudes(frame, ["step"])
    mine = made[made["algorithm"] == "sgd"]
    assert [*mine["count"].isna()] == [False, False, True, False]
    known = mine.dropna()
    mean_square = np.sum(known["count"] * known["relative"] ** 2) / known["count"].sum()
    assert mean_square == pytest.approx(1.0)
    ratio = known["relative"].to_numpy()[1:] / known["relative"].to_numpy()[:-1]
    np.testing.assert_allclose(ratio, 10 ** np.array([0.5, 1.5]))
    assert [*made[made["algorithm"] == ""]["relative"]] == pytest.approx([1.0])


def test_long_tables_are_thinned_evenly():
    frame = pandas.DataFrame({"step": [*range(1, 11)] * 2, "algorithm": ["a"] * 10 + ["b"] * 10})
    assert frames.thinned(frame, 20) is frame
    made = frames.thinned(frame, 8)
    assert [*made["step"]] == [1, 4, 7, 10] * 2
    assert frames.spread(range(100), 3) == [0, 49, 99]
    assert frames.spread([1, 2], 3) == [1, 2]
