"""Pseudo-updates: what each of many optimizers would do on one optimizer's trajectory."""

from collections.abc import Callable, Mapping
from typing import Any

import optax


class PseudoUpdates(optax.GradientTransformationExtraArgs):
    """A transformation whose updates are {name: update}, and which can make one of them alone."""

    names: tuple[str, ...]
    update_one: Callable[..., Any]
    """`update_one(name, grads, state, params, **extra_args)` -> that optimizer's update."""

    @classmethod
    def make(cls, init, update, update_one, names) -> "PseudoUpdates":
        """From its functions."""
        made = cls(init, update)
        made.names, made.update_one = names, update_one
        return made


def pseudo_updates(
    algorithms: Mapping[str, optax.GradientTransformation],
) -> PseudoUpdates:
    """Feeds one stream of gradients and parameters to many optimizers (Appendix A.3).

    Each optimizer keeps its own state (momentum, second moments …) along the points that another
    one visits; none of the updates is applied here.

    Args:
        algorithms: Name -> transformation, with extra arguments or without.

    Returns:
        A transformation whose updates and state are dicts with the names as keys. It passes extra
        keyword arguments on to the optimizers that take them. With one entry it equals that
        optimizer on its own. Memory and time are the sums of the optimizers'.

    Raises:
        ValueError: no algorithm is given.
        TypeError: an entry is not a gradient transformation.

    Example:
        >>> import jax.numpy as jnp, optax, sharpjax
        >>> pseudo = sharpjax.pseudo_updates({"sgd": optax.sgd(1.0), "sign": optax.sign_sgd(1.0)})
        >>> params, grads = jnp.zeros(2), jnp.array([3.0, -4.0])
        >>> updates, state = pseudo.update(grads, pseudo.init(params), params)
        >>> updates["sgd"].tolist(), updates["sign"].tolist()
        ([-3.0, 4.0], [-1.0, 1.0])
    """
    if not algorithms:
        raise ValueError(f"algorithms must name at least one optimizer, got {algorithms!r}")
    for name, algorithm in algorithms.items():
        if not (hasattr(algorithm, "init") and hasattr(algorithm, "update")):
            raise TypeError(f"algorithms[{name!r}] is no gradient transformation: {algorithm!r}")
    runs = {name: optax.with_extra_args_support(tx) for name, tx in algorithms.items()}

    def init(params):
        return {name: run.init(params) for name, run in runs.items()}

    def update(grads, state, params=None, **extra_args):
        steps = {
            name: run.update(grads, state[name], params, **extra_args) for name, run in runs.items()
        }
        return {n: u for n, (u, _) in steps.items()}, {n: s for n, (_, s) in steps.items()}

    def update_one(name, grads, state, params=None, **extra_args):
        return runs[name].update(grads, state[name], params, **extra_args)[0]

    return PseudoUpdates.make(init, update, update_one, tuple(runs))
