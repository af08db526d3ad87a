"""Standard errors over micro-batches, against the spread of the same measurement on fresh data."""

import jax
import jax.numpy as jnp
import numpy as np

import sharpjax

REPEATS, COUNT, SIZE = 400, 6, 4


def outputs(w, batch):
    return jnp.tanh(batch["x"] @ w)


def of_outputs(y, batch):
    return jnp.mean((y - batch["y"]) ** 2)


def loss(w, batch):
    return of_outputs(outputs(w, batch), batch)


def signed(w, batch):
    """Two parts: the examples whose target is positive, and the others."""
    each = (outputs(w, batch) - batch["y"]) ** 2 / SIZE
    positive = batch["y"] > 0
    return jnp.stack([jnp.sum(each * positive), jnp.sum(each * ~positive)])


def test_errors_are_the_spread_over_data(x64):
    w, u = jnp.array([0.6, -0.3, 0.2]), jnp.array([1.0, 0.5, -2.0])
    updates, key = {"u": u}, jax.random.key(0)

    def measure(batches):
        """Name -> (numbers, their standard errors)."""
        here = loss, w, updates, batches
        stats = sharpjax.measure_directions(*here)["u"]
        parts = sharpjax.measure_parts(signed, w, updates, batches)["u"]
        split = sharpjax.gauss_newton_sharpness(outputs, of_outputs, w, updates, batches)["u"]
        diagonal = sharpjax.exact_diagonal(loss, w, batches, jnp.arange(3))
        ranks = sharpjax.sharpness_by_rank(loss, w, updates, w, (0.4, 1.0), batches)["u"]
        span = sharpjax.measure_span(loss, w, {"u": u, "w": w}, batches)
        blocks = sharpjax.block_sharpness(*here, groups=lambda path: 0)["u"]
        return {
            "slope": (stats.slope, stats.slope_se),
            "sharpness": (stats.sharpness, stats.sharpness_se),
            "parts' slope": (parts.slope, parts.slope_se),
            "parts' sharpness": (parts.sharpness, parts.sharpness_se),
            "Gauss-Newton": (split.gauss_newton, split.gauss_newton_se),
            "residual": (split.residual, split.residual_se),
            "diagonal": (diagonal.value, diagonal.standard_error),
            "by rank": (ranks.sharpness, ranks.sharpness_se),
            "span": (span.curvature, span.curvature_se),
            "blocks": (blocks.matrix, blocks.matrix_se),
            "ratio": (
                stats.step_ratio,
                jnp.abs(stats.step_ratio)
                * (
                    jnp.abs(stats.slope_se / stats.slope)
                    + jnp.abs(stats.sharpness_se / stats.sharpness)
                ),
            ),
        }

    keys = jax.random.split(key)
    data = {
        "x": jax.random.normal(keys[0], (REPEATS, COUNT, SIZE, 3)),
        "y": jax.random.normal(keys[1], (REPEATS, COUNT, SIZE)),
    }
    found = jax.jit(jax.vmap(measure))(data)
    for name, (values, errors) in found.items():
        spread = np.std(values, axis=0, ddof=1)
        if name == "ratio":  # A bound, and the quotient's tails are long.
            inside = np.abs(values - np.median(values)) < 2 * errors
            assert np.mean(inside) > 0.9
            continue
        stated = np.sqrt(np.mean(np.square(errors), axis=0))
        # 400 repetitions give a deviation to 4 %.
        np.testing.assert_allclose(stated, spread, rtol=0.15, err_msg=name)
