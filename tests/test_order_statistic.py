"""The integers behind the threshold: 64 bits in two words, ranks of n·fraction, and counts."""

import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sharpjax import _order_statistic as order
from sharpjax import _wide as words

WIDE = st.integers(0, 2**62)


def wide(n):
    return words.wide(n)


def number(words):
    return (int(words[0]) << 32) + int(words[1])


@hypothesis.settings(deadline=None)
@hypothesis.given(a=WIDE, b=WIDE)
@hypothesis.example(a=2**32 - 1, b=1)
@hypothesis.example(a=2**33 + 5, b=2**33 + 4)
def test_two_word_arithmetic(a, b):
    assert number(words.add(wide(a), wide(b))) == a + b
    assert number(words.halve(wide(a))) == a // 2
    assert bool(words.greater(wide(a), wide(b))) == (a > b)
    assert number(words.minimum(wide(a), wide(b))) == min(a, b)
    assert number(words.join(words.limbs(wide(a)))) == a


def test_limbs_sum_over_devices_beyond_a_word():
    devices, each = 2**16, 2**32 - 1
    limbs = words.limbs(wide(each)) * jnp.uint32(devices)
    assert number(words.join(limbs)) == devices * each


@pytest.mark.parametrize("n", [10, 2**24 + 1, 6 * 10**7, 2**31 + 11, 2**32 + 13, 7 * 10**12])
def test_rank_of_a_float_is_numpys(n):
    for fraction in (0, 0.05, 1 / 3, 0.5, 0.7, np.float64(0.29), 1):
        expected = min(int(np.floor(n * np.float64(fraction))), n - 1)
        assert number(words.rank_of(n, fraction)) == expected


