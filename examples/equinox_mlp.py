"""Four optimizers, each on its own trajectory: an Equinox network that classifies word counts.

    pip install '.[examples]'
    python examples/equinox_mlp.py

It prints a table at equal test loss, and writes convergence.png into the current directory.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sharpjax.plot

WORDS, LENGTH, TOPICS = 300, 20, 8

rng = np.random.default_rng(0)
topics = rng.normal(size=(WORDS, TOPICS))


def draw(*shape):
    """Documents of words by Zipf's law, as counts, and the topic that their words speak for."""
    words = (WORDS ** rng.random((*shape, LENGTH))).astype(int)
    counts = np.stack([(words == word).sum(-1) for word in range(WORDS)], axis=-1)
    scores = counts @ topics + rng.normal(size=(*shape, TOPICS))
    return {"x": counts.astype(np.float32), "y": scores.argmax(-1)}


model = eqx.nn.MLP(WORDS, TOPICS, 32, depth=1, activation=jnp.tanh, key=jax.random.key(0))
# A module is a pytree. Its floating-point arrays are learned, and the rest is static.
params, static = eqx.partition(model, eqx.is_inexact_array)


def loss_fn(params, batch):
    """Mean cross-entropy of the module that `params` and the static rest make."""
    logits = jax.vmap(eqx.combine(params, static))(batch["x"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


comparison = sharpjax.compare(
    loss_fn,
    params,
    ["sgd", "sgd_clip", "adam"],
    (draw(64) for _ in range(200)),
    draw(8, 128),
    follow="own",
    learning_rate={"sgd": 0.3, "sgd_clip": 0.3, "adam": 0.003},
    every=20,
    landscape=False,
)
# Optimizers of different speed are compared where their test loss is the same.
columns = ["algorithm", "step", "loss", "slope", "sharpness", "sharpness_se"]
print(comparison.at_loss(1.2)[columns].to_string(index=False, float_format="%.4f"))
sharpjax.plot.convergence(comparison).savefig("convergence.png")
