import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import sharpjax
from tests.cases import network

KEY = jax.random.key(0)


def trajectory(pseudo, steps=4):
    """Updates and parameters of every step along plain SGD."""
    loss, params, batch = network(KEY)
    state = pseudo.init(params)
    update = jax.jit(pseudo.update)
    for _ in range(steps):
        grads = jax.grad(loss)(params, batch)
        updates, state = update(grads, state, params)
        yield updates, params, grads
        params = optax.apply_updates(params, jax.tree.map(lambda g: -0.1 * g, grads))


def test_each_optimizer_sees_the_trajectory_as_if_alone():
    algorithms = {
        **sharpjax.paper_algorithms(),
        "lion": optax.lion(0.1),
        "frozen": optax.set_to_zero(),
    }
    states = {name: tx.init(network(KEY)[1]) for name, tx in algorithms.items()}
    for updates, params, grads in trajectory(sharpjax.pseudo_updates(algorithms)):
        assert updates.keys() == algorithms.keys()
        for name, tx in algorithms.items():
            alone, states[name] = tx.update(grads, states[name], params)
            chex.assert_trees_all_close(updates[name], alone, rtol=2e-5, atol=1e-7)


def test_with_one_entry_it_is_that_optimizer():
    adam = optax.adam(0.01)
    pseudo = sharpjax.pseudo_updates({"adam": adam})
    state = adam.init(network(KEY)[1])
    for updates, params, grads in trajectory(pseudo):
        alone, state = jax.jit(adam.update)(grads, state, params)
        chex.assert_trees_all_close(updates["adam"], alone, rtol=1e-6)


def test_extra_arguments_reach_the_optimizers_that_take_them():
    algorithms = {"plateau": optax.contrib.reduce_on_plateau(patience=1), "sgd": optax.sgd(0.1)}
    pseudo = sharpjax.pseudo_updates(algorithms)
    params = {"a": jnp.ones(3)}
    updates, _ = pseudo.update(params, pseudo.init(params), params, value=jnp.array(1.0))
    chex.assert_trees_all_close(updates["sgd"], {"a": jnp.full(3, -0.1)})
    chex.assert_trees_all_close(updates["plateau"], params)


def test_bad_input_names_the_argument_and_the_value():
    with pytest.raises(ValueError, match=r"algorithms must name at least one optimizer, got \{\}"):
        sharpjax.pseudo_updates({})
    with pytest.raises(TypeError, match=r"algorithms\['sgd'\] is no gradient transformation: 0.1"):
        sharpjax.pseudo_updates({"sgd": 0.1})
