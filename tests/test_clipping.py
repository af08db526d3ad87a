"""Coordinate clipping against a sort by NumPy, and what must hold of it whatever the input."""

import json

import chex
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized

from benchmarks.__main__ import main
from sharpjax.clipping import clip_top_fraction, coord_clip, top_fraction_threshold
from tests.devices import on_eight_devices

FRACTIONS = (0.0, 0.05, 0.3, 0.5, 1.0)


def sorted_threshold(tree, fraction):
    """The oracle: sort all magnitudes as float64, NaN first, and take the rank."""
    magnitudes = np.concatenate([np.abs(np.asarray(x, np.float64)).ravel() for x in tree])
    descending = np.sort(magnitudes)[::-1]  # NumPy sorts NaN last.
    return descending[min(int(np.floor(descending.size * fraction)), descending.size - 1)]


def bits(x):
    return np.asarray(x).view(f"u{np.asarray(x).dtype.itemsize}")


def heavy_tail(seed, *shape):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.exp(2 * rng.standard_normal(shape))
    return x.astype(np.float32)


def trees(widths=(16, 32)):
    """Lists of arrays in any float dtype, with ties, zeros, infinities, NaN and denormals."""
    specials = [0.0, -0.0, 1.0, -1.0, 2.0, np.inf, -np.inf, np.nan]

    def leaf(dtype):
        width = 32 if dtype == jnp.bfloat16 else 8 * np.dtype(dtype).itemsize
        values = st.sampled_from(specials) | st.floats(width=width, allow_subnormal=True)
        shape = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
        array = hnp.arrays(f"f{width // 8}", shape, elements=values)
        return array.map(lambda x: x.astype(dtype))

    dtypes = [jnp.bfloat16] + [np.dtype(f"f{w // 8}") for w in widths]
    return st.lists(st.sampled_from(dtypes).flatmap(leaf), min_size=1, max_size=4)


def check_against_sort(tree, fraction):
    n = sum(x.size for x in tree)
    hypothesis.assume(n > 0)
    tau = top_fraction_threshold(tree, fraction)
    expected = sorted_threshold(tree, fraction)
    np.testing.assert_array_equal(np.float64(tau), expected)

    clipped = clip_top_fraction(tree, fraction)
    changed = 0
    for x, y in zip(tree, clipped, strict=True):
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(np.signbit(x), np.signbit(y))
        changed += np.sum(bits(x) != bits(y))
        over = np.abs(np.float64(x)) > expected  # False for NaN on either side.
        np.testing.assert_array_equal(bits(x)[~over], bits(y)[~over])
        magnitude = np.abs(np.float64(y))[over]
        assert np.all(magnitude <= expected)
        if x.dtype == tau.dtype:
            assert np.all(magnitude == expected)
    assert changed <= int(np.floor(n * fraction))


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(tree=trees(), fraction=st.sampled_from(FRACTIONS) | st.floats(0, 1))
def test_matches_a_sort(tree, fraction):
    # float16 denormals are normal in float32; bfloat16's and float32's are ranked by their bits.
    with np.errstate(all="ignore"):
        check_against_sort(tree, fraction)


@hypothesis.settings(deadline=None, max_examples=15)
@hypothesis.given(tree=trees(widths=(16, 32, 64)), fraction=st.sampled_from(FRACTIONS))
def test_matches_a_sort_with_float64(tree, fraction):
    def without_denormals(x):  # Widened to float64, they may be flushed: tested by itself.
        tiny = np.abs(np.float64(x)) < 1.2e-38
        return np.where(tiny & (x.dtype != np.float64), np.zeros_like(x), x)

    with jax.enable_x64(True), np.errstate(all="ignore"):
        check_against_sort([without_denormals(x) for x in tree], fraction)


class VariantsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(scope=["global", "tensor"], fraction=FRACTIONS)
    def test_one_threshold_for_all_or_for_each(self, scope, fraction):
        tree = {"w": heavy_tail(0, 7, 11), "b": [heavy_tail(1, 40)]}
        tx = coord_clip(fraction, scope=scope)
        updates, _ = self.variant(tx.update)(tree, tx.init(tree))
        for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(updates), strict=True):
            tau = sorted_threshold(jax.tree.leaves(tree) if scope == "global" else [x], fraction)
            np.testing.assert_array_equal(y, np.clip(x, -np.float32(tau), np.float32(tau)))

    @chex.variants(with_jit=True, without_jit=True)
    def test_traced_and_float_fractions_agree(self):
        threshold = self.variant(top_fraction_threshold)
        for n in (1, 10, 97):
            x = heavy_tail(n, n)
            for fraction in (0.0, 0.05, 0.1, 0.3, 0.7, 0.9, 1.0):
                expected = np.float32(sorted_threshold([x], fraction))
                chex.assert_trees_all_equal(threshold(x, jnp.float32(fraction)), expected)


