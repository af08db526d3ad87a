"""Directional sharpness of an Equinox module: a multilayer perceptron that learns a sine.

pip install equinox
python examples/equinox_mlp.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import sharpjax

STEPS, EXAMPLES = 100, 256

model = eqx.nn.MLP(1, 1, width_size=32, depth=1, activation=jnp.tanh, key=jax.random.key(0))
x = jax.random.uniform(jax.random.key(1), (EXAMPLES, 1), minval=-3.0, maxval=3.0)
batch = {"x": x, "y": jnp.sin(2 * x)}

# A module is a pytree; what is learned are its floating-point arrays, and the rest is static.
params, static = eqx.partition(model, eqx.is_inexact_array)


def loss_fn(params, batch):
    """Mean squared error of the module that `params` and the static rest make."""
    predictions = jax.vmap(eqx.combine(params, static))(batch["x"])
    return jnp.mean((predictions - batch["y"]) ** 2)


# A training loop. Every optimizer sees the gradients on Adam's way and keeps its own statistics.
tx, algorithms = optax.adam(1e-2), sharpjax.paper_algorithms()
pseudo = sharpjax.pseudo_updates(algorithms)
state, seen = tx.init(params), pseudo.init(params)
gradient, propose = jax.jit(jax.grad(loss_fn)), jax.jit(pseudo.update)
for _ in range(STEPS):
    here, grads = params, gradient(params, batch)
    directions, seen = propose(grads, seen, here)
    updates, state = tx.update(grads, state, here)
    params = eqx.apply_updates(here, updates)

# What each would have done at the last step, measured where it would have done it.
batches = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)  # Four micro-batches.
stats = sharpjax.measure_directions(loss_fn, here, directions, batches)
print(f"{'algorithm':<20}{'slope':>10}{'sharpness':>12}{'± s.e.':>10}{'best step':>11}")
for name in algorithms:
    s = stats[name]
    best = sharpjax.search_along(loss_fn, here, directions[name], batches, points=3).best_step
    print(f"{name:<20}{s.slope:>10.4f}{s.sharpness:>12.2e}{s.sharpness_se:>10.1e}{best:>11.4f}")
