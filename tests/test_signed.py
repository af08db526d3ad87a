"""Lion and sign momentum against NumPy transcriptions, signed and saturated."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax

SHAPES = {"a": (7,), "b": (6, 5)}


def stream(count=6):
    rng = np.random.default_rng(0)
    return [{k: rng.standard_normal(s) ** 3 for k, s in SHAPES.items()} for _ in range(count)]


def saturated(tree, fraction):
    """S(u): u/τ cut to [-1, 1], τ the magnitude of rank ⌊n·fraction⌋; the sign at fraction 0."""
    if fraction == 0:
        return {k: np.sign(u) for k, u in tree.items()}
    magnitudes = np.sort(np.abs(np.concatenate([u.ravel() for u in tree.values()])))[::-1]
    tau = magnitudes[min(int(magnitudes.size * fraction), magnitudes.size - 1)]
    return {k: np.clip(u / tau, -1, 1) for k, u in tree.items()}


def mix(beta, m, g):
    return {k: beta * m[k] + (1 - beta) * g[k] for k in g}


def run(transformation):
    params = {k: jnp.ones(s) for k, s in SHAPES.items()}
    state, update = transformation.init(params), jax.jit(transformation.update)
    for g in stream():
        updates, state = update(jax.tree.map(jnp.asarray, g), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5, 1.0])
def test_lion(x64, fraction):
    x, m = {k: np.ones(s) for k, s in SHAPES.items()}, dict.fromkeys(SHAPES, 0.0)
    for g in stream():
        step = saturated(mix(0.8, m, g), fraction)
        m = mix(0.95, m, g)
        x = {k: x[k] - 0.1 * (step[k] + 0.01 * x[k]) for k in x}
    ours = run(sharpjax.lion(0.1, 0.8, 0.95, weight_decay=0.01, saturate=fraction))
    chex.assert_trees_all_close(ours, x, rtol=1e-9)


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5, 1.0])
def test_sign_momentum(x64, fraction):
    x, m = {k: np.ones(s) for k, s in SHAPES.items()}, dict.fromkeys(SHAPES, 0.0)
    for g in stream():
        m = mix(0.7, m, g)
        x = {k: x[k] - 0.1 * u for k, u in saturated(m, fraction).items()}
    chex.assert_trees_all_close(run(sharpjax.sign_momentum(0.1, 0.7, saturate=fraction)), x)


def test_unsaturated_lion_is_optax_lion():
    chex.assert_trees_all_close(run(sharpjax.lion(0.01)), run(optax.lion(0.01)), rtol=1e-6)


def test_clipping_a_signed_update_does_nothing():
    clipped = optax.chain(sharpjax.lion(0.1, weight_decay=0.0), sharpjax.coord_clip(0.3))
    chex.assert_trees_all_equal(run(clipped), run(sharpjax.lion(0.1, weight_decay=0.0)))


def test_all_zeros_stay_and_a_zero_threshold_is_the_sign():
    tx = sharpjax.signed.saturate_top_fraction(0.5)
    for u in ([0.0, 0.0, 0.0], [0.0, -3.0, 0.0]):
        updates, _ = tx.update(jnp.float32(u), optax.EmptyState())
        np.testing.assert_array_equal(updates, np.sign(u))


@pytest.mark.parametrize("call", [sharpjax.lion, sharpjax.sign_momentum])
def test_bad_input_names_the_argument_and_the_value(call):
    with pytest.raises(ValueError, match=r"learning_rate must be .* got -1.0"):
        call(-1.0)
    with pytest.raises(ValueError, match=r"saturate must be in \[0.0, 1.0\], got 2.0"):
        call(1.0, saturate=2.0)