@pytest.mark.parametrize("n", [10, 2**24 + 1, 6 * 10**7, 2**31 + 11, 2**32 + 13, 7 * 10**12])
def test_rank_of_a_float32_is_exact_up_to_its_own_rounding(n):
    rank = jax.jit(lambda f: words.rank_of(n, f))
    for fraction in np.float32([0, 1e-45, 1e-9, 0.05, 1 / 3, 0.5, 0.7, 0.9999999, 1]):
        ulp = int(np.spacing(fraction).view(np.uint32)) and float(np.spacing(fraction))
        numerator, denominator = float(fraction).as_integer_ratio()
        ceil = -(-n * numerator // denominator)
        upper_numerator, upper_denominator = (float(fraction) + ulp / 2).as_integer_ratio()
        floor_of_upper = n * upper_numerator // upper_denominator
        assert number(rank(fraction)) == min(ceil, floor_of_upper, n - 1)


def test_rank_of_a_traced_fraction_outside_is_taken_inside(x64):
    for dtype in (jnp.float32, jnp.float64):
        rank = jax.jit(lambda f: words.rank_of(2**33, f))
        outside = [(-1.0, 0), (np.nan, 0), (2.0, 2**33 - 1), (np.inf, 2**33 - 1)]
        for fraction, expected in outside:
            assert number(rank(dtype(fraction))) == expected


@pytest.mark.parametrize("limit", [4, 20, 50, 200])
def test_a_large_leaf_is_counted_in_parts(limit):
    x = jnp.arange(3 * 5 * 7, dtype=jnp.uint32).reshape(3, 5, 7)
    pivots = jnp.uint32([0, 50, 104])
    x = lax.bitcast_convert_type(x, jnp.float32)
    for shape in ((3, 5, 7), (105,), (15, 7)):
        count, least = order._count_leaf(
            x.reshape(shape), pivots, dtype=jnp.dtype("float32"), limit=limit
        )
        np.testing.assert_array_equal(count[0], [0, 0, 0])
        np.testing.assert_array_equal(count[1], [105, 55, 1])
        np.testing.assert_array_equal(least, pivots)


def test_more_leaves_of_one_size_than_the_sample_tells_apart(monkeypatch):
    monkeypatch.setattr(order, "_SMALL", 0)  # None is joined.
    tree = [jax.ShapeDtypeStruct((3,), jnp.float32)] * 1100
    (key,), _ = jax.eval_shape(lambda tree: order.search([tree], 0.5, jnp.dtype("float32")), tree)
    assert key.shape == () and key.dtype == jnp.uint32


@pytest.mark.parametrize("small", [0, order._SMALL], ids=["apart", "rows of one leaf"])
def test_a_key_for_each_group_whatever_is_joined(small, monkeypatch):
    monkeypatch.setattr(order, "_SMALL", small)
    rng = np.random.default_rng(0)
    tree = [rng.standard_normal(shape).astype(np.float32) for shape in [(3, 4), (12,), (5,), (12,)]]
    keys, _ = jax.jit(lambda t: order.search([[x] for x in t], 0.25, jnp.dtype("float32")))(tree)
    for x, key in zip(tree, keys, strict=True):
        assert key == np.sort(np.abs(x).view(np.uint32).ravel())[::-1][x.size // 4]


def test_leaves_of_one_shape_share_their_kernels():
    """XLA:CPU compiles a kernel for each leaf where one begins with a slice at its own place."""

    def kernels(count):
        tree = [jax.ShapeDtypeStruct((64, 300), jnp.float32)] * count
        keys = lambda tree: order.threshold_keys([[x] for x in tree], 0.05)  # noqa: E731
        computations = re.split(r"\n\n", jax.jit(keys).lower(tree).compile().as_text())
        fused = [c.split("\n", 1)[1] for c in computations if c.startswith("%fused_computation")]
        return len({re.sub(r"(?<=[a-z_])[._\d]+|metadata=\{[^}]*\}", "", c) for c in fused})

    assert kernels(6) == kernels(3)


SMOOTH = {
    "heavy tail": lambda rng, n: rng.standard_normal(n) * np.exp(2 * rng.standard_normal(n)),
    "normal": lambda rng, n: rng.standard_normal(n),
    "uniform": lambda rng, n: rng.random(n),
    "Cauchy": lambda rng, n: rng.standard_cauchy(n),
}
search = jax.jit(lambda x, fraction: order.search([[x]], fraction, jnp.dtype(x.dtype)))


def check_search(x, fraction):
    """Exact, against a sort of the bits; how many passes it took."""
    (key,), passes = search(x, fraction)
    keys = np.sort(np.abs(x).view(f"u{x.dtype.itemsize}"))[::-1]
    assert key == keys[min(int(np.floor(x.size * float(fraction))), x.size - 1)]
    return int(passes)


@pytest.mark.parametrize("name", SMOOTH)
def test_few_passes_on_smooth_distributions(name):
    rng = np.random.default_rng(0)
    passes = []
    for n in (1000, 200_000, 1_000_000):
        x = SMOOTH[name](rng, n).astype(np.float32)
        passes += [check_search(x, np.float32(k / 64)) for k in (1, 3, 6, 13, 20, 32, 45, 58)]
    assert np.mean(passes) <= 4
    assert np.quantile(passes, 0.9) <= 6 and max(passes) <= 9


def test_a_tie_that_the_sample_sees_takes_one_pass():
    zeros = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    zeros[::2] = 0
    for x, fraction in ((np.full(100_000, 0.37, np.float32), 0.25), (zeros, 0.75)):
        assert check_search(x, np.float32(fraction)) == 1


def adversaries(n):
    rng = np.random.default_rng(0)
    geometric = np.ldexp(1.0, -(np.arange(n) % 250) + 120)
    hidden = rng.standard_normal(n)
    hidden[:: order.stride_of(n)] = 1e-30  # All that the sample sees.
    return {
        "equal": np.full(n, 0.37),
        "two values": np.where(rng.random(n) < 0.2, 1.0, -1e-3),
        "geometric": geometric,
        "hidden from the sample": hidden,
        "every exponent": np.linspace(0, 0x7F800000, n).astype(np.uint32).view(np.float32),
        "few ties": np.round(rng.standard_normal(n), 1),
        "clustered": np.where(np.arange(n) % 2, 1 + rng.random(n) * 1e-5, 1e20 * rng.random(n)),
    }


@pytest.mark.parametrize("name", adversaries(1000))
def test_never_more_passes_than_the_schedule(name):
    x = adversaries(200_000)[name].astype(np.float32)
    for fraction in np.float32([0, 0.05, 0.2, 0.5, 1]):
        assert check_search(x, fraction) <= 18
        with np.errstate(over="ignore"):
            assert check_search(x.astype(np.float16), fraction) <= 10


def test_more_leaves_are_joined_on_one_accelerator(monkeypatch):
    leaves = [jnp.zeros((2**7, 2**8)), jnp.zeros(2**15), jnp.zeros(2**23)]
    assert len(order._merged([leaves], jnp.float32)[0]) == 3
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found, owners = order._merged([leaves], jnp.float32)
    assert [x.size for x in found] == [2**23, 2**16] and len(owners) == 2
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert len(order._merged([leaves], jnp.float32)[0]) == 3