@pytest.mark.parametrize(
    "x",
    [
        np.full(1000, 0.37, np.float32),
        np.repeat(np.float32([1e-30, 1e30]), 500),
        np.sort(heavy_tail(0, 1000)),
        np.zeros(1000, np.float32),
        np.arange(1000, dtype=np.uint32).view(np.float32),  # Denormals.
        np.linspace(0, 0x7F800000, 1000).astype(np.uint32).view(np.float32),
    ],
    ids=["equal", "two values", "sorted", "zeros", "denormal", "every exponent"],
)
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_does_not_depend_on_the_distribution(x, fraction):
    tau = np.asarray(top_fraction_threshold(x, fraction))
    rank = min(int(np.floor(x.size * fraction)), x.size - 1)
    assert bits(tau) == np.sort(bits(np.abs(x)))[::-1][rank]


def test_denormals_are_clipped_without_flushing():
    x = np.uint32([1, 2, 3, 4]).view(np.float32) * np.float32([1, -1, 1, -1])
    y = clip_top_fraction(x, 0.5)
    np.testing.assert_array_equal(bits(y) & 0x7FFFFFFF, [1, 2, 2, 2])


def test_float32_denormals_beside_float64_are_exact_or_zero(x64):
    x = [np.uint32([5]).view(np.float32), np.zeros(1, np.float64)]
    assert float(top_fraction_threshold(x, 0.0)) in (0.0, float(x[0][0]))


