"""The diagonal by which an adaptive optimizer divides, read from its state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sharpjax._checks import check_in_range
from sharpjax.optimizers import FactoredRmsState


def preconditioner(
    optimizer_state: Any, params: Any = None, *, b2: float = 0.999, eps: float = 1e-8
) -> Any:
    r"""P = √v̂ + ε, where the optimizer moves by −η·m̂/P.

    - Adam's family (`optax.ScaleByAdamState`: Adam, AdamW, NAdam, `sharpjax.adam` …):
      √(v/(1−b2ᵗ)) + eps. A state holds neither number: give what the optimizer was made with.
      AdaBelief likewise, and AMSGrad with the largest so far.
    - RMSProp (`optax.ScaleByRmsState`, or centred `optax.ScaleByRStdDevState`): √v or √(v − m²),
      the ε of which optax adds inside the root: √(v + eps).
    - Adafactor (`optax.FactoredState`, and ours, `FactoredRmsState`): √(R·C/mean R) and √V̂ of what
      is not factored; ε is in the statistics, and no bias is corrected. optax's does not say which
      axes it factored, so that `params` must be given.

    The state may be chained, masked, partitioned, injected (`optax.inject_hyperparams`), under
    `optax.MultiSteps`, or in a dictionary: the one preconditioner in it is found. The parts of
    `optax.partition` are put together; parameters of no adaptive part stay `optax.MaskedNode`.

    Args:
        optimizer_state: Of at least one update.
        params: Arrays, or anything with their shapes; read for `optax.FactoredState` only.
        b2: β₂ in [0, 1) of Adam's family.
        eps: ε ≥ 0 of Adam's family and RMSProp; optax's defaults, 1e-8.

    Returns:
        A tree like the parameters, of the dtypes of the statistics. May be jitted.

    Raises:
        ValueError: There is no such state in it, as in SGD's, or several for the same parameters;
            or `params` is needed.

    Cost: no gradient; a pass over the statistics, and the memory of the parameters.

    Source: Cohen et al., "Adaptive gradient methods at the edge of stability", 2022 (arXiv
    2207.14484).

    Example:
        >>> import jax.numpy as jnp, optax, sharpjax
        >>> tx = optax.adam(0.1)
        >>> grads = {"w": jnp.array([3.0, -4.0])}
        >>> _, state = tx.update(grads, tx.init(grads))
        >>> [round(float(x), 3) for x in sharpjax.preconditioner(state)["w"]]
        [3.0, 4.0]
    """
    check_in_range("b2", b2, 0.0, 1.0, open_high=True)
    check_in_range("eps", eps, 0.0, float("inf"), open_high=True)
    kinds = (
        optax.ScaleByAdamState,
        optax.ScaleByAmsgradState,
        optax.ScaleByBeliefState,
        optax.ScaleByRmsState,
        optax.ScaleByRStdDevState,
        optax.FactoredState,
        FactoredRmsState,
    )
    is_kind = lambda node: isinstance(node, kinds)  # noqa: E731
    found = [s for s in jax.tree.leaves(optimizer_state, is_leaf=is_kind) if is_kind(s)]
    if not found:
        raise ValueError(
            "optimizer_state holds no preconditioner: none of "
            + ", ".join(kind.__name__ for kind in kinds)
        )
    whole, *others = [_of_state(state, params, b2, eps) for state in found]
    for other in others:
        whole = jax.tree.map(_either, whole, other, is_leaf=_is_masked)
    return whole


def _of_state(state: Any, params: Any, b2: float, eps: float) -> Any:
    if isinstance(state, optax.ScaleByAmsgradState):
        return jax.tree.map(lambda v: jnp.sqrt(v) + eps, state.nu_max)
    if isinstance(state, optax.ScaleByAdamState | optax.ScaleByBeliefState):
        unbiased = optax.tree.bias_correction(state.nu, b2, state.count)
        return jax.tree.map(lambda v: jnp.sqrt(v) + eps, unbiased)
    if isinstance(state, optax.ScaleByRStdDevState):
        return jax.tree.map(lambda v, m: jnp.sqrt(v - m**2 + eps), state.nu, state.mu)
    if isinstance(state, optax.ScaleByRmsState):
        return jax.tree.map(lambda v: jnp.sqrt(v + eps), state.nu)
    if isinstance(state, FactoredRmsState):
        return jax.tree.map(_of_sums, state.rows, state.columns, state.full)
    if params is None:
        raise ValueError("optax.FactoredState does not say which axes it factored: give params")
    return jax.tree.map(
        lambda r, *rest: r if _is_masked(r) else _of_means(r, *rest),
        state.v_row, state.v_col, state.v, params, is_leaf=_is_masked,
    )  # fmt: skip


def _of_sums(r: jax.Array, c: jax.Array, v: jax.Array) -> jax.Array:
    """Ours: R sums rows, C columns of the last two axes; V̂ of vectors, where R and C are one 0."""
    if r.shape == c.shape == (1,):
        return jnp.sqrt(v)
    # Roots of the factors apart: R·C would leave float32's range for tiny gradients.
    row = jnp.sqrt(r / r.sum(-1, keepdims=True))
    return row[..., :, None] * jnp.sqrt(c)[..., None, :]


def _of_means(r: jax.Array, c: jax.Array, v: jax.Array, param: Any) -> jax.Array:
    """Of optax: means over the largest axis and over the second largest, where factored."""
    if v.shape == param.shape:
        return jnp.sqrt(v)
    second, largest = np.argsort(param.shape)[-2:]
    row = jnp.sqrt(r / r.mean(second - (second > largest), keepdims=True))
    return jnp.expand_dims(row, largest) * jnp.expand_dims(jnp.sqrt(c), second)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _either(a: Any, b: Any) -> Any:
    """The one that is not masked."""
    if not (_is_masked(a) or _is_masked(b)):
        raise ValueError("optimizer_state holds several preconditioners for the same parameters")
    return b if _is_masked(a) else a
