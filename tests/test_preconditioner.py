"""The preconditioner against what the optimizer itself divides by, and the formulas in NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax

SHAPES = {"bias": (5,), "kernel": (6, 4), "wide": (3, 4, 7), "square": (4, 4)}
STEPS = 5


def gradients():
    rng = np.random.default_rng(0)
    return [
        {k: jnp.asarray(rng.standard_normal(s) ** 3, jnp.float32) for k, s in SHAPES.items()}
        for _ in range(STEPS)
    ]


def run(transformation):
    params = jax.tree.map(jnp.ones_like, gradients()[0])
    state = transformation.init(params)
    for g in gradients():
        updates, state = transformation.update(g, state, params)
    return g, updates, state


# Transformations that divide the gradient itself: P is gradient / update.
BARE = {
    "rmsprop": (optax.scale_by_rms(0.9, eps=1e-4), {"eps": 1e-4}),
    "centred": (optax.scale_by_stddev(0.9, eps=1e-4), {"eps": 1e-4}),
    "adam": (optax.scale_by_adam(0.0, 0.95, 1e-3), {"b2": 0.95, "eps": 1e-3}),
    "amsgrad": (optax.scale_by_amsgrad(0.0, 0.95, 1e-3), {"b2": 0.95, "eps": 1e-3}),
    "ours": (sharpjax.optimizers.scale_by_clipped_adam(0.0, 0.95, 1e-3), {"b2": 0.95, "eps": 1e-3}),
    "factored": (optax.scale_by_factored_rms(min_dim_size_to_factor=4), {"params": True}),
    "in part": (optax.scale_by_factored_rms(min_dim_size_to_factor=5), {"params": True}),
    "our factored": (sharpjax.optimizers.scale_by_clipped_factored_rms(), {}),
}


@pytest.mark.parametrize("name", BARE)
def test_it_is_what_the_gradient_is_divided_by(name):
    transformation, given = BARE[name]
    grads, updates, state = run(transformation)
    if "params" in given:
        given = {"params": grads}
    found = jax.jit(lambda state: sharpjax.preconditioner(state, **given))(state)
    expected = jax.tree.map(jnp.divide, grads, updates)
    chex.assert_trees_all_close(found, expected, rtol=1e-4)


def test_adams_moves_are_the_first_moment_over_it(x64):
    _, updates, state = run(optax.adam(0.1, 0.8, 0.9, 1e-3))
    found = sharpjax.preconditioner(state, b2=0.9, eps=1e-3)
    for key in SHAPES:
        stream = [np.asarray(g[key], np.float64) for g in gradients()]
        m = v = 0.0
        for g in stream:
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        dense = np.sqrt(v / (1 - 0.9**STEPS)) + 1e-3
        np.testing.assert_allclose(found[key], dense, rtol=1e-5)
        move = -0.1 * m / (1 - 0.8**STEPS) / dense
        np.testing.assert_allclose(updates[key], move, rtol=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.chain(optax.clip(1e9), tx, optax.scale(2.0)),
        lambda tx: optax.with_extra_args_support(tx),
        lambda tx: optax.apply_if_finite(tx, 3),
        lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
        lambda tx: sharpjax.pseudo_updates({"adam": tx, "sgd": sharpjax.sgd(1.0)}),
    ],
)
def test_it_is_found_inside_other_states(wrap):
    expected = sharpjax.preconditioner(run(optax.adam(1.0))[2])
    found = sharpjax.preconditioner(run(wrap(optax.adam(1.0)))[2])
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_injected_masked_and_partitioned():
    expected = sharpjax.preconditioner(run(optax.adam(1.0))[2])
    injected = run(optax.inject_hyperparams(optax.adam)(learning_rate=1.0))[2]
    found = sharpjax.preconditioner(injected)
    chex.assert_trees_all_close(found, expected, rtol=1e-4)  # Its b2 is a float32.

    mask = {"bias": False, "kernel": True, "wide": True, "square": True}
    found = sharpjax.preconditioner(run(optax.masked(optax.adam(1.0), mask))[2])
    assert isinstance(found.pop("bias"), optax.MaskedNode)
    chex.assert_trees_all_close(found, {k: expected[k] for k in found})

    labels = {"bias": "sgd", "kernel": "one", "wide": "two", "square": "one"}
    parts = {"sgd": optax.sgd(1.0), "one": optax.adam(1.0), "two": optax.adamw(0.1)}
    found = sharpjax.preconditioner(run(optax.partition(parts, labels))[2])
    assert isinstance(found.pop("bias"), optax.MaskedNode)
    chex.assert_trees_all_close(found, {k: expected[k] for k in found})

    factored = {**parts, "two": optax.scale_by_factored_rms(min_dim_size_to_factor=4)}
    grads, updates, state = run(optax.partition(factored, labels))
    found = sharpjax.preconditioner(state, grads)
    expected = grads["wide"] / updates["wide"]
    chex.assert_trees_all_close(found["wide"], expected, rtol=1e-4)


def test_where_there_is_none_or_too_much():
    for transformation in (optax.sgd(1.0, momentum=0.9), optax.identity(), sharpjax.sgd(1.0)):
        with pytest.raises(ValueError, match="optimizer_state holds no preconditioner"):
            sharpjax.preconditioner(run(transformation)[2])
    with pytest.raises(ValueError, match="several preconditioners"):
        sharpjax.preconditioner(run(optax.chain(optax.adam(1.0), optax.adam(1.0)))[2])
    with pytest.raises(ValueError, match="give params"):
        sharpjax.preconditioner(run(optax.scale_by_factored_rms())[2])
    with pytest.raises(ValueError, match=r"b2 must be .* got 1.0"):
        sharpjax.preconditioner(run(optax.adam(1.0))[2], b2=1.0)
