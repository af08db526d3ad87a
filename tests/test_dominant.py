"""Shares and projections against planted eigenvectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpjax.directions import measure_directions
from sharpjax.dominant import dominant_share, without_dominant
from sharpjax.spectrum import Spectrum, lanczos_spectrum
from tests.cases import quadratic

KEY = jax.random.key(0)
ONE = jnp.ones((1, 1))
VALUES = np.array([-1.0, 0.1, 0.5, 2.0, 20.0, 50.0])


def split(x):
    return {"a": jnp.asarray(x[:2]), "b": jnp.asarray(x[2:])}


def join(tree):
    return np.concatenate([tree["a"], tree["b"]])


@pytest.fixture(scope="module")
def problem():
    """A quadratic with these eigenvalues, its eigenvectors as columns, and its spectrum."""
    with jax.enable_x64(True):
        vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
        hessian = vectors * VALUES @ vectors.T
        gradient = np.arange(1.0, 7.0)
        loss = quadratic(jnp.array(hessian), jnp.array(gradient))
        yield loss, hessian, gradient, vectors, spectrum_of(loss)


@pytest.fixture
def planted(problem, x64):
    return problem


def spectrum_of(loss, vectors=2, **options):
    return lanczos_spectrum(
        loss, split(np.zeros(6)), ONE, KEY, probes=1, steps=6, vectors=vectors, **options
    )


def test_shares_are_the_planted_ones(planted):
    *_, vectors, spectrum = planted
    weights = np.array([0.5, 0.0, 0.3, -0.1, 0.7, -0.4])
    updates = {
        "mixed": split(1e-6 * vectors @ weights),
        "top": split(-7.0 * vectors[:, 5]),
        "rest": split(vectors[:, 0]),
        "zero": split(np.zeros(6)),
        "nan": split(np.full(6, np.nan)),
        "huge": split(1e200 * vectors @ weights),
    }
    share = dominant_share(updates, spectrum)
    expected = weights[[5, 4]] ** 2 / (weights @ weights)
    np.testing.assert_allclose(share["mixed"], expected, rtol=1e-9)
    np.testing.assert_allclose(share["huge"], expected, rtol=1e-9)
    np.testing.assert_allclose(share["top"], [1, 0], atol=1e-12)
    np.testing.assert_allclose(share["rest"], [0, 0], atol=1e-12)
    assert np.isnan(share["zero"]).all() and np.isnan(share["nan"]).all()
    # A spectrum may be handed to a compiled function, and a float32 update measured in float64's.
    narrow = jax.tree.map(lambda x: x.astype(jnp.float32), updates["mixed"])
    compiled = jax.jit(dominant_share)({"mixed": narrow}, spectrum)["mixed"]
    np.testing.assert_allclose(compiled, expected, rtol=1e-5)


def test_sharpness_and_decrease_with_and_without_the_dominant_part(planted):
    loss, _, gradient, vectors, spectrum = planted
    update = split(-gradient)
    rest = without_dominant(update, spectrum)
    np.testing.assert_allclose(join(rest) @ vectors[:, 4:], 0, atol=1e-12)
    bulk = vectors[:, :4]
    np.testing.assert_allclose(join(rest), -bulk @ (bulk.T @ gradient), rtol=1e-9)
    twice = without_dominant(rest, spectrum)
    np.testing.assert_allclose(join(twice), join(rest), rtol=1e-12)
    point = split(np.zeros(6))
    found = measure_directions(loss, point, {"whole": update, "rest": rest}, ONE)
    for name, kept in (("whole", slice(0, 6)), ("rest", slice(0, 4))):
        g = vectors[:, kept].T @ gradient
        sharpness = g @ (VALUES[kept] * g) / (g @ g)
        np.testing.assert_allclose(found[name].sharpness, sharpness, rtol=1e-9)
        np.testing.assert_allclose(found[name].slope, -np.sqrt(g @ g), rtol=1e-9)
        if sharpness > 0:
            decrease = (g @ g) ** 2 / (2 * g @ (VALUES[kept] * g))
            np.testing.assert_allclose(found[name].predicted_decrease, decrease, rtol=1e-9)


def test_preconditioned_vectors_are_in_their_own_coordinates(planted):
    loss, hessian, gradient, *_ = planted
    scales = np.array([0.1, 2.0, 30.0, 1.0, 0.5, 4.0])
    vectors = np.linalg.eigh(hessian / np.sqrt(np.outer(scales, scales)))[1]
    spectrum = spectrum_of(loss, preconditioner=split(scales))
    inside = np.sqrt(scales) * gradient
    expected = (vectors[:, [5, 4]].T @ inside) ** 2 / (inside @ inside)
    share = dominant_share({"gradient": split(gradient)}, spectrum)["gradient"]
    np.testing.assert_allclose(share, expected, rtol=1e-8)
    rest = join(without_dominant(split(gradient), spectrum))
    top = vectors[:, 4:]
    np.testing.assert_allclose(np.sqrt(scales) * rest, inside - top @ (top.T @ inside), rtol=1e-8)


def test_a_vector_that_was_not_found_has_no_share():
    # Rank one: the start's Krylov space has two dimensions.
    loss = lambda p, batch: batch.mean() * jnp.sum(p["a"]) ** 2  # noqa: E731
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    spectrum = lanczos_spectrum(loss, params, ONE, KEY, probes=1, steps=4, vectors=3)
    share = dominant_share({"u": params}, spectrum)["u"]
    np.testing.assert_allclose(share[0], 3 / 5, rtol=1e-5)
    assert np.isnan(share).tolist() == [False, False, True]
    assert np.isfinite(without_dominant(params, spectrum)["b"]).all()


def test_arguments_are_checked(planted):
    bare = Spectrum(np.zeros((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 6)
    update = split(np.ones(6))
    with pytest.raises(ValueError, match="vectors=k"):
        dominant_share({"u": update}, bare)
    with pytest.raises(ValueError, match="vectors=k"):
        without_dominant(update, bare)
    *_, spectrum = planted
    with pytest.raises(ValueError, match=r"updates\['u'\]\['a'\] has shape"):
        dominant_share({"u": {"a": np.ones(3), "b": np.ones(4)}}, spectrum)
    with pytest.raises(ValueError, match="at least one"):
        dominant_share({}, spectrum)
    with pytest.raises(TypeError, match="int"):
        without_dominant({"a": np.ones(2, int), "b": np.ones(4)}, spectrum)
