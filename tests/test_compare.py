"""A comparison against loops and measurements written out by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax
from tests.cases import network_loss

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
OPTIMIZERS = {
    "sgd": optax.sgd(0.05),
    "adam": optax.adam(0.02),
    "clip": sharpjax.sgd(0.05, clip=0.3),
}
FIELDS = ("loss", "slope", "sharpness", "sharpness_se", "update_norm")


def batch():
    return {"x": RNG.normal(size=(8, 3)).astype("f"), "y": RNG.normal(size=(8, 2)).astype("f")}


BATCHES, TEST = [batch() for _ in range(12)], [batch() for _ in range(3)]
PARAMS = {
    "first": {"kernel": RNG.normal(size=(3, 4)).astype("f"), "bias": np.zeros(4, "f")},
    "second": (RNG.normal(size=(4, 2)).astype("f"),),
}


@pytest.fixture(scope="module")
def followed():
    return sharpjax.compare(
        network_loss, PARAMS, OPTIMIZERS, iter(BATCHES), TEST, follow="adam", every=4
    )


@pytest.fixture(scope="module")
def own():
    return sharpjax.compare(
        network_loss,
        PARAMS,
        OPTIMIZERS,
        BATCHES,
        TEST,
        follow="own",
        every=4,
        landscape=False,
        span=False,
    )


def loop(name, steps):
    """(parameters, updates of all, loss) before each step of a plain loop."""
    params, seen = jax.tree.map(jnp.asarray, PARAMS), []
    states = {n: tx.init(params) for n, tx in OPTIMIZERS.items()}
    for one in BATCHES[:steps]:
        loss, grads = jax.value_and_grad(network_loss)(params, one)
        updates = {}
        for n, tx in OPTIMIZERS.items():
            updates[n], states[n] = tx.update(grads, states[n], params)
        seen.append((params, updates, loss))
        params = optax.apply_updates(params, updates[name])
    return seen


def test_one_trajectory_is_the_plain_loop_measured(followed):
    assert [p.step for p in followed.points] == [4, 8, 12] and not followed.interrupted
    steps = loop("adam", 12)
    np.testing.assert_allclose(followed.losses["adam"], [s[2] for s in steps], rtol=1e-4)
    for point in followed.points:
        params, updates, _ = steps[point.step - 1]
        stats = sharpjax.measure_directions(network_loss, params, updates, TEST)
        assert point.trajectory == "adam" and point.names == tuple(OPTIMIZERS)
        for name, field in itertools.product(OPTIMIZERS, FIELDS):
            found = getattr(point.directions[name], field)
            np.testing.assert_allclose(found, getattr(stats[name], field), rtol=2e-3)


def test_each_trajectory_of_its_own_is_a_plain_loop(own):
    assert [(p.step, p.trajectory) for p in own.points] == [
        (step, name) for step in (4, 8, 12) for name in OPTIMIZERS
    ]
    for name in OPTIMIZERS:
        np.testing.assert_allclose(own.losses[name], [s[2] for s in loop(name, 12)], rtol=1e-4)


def test_tables_keep_each_update_by_its_name(followed):
    """JAX sorts dicts; cosines and curvatures are matrices in the order that was given."""
    directions = followed.to_pandas().set_index(["step", "algorithm"])
    cosines = followed.to_pandas("cosines")
    same = cosines[cosines.algorithm == cosines.other].set_index(["step", "algorithm"])
    np.testing.assert_allclose(same.cosine, 1, rtol=1e-5)
    np.testing.assert_allclose(same.overlap, 1)
    np.testing.assert_allclose(same.curvature, directions.sharpness[same.index], rtol=1e-3)
    assert directions.index.get_level_values(1)[:3].tolist() == list(OPTIMIZERS)
    ratio = directions.sharpness.xs("adam", level=1) / directions.sharpness.xs("sgd", level=1).abs()
    np.testing.assert_allclose(directions.ratio.xs("adam", level=1), ratio, rtol=1e-6)


def test_tables_hold_what_the_points_hold(followed):
    landscape = followed.to_pandas("landscape")
    assert list(landscape) == ["step", "trajectory", "algorithm", "distance", "loss"]
    search = followed.points[1].searches["clip"]
    mine = landscape[(landscape.step == 8) & (landscape.algorithm == "clip")]
    np.testing.assert_allclose(mine.distance, search.steps)
    histogram = followed.to_pandas("histogram")
    size = sum(x.size for x in jax.tree.leaves(PARAMS))
    assert (histogram.groupby(["step", "algorithm", "quantity"])["count"].sum() == size).all()
    assert set(histogram.quantity) == {"update", "gradient"}
    convergence = followed.to_pandas("convergence")
    np.testing.assert_allclose(convergence.loss, followed.losses["adam"])
    assert len(followed.to_pandas("precision")) == 0
    with pytest.raises(ValueError, match=r"table must be one of 'directions', .*, got 'slopes'"):
        followed.to_pandas("slopes")
    assert "step 12, adam" in followed._repr_html_()


def test_it_is_short_where_it_is_printed(followed):
    assert repr(followed).count("\n") == 0 and "steps 4, 8, 12" in repr(followed)
    head, columns, *rows = str(followed).splitlines()
    assert head.startswith("step 12, adam: loss ") and "best_decrease" in columns
    assert [row.split()[0] for row in rows] == list(OPTIMIZERS)
    sharpness = followed.to_pandas().set_index(["step", "algorithm"]).sharpness[12, "adam"]
    assert f"{sharpness:.4g}" in str(followed.points[-1])


def test_at_loss_interpolates_between_the_points_beside_it(own):
    table = own.to_pandas().set_index(["trajectory", "step"])
    before, after = table.loc[("sgd", 4)], table.loc[("sgd", 8)]
    level = (before.loss + after.loss) / 2
    assert before.loss > after.loss
    found = own.at_loss(level).set_index("algorithm")
    np.testing.assert_allclose(found.loc["sgd", "step"], 6)
    np.testing.assert_allclose(
        found.loc["sgd", "sharpness"], (before.sharpness + after.sharpness) / 2
    )
    assert own.at_loss(-1.0).sharpness.isna().all()


def test_saved_and_loaded_it_is_the_same(followed, tmp_path):
    path = followed.save(tmp_path / "found.json")
    again = sharpjax.Comparison.load(path)
    for table in ("directions", "landscape", "histogram", "cosines", "convergence"):
        assert again.to_pandas(table).equals(followed.to_pandas(table))
    assert again.names == followed.names and again.follow == "adam"
    assert [p.name for p in tmp_path.iterdir()] == ["found.json"]
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"found\.json holds no saved result"):
        sharpjax.Comparison.load(path)


def test_an_interrupted_loop_returns_what_is_there():
    def until_interrupted():
        yield from BATCHES[:5]
        raise KeyboardInterrupt

    found = sharpjax.compare(
        network_loss,
        PARAMS,
        ["sgd", "adam"],
        until_interrupted(),
        TEST,
        follow="sgd",
        every=2,
        landscape=False,
        span=False,
    )
    assert found.interrupted and [p.step for p in found.points] == [2, 4]
    assert len(found.losses["sgd"]) == 5


def test_statistics_that_change_go_through_args():
    def loss(params, one, statistics):
        mean = 0.5 * statistics["mean"] + 0.5 * one["x"].mean(0)
        shifted = {"x": one["x"] - mean[None], "y": one["y"]}
        return network_loss(params, shifted), {"mean": mean}

    start = {"mean": np.ones(3, "f")}
    found = sharpjax.compare(
        loss,
        PARAMS,
        {"sgd": optax.sgd(0.05)},
        BATCHES[:3],
        TEST,
        follow="sgd",
        steps=3,
        every=3,
        args=(start,),
        has_aux=True,
        next_args=lambda statistics, args: (statistics,),
        landscape=False,
        span=False,
    )
    params, statistics = jax.tree.map(jnp.asarray, PARAMS), start
    for one in BATCHES[:2]:
        grads, statistics = jax.grad(loss, has_aux=True)(params, one, statistics)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
    measured = np.mean([loss(params, one, statistics)[0] for one in TEST])
    np.testing.assert_allclose(found.points[0].directions["sgd"].loss, measured, rtol=1e-5)


def test_optimizers_that_want_functions_are_followed():
    found = sharpjax.compare(
        network_loss,
        PARAMS,
        {"lbfgs": optax.lbfgs(), "sophia": optax.contrib.sophia(0.01), "sgd": optax.sgd(0.1)},
        BATCHES[:4],
        TEST,
        follow="lbfgs",
        landscape=False,
        span=False,
    )
    assert [p.step for p in found.points] == [4]  # The last, since there are fewer than `every`.
    assert all(np.isfinite(s.sharpness) for s in found.points[0].directions.values())


def test_a_trajectory_that_diverges_ends_and_the_others_go_on():
    found = sharpjax.compare(
        network_loss,
        PARAMS,
        {"wild": optax.sgd(1e30), "sgd": optax.sgd(0.05)},
        BATCHES,
        TEST,
        follow="own",
        every=12,
        landscape=False,
        span=False,
    )
    assert len(found.losses["wild"]) < 12 == len(found.losses["sgd"])
    assert [p.trajectory for p in found.points] == ["sgd"]


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"follow": "lion"}, "follow must be one of 'sgd', 'adam', 'clip', 'own', got 'lion'"),
        ({"every": 0}, "every must be an integer of at least 1, got 0"),
        ({"steps": 1.5}, "steps must be an integer of at least 1, got 1.5"),
        ({"optimizers": {}}, "optimizers must name at least one optimizer"),
        ({"optimizers": ["sdg"], "follow": "sdg"}, "sdg"),
        ({"batches": []}, "batches must hold at least one batch"),
        ({"optimizers": ["sgd"], "learning_rate": {}, "follow": "sgd"}, "no rate for 'sgd'"),
        ({"optimizers": ["sgd"], "learning_rate": None, "follow": "sgd"}, "for 'sgd', got None"),
        ({"fraction": 5.0}, r"fraction must be in \[0.0, 1.0\], got 5.0"),
    ),
)
def test_bad_input_names_the_value(changes, message):
    given = {"optimizers": OPTIMIZERS, "batches": BATCHES, "follow": "adam"} | changes
    optimizers, batches = given.pop("optimizers"), given.pop("batches")
    with pytest.raises(ValueError, match=message):
        sharpjax.compare(network_loss, PARAMS, optimizers, batches, TEST, **given)


def test_optimizers_without_names_are_told_to_have_some():
    with pytest.raises(TypeError, match=r"a list of optimizers must hold names, got .*: optax"):
        sharpjax.compare(network_loss, PARAMS, [optax.sgd(0.1)], BATCHES, TEST, follow="sgd")


def test_what_the_loss_raises_says_what_it_was_given():
    with pytest.raises(IndexError) as raised:
        first = lambda params, one: jnp.sum(one["x"][:, 0])  # noqa: E731
        sharpjax.compare(first, PARAMS, OPTIMIZERS, BATCHES, BATCHES[0], follow="sgd")
    assert "{'x': (3,), 'y': (2,)}" in "".join(raised.value.__notes__)


def test_precision_is_the_distance_from_float64():
    updates = {"p": PARAMS, "ones": jax.tree.map(np.ones_like, PARAMS)}
    found = sharpjax.measure_precision(network_loss, PARAMS, updates, TEST, micro_batches=2)
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)  # noqa: E731
        exact = sharpjax.measure_directions(
            network_loss, wide(PARAMS), wide(updates), wide(TEST[:2]), method="reverse"
        )
        for name, one in found.items():
            np.testing.assert_allclose(
                one.sharpness_float64, float(exact[name].sharpness), rtol=1e-12
            )
            error = abs(one.sharpness / one.sharpness_float64 - 1)
            assert one.relative_error == error < 1e-3
    with pytest.raises(ValueError, match="micro_batches must be at least 1 or None, got 0"):
        sharpjax.measure_precision(network_loss, PARAMS, updates, TEST, micro_batches=0)
