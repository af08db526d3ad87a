"""Gradient descent without momentum, and with Nesterov's: what `sgd` is compared with."""

import optax

from sharpjax._checks import check_in_range


def gradient_descent(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Gradient descent without momentum: x ← x − ηg, `optax.sgd` under a name of its own.

    `sgd` has momentum 0.9, as in the paper.

    Args:
        learning_rate: η ≥ 0, a number or a schedule over steps.

    Returns:
        The transformation, without state.

    Raises:
        ValueError, TypeError: The rate is out of its range, with its value.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> tx, grads = sharpjax.gradient_descent(0.1), jnp.array([3.0, -4.0])
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> [round(float(x), 3) for x in updates]
        [-0.3, 0.4]
    """
    check_in_range("learning_rate", learning_rate, 0.0, float("inf"), open_high=True)
    return optax.sgd(learning_rate)


def nesterov(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9
) -> optax.GradientTransformation:
    """SGD with Nesterov's momentum: m ← βm + (1−β)g, x ← x − η(βm + (1−β)g), with m₀ = 0.

    The momentum is an average, as in `sgd`; `optax.sgd(η(1−β), β, nesterov=True)` is the same.

    Args:
        learning_rate: η ≥ 0, a number or a schedule over steps.
        momentum: β in [0, 1).

    Returns:
        The transformation. State: one tree like the parameters.

    Raises:
        ValueError, TypeError: An argument out of its range, with its value.

    Source: Sutskever et al., https://proceedings.mlr.press/v28/sutskever13.html, equations 3 and 4,
    in the variables of the gradient's point.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> tx, grads = sharpjax.nesterov(1.0), jnp.array([1.0, -2.0])
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> [round(float(x), 3) for x in updates]
        [-0.19, 0.38]
    """
    check_in_range("learning_rate", learning_rate, 0.0, float("inf"), open_high=True)
    check_in_range("momentum", momentum, 0.0, 1.0, open_high=True)
    return optax.chain(
        optax.scale(1 - momentum),
        optax.trace(momentum, nesterov=True),
        optax.scale_by_learning_rate(learning_rate),
    )
