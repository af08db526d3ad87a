"""vᵀHv of many directions from one backward pass: the adjoint scheme.

A loss is a sequence of units yₑ = φₑ(xₑ), whose inputs xₑ are parameters and outputs of earlier
units. Differentiating twice along a direction v, with ẋₑ the first-order tangents and ȳₑ the
derivative of the loss in yₑ through all other units,

    vᵀHv = Σₑ ⟨ȳₑ, D²φₑ(xₑ)[ẋₑ, ẋₑ]⟩,

since what a second-order term does further on is first-order, and the adjoint counts it. Linear
units drop out. The adjoints are one backward pass, shared by all directions; a direction carries
first-order tangents forward and one bilinear term a unit. In matrix products of the size of the
forward pass, the shared part is 2 (no product with a parameter's adjoint is formed) and a
direction 3, as many as a gradient. A scan is a sequence of such sequences.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sharpjax._units import ForwardModeError, Program, wide, widen

__all__ = ["ForwardModeError", "second_order"]


def second_order(f: Callable, params: Any) -> tuple[jax.Array, Callable]:
    """The loss f(params), and the function v -> (gᵀv, vᵀHv) of directions that are not normalised.

    Args:
        f: `f(params)` -> real scalar, differentiable twice forward and once in reverse: loops,
          branches, `custom_jvp` and rematerialised blocks are fine.
        params: Pytree of real floating-point arrays.

    Returns:
        `(loss, along)`; `along(v)` takes a pytree like `params`, and may be mapped. It uses what
        the shared pass left: call it where `second_order` was called. All three scalars are in
        float32 or wider, whatever f computes in.

    Raises:
        ForwardModeError: a TypeError; parameters reach the loss through a `custom_vjp` function.

    Cost: the shared pass has a forward pass's matrix products twice, each direction three times.
    Memory: inputs and adjoints of matrix products and of what lies between them, of every step of a
    scan. A rematerialised block or a branch is one unit: its insides are not kept, and count five
    times.
    """
    leaves, structure = jax.tree.flatten(params)
    closed = jax.make_jaxpr(lambda *xs: f(structure.unflatten(xs)))(*leaves)
    program = Program(closed, [True] * len(leaves), [False] * len(leaves), [True] * len(leaves))
    (loss,), kept = program.forward(leaves)
    loss = jnp.asarray(loss)  # A loss that no parameter reaches is a literal.
    values = program.values(leaves, kept)
    adjoints = program.backward(values, [jnp.ones_like(loss)])[1]

    def along(v):
        (slope,), sharpness = program.along(values, adjoints, jax.tree.leaves(v))
        slope = jnp.zeros_like(loss) if slope is None else slope
        return widen(slope), sharpness.astype(wide(loss.dtype))

    return widen(loss), along
