"""Optimizers that take the sign of a momentum, and their saturated variants.

Clipping a signed update does nothing: all of its magnitudes are equal, so that no threshold of them
cuts anything. What clipping does to a gradient, saturation does here: the momentum is divided by
the threshold that its top fraction exceeds and cut to [-1, 1], so that those coordinates have
their sign and the others are in proportion. A fraction of 1 is the sign again.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sharpjax._checks import check_in_range, check_rate
from sharpjax.clipping import top_fraction_threshold


def lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.99,
    *,
    weight_decay: float = 1e-3,
    saturate: float = 0.0,
) -> optax.GradientTransformation:
    """Lion, its sign replaced by saturation where asked for.

    x ← x − η(S(β₁m + (1−β₁)g) + λx), then m ← β₂m + (1−β₂)g. S is the sign (`saturate=0`, which is
    `optax.lion`), or `saturate_top_fraction` at the threshold of the top fraction.
    `optax.chain(optax.lion(η), coord_clip(c))` is not that: a signed update has one magnitude, and
    clipping it does nothing.

    Args:
        learning_rate: η ≥ 0, a number or a schedule over steps.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        weight_decay: λ ≥ 0; the default is optax's.
        saturate: Fraction of the coordinates that reach ±1, in [0, 1]; 0 takes the sign of all.

    Returns:
        The transformation. State: one tree like the parameters and a count.

    Raises:
        ValueError, TypeError: An argument out of its range, with its value.

    Cost: no gradient; with `saturate` that of `top_fraction_threshold` an update.

    Source: Chen et al., https://arxiv.org/abs/2302.06675, Algorithm 2.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> params, grads = jnp.array([1.0, -2.0]), jnp.array([3.0, -4.0])
        >>> tx = sharpjax.lion(0.1, weight_decay=0.0, saturate=0.5)
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> [round(float(x), 3) for x in updates]
        [-0.1, 0.1]
    """
    check_rate(learning_rate)
    check_in_range("b1", b1, 0.0, 1.0, open_high=True)
    check_in_range("b2", b2, 0.0, 1.0, open_high=True)
    check_in_range("weight_decay", weight_decay, 0.0, float("inf"), open_high=True)
    sign = _sign(saturate)

    def init(params):
        zeros = optax.tree.zeros_like(params)
        return optax.ScaleByLionState(count=jnp.zeros([], jnp.int32), mu=zeros)

    def update(updates, state, params=None):
        mixed = optax.tree.update_moment(updates, state.mu, b1, 1)
        mu = optax.tree.update_moment(updates, state.mu, b2, 1)
        count = optax.safe_increment(state.count)
        mixed, _ = sign.update(mixed, optax.EmptyState(), params)
        return mixed, optax.ScaleByLionState(count=count, mu=mu)

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )


def sign_momentum(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, *, saturate: float = 0.0
) -> optax.GradientTransformation:
    """The sign of a momentum: m ← βm + (1−β)g, x ← x − η·S(m), with m₀ = 0.

    S is the sign, or with `saturate` that of `lion`; `optax.sign_sgd` has no momentum.

    Args:
        learning_rate: η ≥ 0, a number or a schedule over steps.
        momentum: β in [0, 1).
        saturate: Fraction of the coordinates that reach ±1, in [0, 1]; 0 takes the sign of all.

    Returns:
        The transformation. State: one tree like the parameters and a count.

    Raises:
        ValueError, TypeError: An argument out of its range, with its value.

    Cost: no gradient; with `saturate` that of `top_fraction_threshold` an update.

    Source: Bernstein et al., https://arxiv.org/abs/1802.04434, Algorithm 2 (Signum).

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> tx, grads = sharpjax.sign_momentum(0.1), jnp.array([3.0, -4.0])
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> [round(float(x), 3) for x in updates]
        [-0.1, 0.1]
    """
    check_rate(learning_rate, momentum)
    return optax.chain(
        optax.ema(momentum, debias=False),
        _sign(saturate),
        optax.scale_by_learning_rate(learning_rate),
    )


def saturate_top_fraction(fraction: Any) -> optax.GradientTransformation:
    r"""Divide by the threshold τ of the top fraction, and cut: uᵢ ← min(max(uᵢ/τ, -1), 1).

    τ is `top_fraction_threshold` of the whole tree; where it is 0, u becomes its sign.

    Args:
        fraction: In [0, 1]; at 0, only the largest magnitude reaches ±1.

    Returns:
        A stateless transformation.

    Raises:
        ValueError, TypeError: `fraction` is out of its range, with its value.

    Example:
        >>> import jax.numpy as jnp, optax, sharpjax
        >>> tx = sharpjax.saturate_top_fraction(0.25)
        >>> tx.update(jnp.array([1.0, -8.0, 2.0, 4.0]), optax.EmptyState())[0].tolist()
        [0.25, -1.0, 0.5, 1.0]
    """
    check_in_range("fraction", fraction, 0.0, 1.0)

    def saturate(updates):
        threshold = top_fraction_threshold(updates, fraction)

        def cut(u):
            # In τ's dtype: a float16 τ might be rounded to 0.
            scaled = jnp.clip(u / jnp.where(threshold > 0, threshold, 1), -1, 1)
            return jnp.where(threshold > 0, scaled, jnp.sign(u)).astype(u.dtype)

        return jax.tree.map(cut, updates)

    return optax.stateless(lambda updates, params: saturate(updates))


def _sign(saturate: Any) -> optax.GradientTransformation:
    check_in_range("saturate", saturate, 0.0, 1.0)
    if isinstance(saturate, int | float) and saturate == 0:
        return optax.stateless(lambda updates, params: jax.tree.map(jnp.sign, updates))
    return saturate_top_fraction(saturate)
