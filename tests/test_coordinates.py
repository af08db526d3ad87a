"""Samples of coordinates: uniform, and in strata whose weights stand for all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpjax.coordinates import sample_coordinates, stratified_coordinates, take_coordinates


def test_coordinates_are_a_uniform_sample_and_all_when_few():
    tree = {"a": np.zeros((3, 4)), "b": np.zeros(0), "c": np.zeros(500)}
    assert [list(x) for x in jax.tree.leaves(sample_coordinates(tree, 512, 1))] == [
        list(range(12)),
        [],
        list(range(500)),
    ]
    drawn = jax.tree.leaves(sample_coordinates(tree, 100, 1))
    assert sum(map(len, drawn)) == 100
    assert all((np.diff(x) > 0).all() for x in drawn)
    assert drawn[0].max(initial=0) < 12 and drawn[2].max() < 500
    again = jax.tree.leaves(sample_coordinates(tree, 100, 1))
    assert all((x == y).all() for x, y in zip(drawn, again, strict=True))
    values = {"a": jnp.arange(12.0).reshape(3, 4), "b": jnp.zeros(0), "c": jnp.arange(500.0)}
    at = sample_coordinates(values, 512, 0)
    np.testing.assert_array_equal(take_coordinates(values, at), [*range(12), *range(500)])


def gradient():
    draw = np.random.default_rng(0)
    heavy = lambda *shape: np.exp(3 * draw.normal(size=shape)).astype(np.float32)  # noqa: E731
    return {"w": heavy(40, 50), "empty": np.zeros((0, 3), np.float32), "b": -heavy(500)}


def test_strata_are_those_of_a_sort_and_weights_stand_for_all():
    tree = gradient()
    fractions = (0.01, 0.1)
    sample = stratified_coordinates(tree, 20, 3, fractions=fractions)
    values = np.abs(np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]))
    ranks = np.argsort(np.argsort(-values))
    expected = np.digitize(ranks, [25, 250])  # Of 2,500: the top 1 %, to 10 %, and the rest.
    sizes = np.bincount(expected)
    starts = {"b": 0, "empty": 500, "w": 500}
    drawn = []
    for name, start in starts.items():
        at, stratum = sample.coordinates[name], sample.strata[name]
        assert (np.diff(at) > 0).all()
        np.testing.assert_array_equal(stratum, expected[start + at])
        np.testing.assert_allclose(sample.weights[name], sizes[stratum] / 20)
        drawn += [*stratum]
    np.testing.assert_array_equal(np.bincount(drawn), [20, 20, 20])
    assert sum(x.sum() for x in jax.tree.leaves(sample.weights)) == pytest.approx(2500)
    again = stratified_coordinates(tree, 20, 3, fractions=fractions)
    jax.tree.map(np.testing.assert_array_equal, sample.coordinates, again.coordinates)


def test_weighted_means_are_unbiased():
    tree = gradient()
    whole = np.mean(np.concatenate([np.ravel(np.abs(x)) for x in jax.tree.leaves(tree)]))
    means = []
    for seed in range(80):
        sample = stratified_coordinates(tree, 10, seed, fractions=(0.01, 0.1))
        weights = np.concatenate(jax.tree.leaves(sample.weights))
        values = np.abs(take_coordinates(tree, sample.coordinates))
        means.append(np.average(values, weights=weights))
    assert abs(np.mean(means) - whole) < 4 * np.std(means) / 80**0.5


def test_ties_go_to_one_stratum_and_small_strata_are_taken_whole():
    tree = {"w": jnp.array([0.0] * 90 + [5.0, np.nan] + [1.0] * 8, jnp.bfloat16)}
    sample = stratified_coordinates(tree, 50, 0, fractions=(0.02, 0.05, 0.5))
    at = {k: sample.coordinates["w"][sample.strata["w"] == k] for k in range(4)}
    # NaN ranks first. 1.0 ties with the boundaries at 2 % and 5 %: it belongs below both.
    assert [*at[0]] == [90, 91] and not len(at[1])
    assert [*at[2]] == [*range(92, 100)]
    assert len(at[3]) == 50 and at[3].max() < 90
    assert set(sample.weights["w"][sample.strata["w"] == 3]) == {90 / 50}
    assert set(sample.weights["w"][sample.strata["w"] < 3]) == {1.0}


def test_arguments_are_checked():
    tree = {"w": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match="per_stratum must be a positive integer, got 0"):
        stratified_coordinates(tree, 0, 0)
    for wrong in ((0.1, 0.1), (0.0,), (0.2, 0.1), (1.0,)):
        with pytest.raises(ValueError, match="fractions must ascend within"):
            stratified_coordinates(tree, 1, 0, fractions=wrong)
    with pytest.raises(TypeError, match=r"gradient\['w'\] has dtype int"):
        stratified_coordinates({"w": np.ones(3, np.int32)}, 1, 0)
