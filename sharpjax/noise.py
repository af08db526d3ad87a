"""The gradient's noise: trΣ, ‖G‖², their quotient, and each update's signal to noise."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpjax.objective import LossFn, Objective, Params, dot, result, updates_objective


@result
class GradientNoise:
    """What `gradient_noise` says: Σ is the covariance of one example's gradient, G the mean."""

    trace: jax.Array
    """trΣ, loss² per unit of distance²; unbiased. NaN with one micro-batch."""
    trace_se: jax.Array
    """Its standard error, by the jackknife over micro-batches; NaN with fewer than three."""
    squared_norm: jax.Array
    """‖G‖², in the same unit; unbiased, so that it may be negative where noise drowns it."""
    squared_norm_se: jax.Array
    """Its standard error, likewise."""
    noise_scale: jax.Array
    """trΣ/‖G‖², in examples; NaN where the estimate of ‖G‖² is not positive."""
    noise_scale_se: jax.Array
    """Its standard error, likewise; NaN where leaving one micro-batch out makes ‖G‖² ≤ 0."""
    signal_to_noise: dict[str, jax.Array]
    """Name -> Gᵀu/√(uᵀΣu), of one example; of a batch of B examples it is √B times this. Signed as
    the slope: negative is downhill."""
    signal_to_noise_se: dict[str, jax.Array]
    """Their standard errors, likewise."""


def gradient_noise(
    loss_fn: LossFn,
    params: Params,
    updates: Mapping[str, Any],
    batches: Any,
    *,
    args: tuple = (),
    has_aux: bool = False,
) -> GradientNoise:
    """The noise of the gradient, and of each update's slope, from the spread over micro-batches.

    With gₘ the gradient of micro-batch m of b examples, ḡ the mean of all M, and eₘ = gₘ − ḡ,

        trΣ = b·Σₘ‖eₘ‖²/(M − 1),   ‖G‖² = ‖ḡ‖² − trΣ/(b·M),   noise scale = trΣ/‖G‖²,

    the batch size at which noise and signal are equal. The signal to noise of an update u is the
    same in one dimension: ḡᵀu/√(b·Σₘ(eₘᵀu)²/(M − 1)), whatever u's scale. This takes the loss of a
    micro-batch for the mean over its examples, and examples for independent. Standard errors leave
    out one micro-batch at a time (jackknife).

    May be jitted.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, the mean over the batch's examples;
            compiled and kept as `jax.jit` keeps a function: what it captures is frozen at the first
            call; pass what changes in `args`.
        params: Pytree of real floating-point arrays.
        updates: Name -> update, a pytree like `params`, of any scale.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches. The
            second axis gives b; leaves with one axis are ignored.
        args: Extra arguments of the loss: arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.

    Returns:
        A `GradientNoise` of scalars, in float32 or wider. A zero update, or one that is not finite,
        has a signal to noise of NaN.

    Raises:
        ValueError: leaves that disagree on the micro-batch's size, or none that has one; no
            updates; an update unlike `params`; empty or ragged `batches`.
        TypeError: complex or integer leaves; a loss that is not a real scalar.

    Cost: 2 gradients a micro-batch (the mean, then each one's deviation from it: what is left of
    large sums' difference would be rounding, and the jackknife needs ḡᵀgₘ); memory of two gradients
    and the unit updates beside one micro-batch's.

    Source: McCandlish et al., "An empirical model of large-batch training", 2018 (arXiv
    1812.06162), whose "simple noise scale" this is.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean((x - batch) ** 2) / 2
        >>> batches = jnp.array([[1.0], [2.0], [3.0]])
        >>> found = sharpjax.gradient_noise(loss, jnp.array(0.0), {"up": jnp.array(1.0)}, batches)
        >>> [round(float(x), 3) for x in (found.trace, found.squared_norm, found.noise_scale)]
        [1.0, 3.667, 0.273]
        >>> float(found.signal_to_noise["up"])
        -2.0
    """
    measured = updates_objective(loss_fn, params, updates, batches, args, has_aux)
    size = _micro_batch_size(measured.batches)
    table = measured.run(_noise, [*updates.values()], size=size)
    *scalars, ratios, errors = table
    by_name = [dict(zip(updates, x, strict=True)) for x in (ratios, errors)]
    return GradientNoise(*scalars, *by_name)


def _noise(objective: Objective, updates, *, size):
    count = objective.count
    units = [objective.unit(u) for u in updates]
    norms = jnp.stack([norm for _, norm in units])
    mean = objective.mean(lambda f: jax.grad(f)(objective.params), objective.params)

    def one_micro_batch(f):
        deviation = jax.tree.map(jnp.subtract, jax.grad(f)(objective.params), mean)
        slopes = jnp.stack([dot(deviation, u) for u, _ in units])
        return dot(deviation, deviation), dot(deviation, mean), slopes

    squares, along, slopes = objective.each(one_micro_batch)
    total = dot(mean, mean)
    slope = jnp.stack([dot(mean, u) for u, _ in units])

    def statistics(count, squares, total, slope_squares, slope):
        """Of sums of squared deviations and squared means over `count` micro-batches."""
        trace = size * squares / (count - 1) if count > 1 else jnp.full_like(squares, jnp.nan)
        squared_norm = total - trace / (size * count)
        deviation = slope_squares / (count - 1) if count > 1 else slope_squares * jnp.nan
        deviation = jnp.sqrt(size * deviation)
        signal = jnp.where(norms == 0, jnp.nan, slope / deviation)
        positive = squared_norm > 0
        scale = jnp.where(positive, trace / jnp.where(positive, squared_norm, 1), jnp.nan)
        return trace, squared_norm, scale, signal

    whole = statistics(count, squares.sum(), total, jnp.sum(slopes**2, 0), slope)
    if count < 3:
        errors = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), whole)
    else:
        # Without micro-batch m, the mean is ḡ − eₘ/(M − 1), and the squared deviations from it sum
        # to Σ‖e‖² − ‖eₘ‖²·M/(M − 1).
        rest = count - 1
        less = lambda x: jnp.maximum(x.sum(0, keepdims=True) - x * count / rest, 0)  # noqa: E731
        left = jax.vmap(lambda *xs: statistics(rest, *xs))(
            less(squares),
            total - 2 * along / rest + squares / rest**2,
            less(slopes**2),
            slope[None] - slopes / rest,
        )
        # The jackknife's variance is (M − 1)/M·Σ(x₍ₘ₎ − mean)².
        errors = jax.tree.map(lambda x: jnp.std(x, axis=0) * rest**0.5, left)
    trace, squared_norm, scale, signal = zip(whole, errors, strict=True)
    signals = ([*x] for x in signal)
    return *trace, *squared_norm, *scale, *signals


def _micro_batch_size(batches) -> int:
    shapes = {
        jax.tree_util.keystr(path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(batches)
    }
    sizes = {shape[1] for shape in shapes.values() if len(shape) > 1}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(
            "batches must have leaves [micro_batches, micro_batch ≥ 1, …] that agree on the second "
            f"axis, which is the number of examples; got shapes {shapes}"
        )
    return sizes.pop()
