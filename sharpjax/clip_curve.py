"""How much to clip: slope, sharpness and best decrease of a direction over clipped fractions."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from sharpjax._checks import check_choice, check_in_range
from sharpjax.clipping import clip_top_fraction
from sharpjax.directions import DirectionStats, measure_directions
from sharpjax.landscape import LineSearch, search_along


class ClipPoint(NamedTuple):
    """One clipped form of a direction."""

    fraction: float
    stats: DirectionStats
    search: LineSearch


def clip_curve(
    loss_fn: Callable,
    params: Any,
    direction: Any,
    fractions: Sequence[float],
    batches: Any,
    *,
    scope: Literal["global", "tensor"] = "global",
    method: str = "reverse",
    key: jax.Array | None = None,
) -> Iterator[ClipPoint]:
    """What clipping a descent direction does, fraction by fraction.

    At fraction 0 it is the direction itself; at 1 every coordinate has the smallest magnitude:
    the signs of the direction. Where zeros make the threshold zero and nothing would be left, it
    is the limit of small thresholds, the signs again (with "tensor", tensors that have too many
    zeros vanish beside the others).

    Args:
      loss_fn: `loss_fn(params, batch)` -> real scalar; `loss_fn(params, batch, key)` with `key`.
      params: Pytree of real floating-point arrays.
      direction: Pytree like `params`, an update: it points downhill.
      fractions: Numbers in [0, 1].
      batches: Pytree of leaves [micro_batches, micro_batch, …].
      scope: One threshold over all tensors, or one for each; see `coord_clip`.
      method: "reverse" or "forward", as in `directional_taylor`.
      key: One dropout key for all micro-batches; None evaluates without.

    Yields:
      A `ClipPoint` for each fraction, so that a long curve can be interrupted.

    Raises:
      ValueError, TypeError: as `clip_top_fraction`, `measure_directions` and `search_along`.

    Cost: a fraction costs 3 gradients or less and 20 to 40 forward passes over all batches; memory
    of one clipped copy of the direction.

    Source: the paper, Section 4 (k = 5 %).
    """
    check_choice("scope", scope, ("global", "tensor"))
    for fraction in fractions:
        check_in_range("fractions", fraction, 0.0, 1.0)
    for fraction in fractions:
        clipped = clip_top_fraction(direction, fraction, scope=scope)
        if not any(bool(jnp.any(x != 0)) for x in jax.tree.leaves(clipped)):
            clipped = jax.tree.map(jnp.sign, direction)
        stats = measure_directions(loss_fn, params, {"clipped": clipped}, batches, method=method)[
            "clipped"
        ]
        newton = float(stats.newton_step)
        start = newton if 0 < newton < float("inf") else None
        search = search_along(loss_fn, params, clipped, batches, initial_step=start, key=key)
        yield ClipPoint(fraction, stats, search)
