"""Gradient descent and Nesterov's momentum against NumPy transcriptions, and against optax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax

GRADIENTS = np.random.default_rng(0).standard_normal((5, 7))


def run(transformation):
    params = jnp.ones(7)
    state, update = transformation.init(params), jax.jit(transformation.update)
    for g in GRADIENTS:
        updates, state = update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_gradient_descent_has_no_momentum(x64):
    chex.assert_trees_all_close(
        run(sharpjax.gradient_descent(0.1)), 1 - 0.1 * GRADIENTS.sum(0), rtol=1e-12
    )


def test_nesterov_looks_ahead(x64):
    x, m = np.ones(7), np.zeros(7)
    for g in GRADIENTS:
        m = 0.8 * m + 0.2 * g
        x = x - 0.1 * (0.8 * m + 0.2 * g)
    chex.assert_trees_all_close(run(sharpjax.nesterov(0.1, 0.8)), x, rtol=1e-12)
    chex.assert_trees_all_close(run(optax.sgd(0.02, 0.8, nesterov=True)), x, rtol=1e-12)


@pytest.mark.parametrize("make", [sharpjax.gradient_descent, sharpjax.nesterov])
def test_a_bad_argument_is_named(make):
    with pytest.raises(ValueError, match=r"learning_rate.*-1"):
        make(-1.0)
    with pytest.raises(ValueError, match=r"momentum.*1.0"):
        sharpjax.nesterov(0.1, 1.0)
