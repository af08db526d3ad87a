"""Against NumPy, which sorts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpjax.magnitudes import magnitude_histogram, top_overlap, top_share


def flat(tree):
    return np.abs(
        np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])
    )


def heavy(seed, dtype=np.float32, levels=None):
    """A tree of heavy-tailed numbers, with many ties if there are `levels`."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_t(2, shape)  # noqa: E731
    tree = {"a": draw(7, 5, 3), "b": draw(41), "c": draw(), "d": draw(2, 30)}
    if levels:
        tree = jax.tree.map(lambda x: np.round(x * levels) / levels, tree)
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def largest(tree, fraction):
    """Indices of the ⌊n·fraction⌋ largest, ties by position."""
    magnitudes = flat(tree)
    order = np.argsort(-magnitudes, kind="stable")
    return order[: int(np.floor(len(magnitudes) * fraction))]


@pytest.mark.parametrize("dtype", (jnp.float32, jnp.bfloat16))
@pytest.mark.parametrize("count", (1, 13))
def test_histogram(dtype, count):
    tree = heavy(0, dtype)
    edges = np.linspace(0.05, 3, count).astype(np.float32).astype(np.float64)
    counts = magnitude_histogram(tree, edges)
    expected = np.histogram(flat(tree), [0, *edges, np.inf])[0]
    np.testing.assert_array_equal(counts, expected)
    assert counts.dtype == np.int64 and counts.sum() == 207


def test_a_magnitude_at_an_edge_is_above_it_and_nan_in_the_last_bin():
    x = jnp.array([0.5, -1.0, 1.0, jnp.nan, jnp.inf, 0.0])
    assert magnitude_histogram(x, [0.5, 1.0, 2.0]).tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("fraction", (0.0, 0.05, 0.77, 1.0))
@pytest.mark.parametrize("levels", (None, 1))
@pytest.mark.parametrize("scale", (1.0, 1e-30))
def test_top_share(fraction, levels, scale):
    tree = jax.tree.map(lambda x: x * np.float32(scale), heavy(1, levels=levels))
    magnitudes = flat(tree)
    expected = np.sum(magnitudes[largest(tree, fraction)] ** 2) / np.sum(magnitudes**2)
    np.testing.assert_allclose(top_share(tree, fraction), expected, rtol=1e-5)


@pytest.mark.parametrize("fraction", (0.01, 0.3, 1.0))
@pytest.mark.parametrize("levels", (None, 1))
def test_top_overlap(fraction, levels):
    updates = {"z": heavy(2, levels=levels), "a": heavy(3, levels=levels), "m": heavy(4)}
    updates["sign"] = jax.tree.map(jnp.sign, updates["z"])
    updates["again"] = jax.tree.map(lambda x: -3e-20 * x, updates["z"])
    found = np.asarray(top_overlap(updates, fraction))
    sets = [set(largest(u, fraction).tolist()) for u in updates.values()]
    expected = [[len(a & b) / len(a) for b in sets] for a in sets]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[0, 4] == found[0, 0] == 1


def test_types_may_differ_under_x64(x64):
    updates = {"a": heavy(2, np.float64), "b": heavy(2, np.float32)}
    np.testing.assert_allclose(top_overlap(updates, 0.1), 1)
    share = top_share(updates["a"], 0.1)
    assert share.dtype == jnp.float64
    magnitudes = flat(updates["a"])
    expected = np.sum(magnitudes[largest(updates["a"], 0.1)] ** 2) / np.sum(magnitudes**2)
    np.testing.assert_allclose(share, expected, rtol=1e-12)


def test_what_cannot_be_had_is_nan():
    tree = heavy(5)
    broken = tree | {"b": tree["b"].at[0].set(jnp.nan)}
    zero = jax.tree.map(jnp.zeros_like, tree)
    assert np.isnan(top_share(broken, 0.1)) and np.isnan(top_share(zero, 0.1))
    found = np.isnan(top_overlap({"whole": tree, "broken": broken, "zero": zero}, 0.1))
    assert found.tolist() == [[False, True, True], [True, True, True], [True, True, True]]
    assert np.all(np.isnan(top_overlap({"whole": tree}, 0.001)))


def test_both_may_be_jitted():
    tree = heavy(6)
    jitted = jax.jit(lambda t: (top_share(t, 0.1), top_overlap({"a": t, "b": t}, 0.1)))(tree)
    np.testing.assert_allclose(jitted[0], top_share(tree, 0.1), rtol=1e-6)
    np.testing.assert_allclose(jitted[1], 1)


def test_bad_input_names_the_argument_and_the_value():
    tree = heavy(7)
    for edges in ([[1.0]], [2.0, 1.0], [1.0, np.inf]):
        with pytest.raises(ValueError, match="edges must be finite and ascending"):
            magnitude_histogram(tree, edges)
    with pytest.raises(ValueError, match=r"fraction must be in \[0.0, 1.0\], got 2.0"):
        top_share(tree, 2.0)
    with pytest.raises(ValueError, match="updates must name at least one"):
        top_overlap({}, 0.1)
    with pytest.raises(ValueError, match=r"updates\['b'\] has no leaf \['a'\]"):
        top_overlap({"a": tree, "b": {"b": tree["b"]}}, 0.1)
    with pytest.raises(TypeError, match="must be real floating point"):
        top_share({"a": jnp.arange(3)}, 0.1)
