"""Directional sharpness of a Flax NNX module: a small classifier of noisy prototypes.

python examples/flax_nnx.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import sharpjax

STEPS, EXAMPLES, CLASSES = 60, 256, 8


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(16, 32, rngs=rngs)
        self.out = nnx.Linear(32, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(x)))


labels = jnp.arange(EXAMPLES) % CLASSES
prototypes, noise = (jax.random.normal(jax.random.key(i), (n, 16)) for i, n in ((0, 8), (1, 256)))
batch = {"x": prototypes[labels] + 2 * noise, "y": labels}

# A module is split into what it is (the graph) and what is learned (a pytree).
graph, params = nnx.split(Network(nnx.Rngs(0)), nnx.Param)


def loss_fn(params, batch):
    """Mean cross-entropy of the module that `params` and the graph make."""
    logits = nnx.merge(graph, params)(batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


# A training loop. Every optimizer sees the gradients on SGD's way and keeps its own statistics.
tx, algorithms = optax.sgd(0.05, momentum=0.9), sharpjax.paper_algorithms()
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