def test_nan_stays_and_infinity_saturates():
    x = jnp.float32([np.nan, -np.inf, 5.0, -4.0, 1.0])
    np.testing.assert_array_equal(clip_top_fraction(x, 0.4), [np.nan, -5, 5, -4, 1])
    assert np.isnan(top_fraction_threshold(x, 0.0))
    np.testing.assert_array_equal(clip_top_fraction(x, jnp.float32(0)), x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_leaves_round_the_threshold_towards_zero(dtype):
    tree = {"wide": jnp.float32([1.0009, 0.1]), "narrow": jnp.array([-3.0, 2.0], dtype)}
    clipped = clip_top_fraction(tree, 0.5)
    np.testing.assert_array_equal(np.float32(clipped["narrow"]), np.float32([-1.0, 1.0]))


def test_clipping_again_at_the_same_threshold_changes_nothing():
    x = heavy_tail(3, 500)
    once = clip_top_fraction(x, 0.1)
    tau = top_fraction_threshold(x, 0.1)
    chex.assert_trees_all_equal(optax.clip(tau).update(once, optax.EmptyState())[0], once)
    # The clipped tree has its old threshold at every rank up to the old one.
    chex.assert_trees_all_equal(clip_top_fraction(once, 0.1), once)


def test_gradient_passes_where_nothing_is_clipped():
    gradient = jax.grad(lambda x: jnp.sum(clip_top_fraction(x, 0.5) ** 2))
    np.testing.assert_array_equal(gradient(jnp.float32([1, 2, 3, 4])), [2, 4, 0, 0])


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_vmap(scope):
    trees = {"a": heavy_tail(4, 3, 20), "b": heavy_tail(5, 3, 2, 4)}
    fractions = jnp.float32([0.0, 0.25, 1.0])
    clip = lambda tree, fraction: clip_top_fraction(tree, fraction, scope=scope)  # noqa: E731
    together = jax.vmap(clip)(trees, fractions)
    shared = jax.jit(jax.vmap(clip, in_axes=(0, None)))(trees, 0.25)
    for i in range(3):
        tree = jax.tree.map(lambda x, i=i: x[i], trees)
        row = jax.tree.map(lambda x, i=i: x[i], together)
        chex.assert_trees_all_equal(row, clip(tree, float(fractions[i])))
        row = jax.tree.map(lambda x, i=i: x[i], shared)
        chex.assert_trees_all_equal(row, clip(tree, 0.25))


def test_inject_hyperparams_with_a_schedule_and_one_trace():
    schedule = optax.linear_schedule(0.0, 1.0, transition_steps=4)
    tx = optax.inject_hyperparams(coord_clip)(fraction=schedule)
    x = heavy_tail(6, 100)
    state = tx.init(x)
    update = jax.jit(chex.assert_max_traces(tx.update, n=1))
    for step in range(5):
        updates, state = update(x, state)
        chex.assert_trees_all_equal(updates, clip_top_fraction(x, step / 4))


def test_masked_and_multisteps():
    tree = {"clip": heavy_tail(7, 50), "keep": heavy_tail(8, 50), "none": None}
    masked = optax.masked(coord_clip(0.1), {"clip": True, "keep": False, "none": False})
    updates, _ = masked.update(tree, masked.init(tree))
    chex.assert_trees_all_equal(updates["keep"], tree["keep"])
    chex.assert_trees_all_equal(updates["clip"], clip_top_fraction(tree["clip"], 0.1))

    tx = optax.MultiSteps(coord_clip(0.1), every_k_schedule=2)
    x, state = jnp.asarray(tree["clip"]), tx.init(tree["clip"])
    update = jax.jit(tx.update)
    first, state = update(x, state)
    second, state = update(3 * x, state)
    chex.assert_trees_all_equal(first, jnp.zeros_like(x))
    chex.assert_trees_all_close(second, clip_top_fraction(2 * x, 0.1), rtol=1e-6)


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_trees_with_little_in_them(scope):
    for empty in ({}, None, (), optax.MaskedNode(), [np.zeros((0, 3), np.float32)]):
        chex.assert_trees_all_equal(clip_top_fraction(empty, 0.5, scope=scope), empty)
        assert top_fraction_threshold(empty, 0.5) == np.inf
    tree = [None, np.float32(2), np.zeros((3, 0), np.float16), optax.MaskedNode(), -3.0]
    expected = [2.0, -2.0] if scope == "global" else [2.0, -3.0]
    clipped = clip_top_fraction(tree, 0.5, scope=scope)
    chex.assert_trees_all_equal_structs(clipped, tree)
    assert [float(x) for x in jax.tree.leaves(clipped) if x.size] == expected


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan"), np.float32(2), 2])
def test_fraction_out_of_range(fraction):
    for call in (coord_clip, lambda f: top_fraction_threshold(np.ones(3, np.float32), f)):
        with pytest.raises(ValueError, match=r"fraction must be .*\[0, 1\].* got"):
            call(fraction)


@pytest.mark.parametrize(
    "fraction",
    [
        "0.1", None, [0.1], 0.1j, np.ones(2), jnp.ones(1),
        True, np.True_, np.array(True), jnp.array(False),
    ],
)  # fmt: skip
def test_fraction_not_a_number(fraction):
    for call in (coord_clip, lambda f: clip_top_fraction(np.ones(3, np.float32), f)):
        with pytest.raises(TypeError, match=r"fraction must be .*got"):
            call(fraction)


def test_a_schedule_as_fraction_points_to_inject_hyperparams():
    with pytest.raises(TypeError, match=r"fraction.*inject_hyperparams"):
        coord_clip(optax.constant_schedule(0.1))


@pytest.mark.parametrize("scope", ["leaf", None, 0])
def test_unknown_scope(scope):
    with pytest.raises(ValueError, match=f"scope must be .*{scope!r}"):
        coord_clip(0.1, scope=scope)


@pytest.mark.parametrize("dtype", ["int32", "complex64", "bool", "float8_e4m3fn"])
def test_leaves_that_are_no_floats(dtype):
    tree = {"w": np.ones(2, np.float32), "b": [jnp.ones(2, dtype)]}
    for call in (clip_top_fraction, top_fraction_threshold):
        for fraction in (0.0, 0.5):
            with pytest.raises(TypeError, match=rf"{dtype} at \['b'\]\[0\]"):
                call(tree, fraction)


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_no_temporary_grows_with_the_input(scope):
    for dtype in ("float32", "bfloat16"):
        tree = [jax.ShapeDtypeStruct(shape, dtype) for shape in [(1000, 1000), (300_000,), (7,)]]
        size = sum(x.size * x.dtype.itemsize for x in tree)
        clip = jax.jit(lambda tree: clip_top_fraction(tree, 0.05, scope=scope))
        memory = clip.lower(tree).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 0.01 * size


# Sharded ------------------------------------------------------------------------------------------

SHARDED = """
import re
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from sharpjax.clipping import clip_top_fraction, coord_clip, top_fraction_threshold

rng = np.random.default_rng(0)
tree = {k: rng.standard_normal(s).astype(np.float32)
        for k, s in {"a": (512, 1024), "b": (8, 3, 4), "c": (64,), "d": (5,)}.items()}
specs = {"a": P("x", "y"), "b": P(None, None, "y"), "c": P(("x", "y")), "d": P()}
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(kind, kind))
    sharded = {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in tree.items()}
    for scope in ("global", "tensor"):
        clip = lambda t, f: (clip_top_fraction(t, f, scope=scope), top_fraction_threshold(t, f))
        compiled = jax.jit(clip).lower(sharded, jnp.float32(0.1)).compile()
        clipped, tau = compiled(sharded, jnp.float32(0.1))
        expected, expected_tau = clip(tree, 0.1)
        assert tau == expected_tau
        jax.tree.map(np.testing.assert_array_equal, clipped, expected)
        hlo = compiled.as_text()
        assert "all-reduce" in hlo
        # What moves is the sample, at most: not the shards of the large leaf.
        moved = r"= \\w+\\[([\\d,]*)\\]\\S* (?:all-gather|all-to-all|collective-permute)\\("
        for shape in re.findall(moved, hlo):
            assert np.prod([int(n) for n in shape.split(",") if n]) <= 2**17, shape
        # A few for the sample and a few a pass, whatever the number of leaves.
        assert len(re.findall(r" all-reduce\\(", hlo)) < 25
        for k, x in clipped.items():
            assert x.sharding.is_equivalent_to(sharded[k].sharding, x.ndim), k
    # As a transformation, under `set_mesh`, and exported.
    tx = optax.chain(coord_clip(0.1), optax.adam(1.0))
    with jax.set_mesh(mesh):
        step = jax.jit(lambda g: tx.update(g, tx.init(g), g)[0])
        again = jax.export.export(step)(sharded).call(sharded)  # Refuses what cannot be stored.
        jax.tree.map(np.testing.assert_array_equal, step(sharded), again)
    # Manual over one axis, and XLA's over the other: a threshold for each of two rows of devices.
    rows = jax.shard_map(lambda x: clip_top_fraction(x, 0.25), mesh=mesh, in_specs=P("x"),
                         out_specs=P("x"), axis_names={"x"})
    whole = jax.device_put(tree["a"], NamedSharding(mesh, P("x")))
    expected = [clip_top_fraction(half, 0.25) for half in np.split(tree["a"], 2)]
    np.testing.assert_array_equal(jax.jit(rows)(whole), np.concatenate(expected))
    both = jax.shard_map(lambda x: clip_top_fraction(x, 0.25, axis_name="x"), mesh=mesh,
                         in_specs=P("x"), out_specs=P("x"), axis_names={"x"})
    np.testing.assert_array_equal(jax.jit(both)(whole), clip_top_fraction(tree["a"], 0.25))

# Inside a fully manual shard_map the threshold is each shard's own, or all shards' by `axis_name`.
mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
own = jax.shard_map(lambda x: clip_top_fraction(x, 0.25), mesh=mesh, in_specs=P("x"),
                    out_specs=P("x"))
x = tree["c"]
expected = jax.vmap(lambda x: clip_top_fraction(x, 0.25))(x.reshape(8, 8)).reshape(64)
np.testing.assert_array_equal(jax.jit(own)(x), expected)
threshold = lambda t: top_fraction_threshold(t, 0.25, axis_name="x")
joint = jax.shard_map(threshold, mesh=mesh, in_specs=({"c": P("x"), "d": P()},), out_specs=P())
small = {k: tree[k] for k in ("c", "d")}  # The whole leaf counts once.
assert jax.jit(joint)(small) == top_fraction_threshold(small, 0.25)
joint = jax.shard_map(threshold, mesh=mesh, in_specs=P("x"), out_specs=P(), check_vma=False)
assert jax.jit(joint)(x) == top_fraction_threshold(x, 0.25)
print("passed")
"""

CACHED = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from sharpjax.clipping import top_fraction_threshold
mesh = jax.make_mesh((8,), ("x",))
x = jax.device_put(np.arange(64, dtype=np.float32), NamedSharding(mesh, P("x")))
print(float(jax.jit(lambda x: top_fraction_threshold(x, 0.25))(x)))
"""


def test_sharded_arrays_are_counted_where_they_are():
    assert on_eight_devices(SHARDED) == "passed"


def test_a_second_process_finds_the_first_ones_program(tmp_path):
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    programs = lambda: {p.name for p in tmp_path.iterdir() if p.name.endswith("-cache")}  # noqa: E731
    assert on_eight_devices(CACHED, **cache) == "47.0"
    first = programs()
    assert first
    assert on_eight_devices(CACHED, **cache) == "47.0"
    assert programs() == first


@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_named_vmap_has_the_threshold_of_all_rows(scope):
    tree = {"a": heavy_tail(4, 3, 20), "b": heavy_tail(5, 3, 2, 4)}
    clip = lambda tree: clip_top_fraction(tree, 0.25, scope=scope, axis_name="rows")  # noqa: E731
    together = jax.vmap(clip, axis_name="rows")(tree)
    chex.assert_trees_all_equal(together, clip_top_fraction(tree, 0.25, scope=scope))


# The benchmark ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_benchmark_smoke(tmp_path, capsys):
    out = tmp_path / "new" / "threshold.json"
    assert main(["threshold", "--quick", "--repeats", "1", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert {row["name"] for row in record["rows"]} >= {"sharpjax", "torch.sort", "numpy.partition"}
    assert record["environment"]["versions"]["jax"] == jax.__version__
    assert "torch.kthvalue" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], []])
def test_benchmark_unknown(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
