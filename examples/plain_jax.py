"""Directional sharpness of a plain JAX function: a small network on two spirals.

python examples/plain_jax.py
"""

import jax
import jax.numpy as jnp
import optax

import sharpjax

STEPS, EXAMPLES, WIDTH = 100, 256, 32

keys = jax.random.split(jax.random.key(0), 3)
side = jnp.arange(EXAMPLES) % 2
angle = jax.random.uniform(keys[0], (EXAMPLES,), minval=1.0, maxval=9.0)
points = jnp.stack([jnp.cos(angle + jnp.pi * side), jnp.sin(angle + jnp.pi * side)], axis=1)
batch = {"x": angle[:, None] / 9 * points, "y": side}

params = {
    "first": {"w": 2 * jax.random.normal(keys[1], (2, WIDTH)), "b": jnp.zeros(WIDTH)},
    "second": {"w": jax.random.normal(keys[2], (WIDTH,)) / WIDTH**0.5, "b": jnp.zeros(())},
}


def loss_fn(params, batch):
    """Mean binary cross-entropy of a two-layer network."""
    hidden = jnp.tanh(batch["x"] @ params["first"]["w"] + params["first"]["b"])
    logits = hidden @ params["second"]["w"] + params["second"]["b"]
    return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean()


# A training loop. Every optimizer sees the gradients on Adam's way and keeps its own statistics.
tx, algorithms = optax.adam(1e-2), sharpjax.paper_algorithms()
pseudo = sharpjax.pseudo_updates(algorithms)
state, seen = tx.init(params), pseudo.init(params)
gradient, propose = jax.jit(jax.grad(loss_fn)), jax.jit(pseudo.update)
for _ in range(STEPS):
    here, grads = params, gradient(params, batch)
    directions, seen = propose(grads, seen, here)
    updates, state = tx.update(grads, state, here)
    params = optax.apply_updates(here, updates)

# What each would have done at the last step, measured where it would have done it.
batches = jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), batch)  # Four micro-batches.
stats = sharpjax.measure_directions(loss_fn, here, directions, batches)
print(f"{'algorithm':<20}{'slope':>10}{'sharpness':>12}{'± s.e.':>10}{'best step':>11}")
for name in algorithms:
    s = stats[name]
    best = sharpjax.search_along(loss_fn, here, directions[name], batches, points=3).best_step
    print(f"{name:<20}{s.slope:>10.4f}{s.sharpness:>12.2e}{s.sharpness_se:>10.1e}{best:>11.4f}")
