"""Losses and points that several tests share."""

import jax
import jax.numpy as jnp


def quadratic(hessian, gradient, offset=0.0):
    """f(x) = offset + gᵀx + xᵀHx/2, as a function of a pytree {"a": [k], "b": [n-k]}."""

    def loss(params, batch=None):
        x = jnp.concatenate([params["a"], params["b"]])
        scale = 1.0 if batch is None else batch.mean()
        return offset + gradient @ x + scale * (x @ hessian @ x) / 2

    return loss


def network(key, dtype=jnp.float32, width=4):
    """(loss_fn, params, batch) of a small two-layer regression with a curved non-linearity."""
    keys = jax.random.split(key, 6)
    params = {
        "first": {
            "kernel": jax.random.normal(keys[0], (3, width), dtype),
            "bias": jax.random.normal(keys[1], (width,), dtype),
        },
        "second": (jax.random.normal(keys[2], (width, 2), dtype),),
    }
    batch = {
        "x": jax.random.normal(keys[3], (8, 3), dtype),
        "y": jax.random.normal(keys[4], (8, 2), dtype),
    }
    return network_loss, params, batch


def network_loss(params, batch, key=None):
    hidden = jnp.tanh(batch["x"] @ params["first"]["kernel"] + params["first"]["bias"][None])
    if key is not None:
        hidden = hidden * jax.random.bernoulli(key, 0.5, hidden.shape)
    out = hidden @ params["second"][0]
    return jnp.mean(jnp.square(out - batch["y"]))


def random_like(key, tree):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    )
