"""The paper's seven algorithms on a plain JAX function: a network whose inputs differ in scale.

    pip install '.[plot]'
    python examples/plain_jax.py

It prints a table, and writes sharpness.png into the current directory.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sharpjax.plot

INPUTS, WIDTH = 20, 32

rng = np.random.default_rng(0)
scales, weights = np.logspace(-1, 1, INPUTS), rng.normal(size=INPUTS)


def draw(*shape):
    """Inputs whose scales span two orders of magnitude, and a noisy label."""
    x = rng.normal(size=(*shape, INPUTS))
    return {"x": scales * x, "y": x @ weights + rng.normal(size=shape) > 0}


keys = jax.random.split(jax.random.key(0))
params = {
    "first": {
        "w": jax.random.normal(keys[0], (INPUTS, WIDTH)) / INPUTS**0.5,
        "b": jnp.zeros(WIDTH),
    },
    "second": {"w": jax.random.normal(keys[1], (WIDTH,)) / WIDTH**0.5, "b": jnp.zeros(())},
}


def loss_fn(params, batch):
    """Mean binary cross-entropy of a two-layer network."""
    hidden = jnp.tanh(batch["x"] @ params["first"]["w"] + params["first"]["b"])
    logits = hidden @ params["second"]["w"] + params["second"]["b"]
    return optax.sigmoid_binary_cross_entropy(logits, batch["y"]).mean()


# Adam trains. The others see its gradients, keep their own states, and are measured beside it.
comparison = sharpjax.compare(
    loss_fn,
    params,
    sharpjax.paper_algorithms() | {"adam": optax.adam(3e-3)},
    (draw(64) for _ in range(100)),
    draw(8, 128),  # The test set: eight micro-batches, whose spread gives the standard errors.
    follow="adam",
)
columns = ["step", "algorithm", "slope", "sharpness", "sharpness_se", "ratio", "best_decrease"]
print(comparison.to_pandas()[columns].to_string(index=False, float_format="%.4f"))
sharpjax.plot.sharpness(comparison).savefig("sharpness.png")
