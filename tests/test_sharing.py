"""What equal states of several optimizers cost: they are held once, and every number stays."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax
from sharpjax.monitor import compiled_updates
from tests.devices import on_eight_devices

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "b": jnp.array([0.5, -2.0, 0.1])}
ONES = {"w": jnp.ones(3), "b": jnp.ones(3)}


def loss(params, scale=1.0):
    return scale * jnp.sum(jnp.cosh(params["w"])) + jnp.sum(params["b"] ** 4) / 4


def distinct(tree):
    """How many arrays a tree has."""
    return len({id(x) for x in jax.tree.leaves(tree)})


def groups(tree):
    """For each leaf, the first that is the same array."""
    places = {}
    return [places.setdefault(id(x), i) for i, x in enumerate(jax.tree.leaves(tree))]


def follow(algorithms, steps=3, params=PARAMS, **extra):
    """The last updates and state of all, together and each with a state of its own."""
    followed, pseudo = compiled_updates(algorithms), sharpjax.pseudo_updates(algorithms)
    together, alone = followed.init(params), pseudo.init(params)
    update = jax.jit(lambda grads, state, params: pseudo.update(grads, state, params, **extra))
    for _ in range(steps):
        grads = jax.grad(loss)(params)
        expected, alone = update(grads, alone, params)
        updates, together = followed.propose(grads, together, params, **extra)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
    return (updates, together), (expected, alone)


def test_the_papers_seven_hold_three_moments():
    """All that equals what the optimizers would hold on their own, bit for bit.

    Of a matrix and a vector: the moment of sgd, normalized_sgd and adam, the clipped one of the two
    clipped ones of sgd, and adam's second moment, two arrays each; row sums, column sums and the
    vector's moment, which both adafactors share; one 0 where these keep nothing; one count.
    """
    found, expected = follow(sharpjax.paper_algorithms())
    chex.assert_trees_all_equal(found, expected)
    assert distinct(found[1]) == 3 * 2 + 3 + 1 + 1
    assert distinct(expected[1]) > 30


NAMES = ("adamw", "adam_clip", "lion", "muon", "schedule_free_adamw", "sophia", "noisy_sgd")


def test_optimizers_of_every_kind():
    """Line searches and L-BFGS are followed in the monitor's own tests."""
    value, grads = jax.value_and_grad(loss)(PARAMS)
    algorithms = {name: sharpjax.named(name, 0.1) for name in NAMES}
    algorithms |= {
        "masked": optax.masked(optax.adam(0.1), {"w": True, "b": False}),
        "finite": optax.apply_if_finite(optax.adam(0.1), 2),
        "rate": optax.inject_hyperparams(optax.adam)(0.1),
    }
    found, expected = follow(algorithms, steps=2, value=value, grad=grads, value_fn=loss)
    numbers = lambda x: (  # noqa: E731
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    )
    chex.assert_trees_all_close(
        jax.tree.map(numbers, found), jax.tree.map(numbers, expected), rtol=1e-5, atol=1e-7
    )
    state = found[1]
    adam = state["adamw"][0]
    assert state["masked"].inner_state[0].mu["w"] is adam.mu["w"]
    assert state["adam_clip"][0].nu["b"] is adam.nu["b"]
    assert state["finite"].inner_state[0].mu["w"] is not adam.mu["w"]  # It may stay as it was.


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (optax.trace(0.9), optax.trace(0.9), True),
        (optax.trace(0.9), optax.trace(0.8), False),
        (optax.trace(0.9), optax.chain(optax.scale(2.0), optax.trace(0.9)), False),
        (optax.trace(0.0), optax.trace(-0.0), False),  # A zero of the other sign.
        (optax.trace(np.array([0.9] * 3)), optax.trace(np.array([0.9] * 3)), True),
        (optax.trace(np.array([0.9] * 3)), optax.trace(np.array([0.9, 0.9, 0.8])), False),
    ],
)
def test_states_that_begin_equal_are_shared_if_they_stay_so(first, second, shared):
    found, expected = follow({"first": first, "second": second}, params=ONES)
    chex.assert_trees_all_equal(found, expected)
    a, b = found[1].values()
    assert (groups(a) == groups((a, b))[len(groups(a)) :]) == shared


def looping(decay):
    """A moment made in a loop and a branch, which are traced anew for each optimizer."""

    def update(grads, m, params=None):
        m = jax.lax.fori_loop(0, 2, lambda i, m: decay * m, m)
        m = jax.lax.cond(jnp.sum(grads) > 0, lambda: m + grads, lambda: m)
        return m, m

    return optax.GradientTransformation(jnp.zeros_like, update)


def test_equal_loops_and_branches_are_equal():
    algorithms = {"a": looping(0.9), "b": looping(0.9), "c": looping(0.8)}
    followed, params = compiled_updates(algorithms), jnp.ones(3)
    state = followed.advance(params, followed.init(params), params)
    assert groups(state) == [0, 0, 2]


def splitting(choose):
    """A moment made in a loop of whose values many have one shape."""

    def body(i, m):
        first, second, third = jnp.split(m, 3)
        made = jnp.sin(first)
        other = jnp.cos(made)
        return jnp.concatenate([second, choose(third, other) + other, made])

    def update(grads, m, params=None):
        m = jax.lax.fori_loop(0, 2, body, m) + grads
        return m, m

    return optax.GradientTransformation(jnp.zeros_like, update)


