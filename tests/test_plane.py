"""Quadratics, where the loss over a plane is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpjax.plane import loss_plane
from tests.cases import network, quadratic, random_like

ONE = jnp.ones((1, 1))
RNG = np.random.default_rng(0)
ROOT = RNG.normal(size=(5, 5))
HESSIAN, GRADIENT = ROOT @ ROOT.T + np.eye(5), RNG.normal(size=5)
POINT, A, B = RNG.normal(size=(3, 5))
A, B = (v * -np.sign(v @ (GRADIENT + HESSIAN @ POINT)) for v in (A, B))


def tree(vector, dtype=np.float64):
    return {"a": np.asarray(vector[:2], dtype), "b": np.asarray(vector[2:], dtype)}


def loss(params, batch):
    return quadratic(HESSIAN, GRADIENT)(params, batch)


def oracle(x, y, a=A, b=B):
    """The quadratic itself, at the points of an orthonormal basis by QR."""
    q, r = np.linalg.qr(np.stack([a, b], axis=1))
    q = q * np.sign(np.diag(r))
    there = POINT + x[..., None] * q[:, 0] + y[..., None] * q[:, 1]
    return there @ GRADIENT + np.sum(there @ HESSIAN * there, -1) / 2, np.sign(np.diag(r)) * r.T


def test_a_quadratic_in_closed_form(x64):
    plane = loss_plane(loss, tree(POINT), tree(A), tree(B), jnp.ones((3, 2)), points=7)
    expected, coordinates = oracle(*np.meshgrid(plane.x, plane.y))
    np.testing.assert_allclose(plane.losses, expected, rtol=1e-10)
    np.testing.assert_allclose([plane.of_a, plane.of_b], coordinates, rtol=1e-10, atol=1e-12)
    assert plane.losses.shape == (7, 7) and plane.losses.dtype == jnp.float64
    assert np.hypot(*plane.of_b) == pytest.approx(np.linalg.norm(B))


def test_the_default_extent_holds_where_the_quadratics_are_back(x64):
    plane = loss_plane(loss, tree(POINT), tree(A), tree(B), ONE, points=3)
    slope = GRADIENT + HESSIAN @ POINT
    for update, coordinates in ((A, plane.of_a), (B, plane.of_b)):
        newton = -(slope @ update) / (update @ HESSIAN @ update)
        assert newton > 0
        for end, axis in zip(2 * newton * coordinates, (plane.x, plane.y), strict=True):
            assert axis[0] < end < axis[-1]
    assert plane.x[0] < 0 < plane.x[-1] and plane.y[0] < 0 < plane.y[-1]


@pytest.mark.parametrize("scale", (1e-20, 1e20))
def test_the_updates_lengths_do_not_matter(scale):
    params, a, b = (tree(v, np.float32) for v in (POINT, A, B))
    f = lambda p, batch: quadratic(jnp.float32(HESSIAN), jnp.float32(GRADIENT))(p, batch)  # noqa: E731
    plain = loss_plane(f, params, a, b, ONE, points=5)
    scaled = jax.tree.map(lambda x: np.float32(scale) * x, a)
    other = loss_plane(f, params, scaled, b, ONE, points=5)
    np.testing.assert_allclose(other.losses, plain.losses, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other.of_a, scale * plain.of_a, rtol=1e-5)
    np.testing.assert_allclose(other.of_b, plain.of_b, rtol=1e-5)


def test_a_network_with_arguments_and_an_auxiliary_output():
    f, params, batch = network(jax.random.key(0))
    batches = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), batch)
    a, b = (random_like(jax.random.key(i), params) for i in (1, 2))
    g = lambda p, batch, scale: (scale * f(p, batch), {"unused": 0})  # noqa: E731
    ends = (0.0, 0.5, -1.0, 0.25)
    plane = loss_plane(g, params, a, b, batches, points=2, extent=ends, args=(2.0,), has_aux=True)
    np.testing.assert_allclose([*plane.x, *plane.y], ends)
    flat = lambda t: np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)])  # noqa: E731
    u = flat(a) / np.linalg.norm(flat(a))
    rest = flat(b) - (flat(b) @ u) * u
    v = rest / np.linalg.norm(rest)
    leaves, structure = jax.tree.flatten(params)
    offsets = np.cumsum([x.size for x in leaves])[:-1]
    for i, y in enumerate(plane.y):
        for j, x in enumerate(plane.x):
            parts = np.split(flat(params) + float(x) * u + float(y) * v, offsets)
            there = structure.unflatten(
                [p.reshape(q.shape) for p, q in zip(parts, leaves, strict=True)]
            )
            np.testing.assert_allclose(plane.losses[i, j], 2 * f(there, batch), rtol=1e-5)


def test_a_plane_without_curvature_holds_the_updates():
    f = lambda p, batch: batch.mean() * (p[0] + p[1])  # noqa: E731
    a, b = jnp.array([-2.0, 0.0]), jnp.array([-1.0, -3.0])
    plane = loss_plane(f, jnp.zeros(2), a, b, ONE, points=2)
    np.testing.assert_allclose([plane.of_a, plane.of_b], [[2, 0], [1, 3]], rtol=1e-6)
    np.testing.assert_allclose(plane.x, [-0.75, 2.75])
    np.testing.assert_allclose(plane.y, [-0.75, 3.75])
    np.testing.assert_allclose(plane.losses, [[1.5, -2.0], [-3.0, -6.5]], rtol=1e-5)


def test_bad_input_names_the_argument_and_the_value():
    f = lambda p, batch: batch.mean() * jnp.sum(p**2)  # noqa: E731
    x, a, b = jnp.ones(3), jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 0.0, 0.0])
    for parallel in (a, -2e-3 * a):
        with pytest.raises(ValueError, match="a and b must span a plane, got parallel updates"):
            loss_plane(f, x, a, parallel, ONE)
    for value in (0.0, jnp.nan):
        with pytest.raises(ValueError, match="b must be finite and not zero, got an update of"):
            loss_plane(f, x, a, jnp.full(3, value), ONE)
    with pytest.raises(ValueError, match=r"b has shape \(2,\), but params has shape \(3,\)"):
        loss_plane(f, x, a, jnp.ones(2), ONE)
    with pytest.raises(ValueError, match="points must be at least 2, got 1"):
        loss_plane(f, x, a, b, ONE, points=1)
    for extent in (0.0, -1.0, (1.0, 2.0), (0.0, 1.0, 1.0, 0.0), jnp.inf):
        with pytest.raises(ValueError, match="extent must be a distance > 0 or ascending ends"):
            loss_plane(f, x, a, b, ONE, extent=extent)
