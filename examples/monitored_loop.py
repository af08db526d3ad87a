"""Sharpness every 50 steps of one's own training loop, from one hook.

    python examples/monitored_loop.py

Here the hook prints. With a SummaryWriter or a Weights & Biases run it writes its curves there:
`log=sharpjax.monitor.tensorboard_logger(writer)`, `log=sharpjax.monitor.wandb_logger(run)`.
"""

import jax
import jax.numpy as jnp
import optax

import sharpjax
from sharpjax.monitor import sharpness_monitor

STEPS, EXAMPLES, MICRO_BATCHES = 200, 256, 4

# A matrix of rank 2 is factored as u vᵀ from its noisy entries.
keys = jax.random.split(jax.random.key(0), 5)
u, v = jax.random.normal(keys[0], (20, 2)), jax.random.normal(keys[1], (20, 2))
rows, columns = jax.random.randint(keys[2], (2, EXAMPLES), 0, 20)
entries = jnp.sum(u[rows] * v[columns], -1) + 0.1 * jax.random.normal(keys[3], (EXAMPLES,))
batch = {"row": rows, "column": columns, "entry": entries}
params = {"u": 0.5 * u[::-1], "v": 0.5 * v[::-1]}


def loss_fn(params, batch):
    """Mean squared error of the entries."""
    predicted = jnp.sum(params["u"][batch["row"]] * params["v"][batch["column"]], -1)
    return jnp.mean((predicted - batch["entry"]) ** 2)


def log(step, stats):
    """One line for a measurement."""
    line = "  ".join(
        f"{name} {s.sharpness:.4f} ± {s.sharpness_se:.4f}" for name, s in stats.items()
    )
    print(f"step {step:>4}  sharpness along  {line}")


tx = optax.adam(3e-2)
algorithms = {"adam": tx, "sgd": sharpjax.sgd(0.1), "sgd_clip": sharpjax.sgd(0.1, clip=0.1)}
batches = jax.tree.map(lambda x: x.reshape(MICRO_BATCHES, -1), batch)
monitor = sharpness_monitor(loss_fn, algorithms, batches, every=50, log=log)
state, seen = tx.init(params), monitor.init(params)
gradient = jax.jit(jax.grad(loss_fn))
for step in range(1, STEPS + 1):
    grads = gradient(params, batch)
    seen, _ = monitor.update(step, grads, seen, params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