def test_loops_that_differ_in_one_operand_differ():
    algorithms = {"a": splitting(lambda x, y: x), "b": splitting(lambda x, y: y)}
    followed, params = compiled_updates(algorithms), jnp.arange(3.0)
    state = followed.advance(params, followed.init(params), params)
    state = followed.advance(params, state, params)
    assert groups(state) == [0, 1] and not (state["a"] == state["b"]).all()


def weighted(takes):
    """A moment whose gradients are weighted, if it is told the weight."""

    def update(grads, m, params=None, *, weight=1.0, **others):
        m = 0.5 * m + (weight if takes else 1.0) * grads
        return m, m

    return optax.GradientTransformationExtraArgs(jnp.zeros_like, update)


def test_extra_arguments_part_what_was_equal():
    followed = compiled_updates({"a": weighted(True), "b": weighted(False)})
    params = jnp.ones(3)
    state = followed.init(params)
    seen = []
    for extra in ({}, {}, {"weight": 3.0}, {}):
        _, state = followed.propose(params, state, params, **extra)
        seen.append((distinct(state), float(state["a"][0]), float(state["b"][0])))
    assert seen == [(1, 1.0, 1.0), (1, 1.5, 1.5), (2, 3.75, 1.75), (2, 2.875, 1.875)]


def test_a_state_may_be_kept_changed_and_loaded():
    followed = compiled_updates({"a": optax.trace(0.5), "b": optax.trace(0.5)})
    params = jnp.ones(3)
    first = followed.advance(params, followed.init(params), params)
    second = followed.advance(params, first, params)
    chex.assert_trees_all_equal(followed.advance(params, first, params), second)  # Not donated.
    assert distinct(second) == 1
    loaded = jax.tree.map(jnp.array, second)
    chex.assert_trees_all_equal(
        followed.advance(params, loaded, params), followed.advance(params, second, params)
    )
    changed = second | {"a": jax.tree.map(jnp.zeros_like, second["a"])}
    updates, _ = followed.propose(params, changed, params)
    assert (updates["a"][0], updates["b"][0]) == (1.0, 1.75)


def test_a_donated_state_takes_no_array_of_the_callers():
    """The states are those of one that is kept; parameters that a state begins with stay."""
    algorithms = {"a": optax.trace(0.5), "b": optax.trace(0.5), "c": optax.trace(0.9)}
    algorithms["d"] = optax.GradientTransformation(lambda p: p, lambda g, s, params: (g, params))
    kept, donated = compiled_updates(algorithms), compiled_updates(algorithms, donate=True)
    params = jnp.ones(3)
    expected, state = kept.init(params), donated.init(params)
    for _ in range(3):
        expected, before = kept.advance(params, expected, params), state
        state = donated.advance(params, state, params)
        assert all(x.is_deleted() for x in jax.tree.leaves(before) if x is not before["d"])
        chex.assert_trees_all_equal(state, expected)
    updates, _ = donated.propose(params, state, params)
    chex.assert_trees_all_equal(updates, kept.propose(params, expected, params)[0])


def test_what_an_update_does_besides_is_done():
    calls = []

    def update(grads, state, params=None):
        jax.debug.callback(lambda: calls.append(1))
        return grads, state

    silent = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    followed = compiled_updates({"a": silent, "b": silent})
    followed.advance(PARAMS, followed.init(PARAMS), PARAMS)
    jax.effects_barrier()
    assert len(calls) == 2


def test_nothing_is_compiled_twice():
    traces = []

    def update(grads, m, params=None):
        traces.append(1)
        return grads, m + grads

    tx = optax.GradientTransformation(jnp.zeros_like, update)
    followed = compiled_updates({"a": tx, "b": tx})
    params = jnp.ones(3)
    state = followed.advance(params, followed.init(params), params)
    _, state = followed.propose(params, state, params)
    count = len(traces)
    for _ in range(3):
        _, state = followed.propose(params, followed.advance(params, state, params), params)
    assert len(traces) == count


SHARDED = """
import chex, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import sharpjax
from sharpjax.monitor import compiled_updates

names = "sgd", "sgd_clip", "adam", "adafactor"
algorithms = {name: sharpjax.paper_algorithms()[name] for name in names}
for kind in (AxisType.Explicit, AxisType.Auto):
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(kind, kind))
    place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    # Of one shape, so that only where they lie tells their zeros apart.
    params = {
        "a": place(jnp.linspace(-1.0, 2.0, 64).reshape(8, 8), "fsdp", None),
        "b": place(jnp.linspace(-2.0, 1.0, 64).reshape(8, 8), None, "fsdp"),
    }
    with jax.set_mesh(mesh):
        followed, pseudo = compiled_updates(algorithms), sharpjax.pseudo_updates(algorithms)
        together, alone = followed.init(params), pseudo.init(params)
        for _ in range(2):
            updates, together = followed.propose(params, together, params)
            expected, alone = jax.jit(pseudo.update)(params, alone, params)
    found, expected = (updates, together), (expected, alone)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim), (x.sharding, y.sharding)
    assert together["sgd"][1].ema["b"] is together["adam"][0].mu["b"]
    assert together["sgd"][1].ema["b"].sharding.spec == P(None, "fsdp")
print("passed")
"""


def test_sharded_states_stay_where_they_are():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    assert on_eight_devices(SHARDED, XLA_FLAGS=flags) == "passed"
