"""How large the parameters and the gradient are in each kind of tensor.

Adafactor's step follows each tensor's root mean square, and SGD's goes where the gradient is
large: where a model starts from decides both.
"""

import math

import jax
import jax.numpy as jnp

from experiments.rows import Scales
from experiments.run import training
from experiments.run.training import paths
from sharpjax.models.tensor_places import FAMILIES, family_of, place_of


def measure(cell: tuple, step: training.Step) -> list[Scales]:
    """One row for each kind that the model has, at the point before a step's update.

    Args:
      cell: (task, trajectory, seed, epoch, batch).
      step: Its parameters, its gradient and its training loss.
    """
    sums: dict[str, list[float]] = {}
    for path, *values in zip(
        paths(step.params),
        [x.size for x in jax.tree.leaves(step.params)],
        map(float, _squares(step.params)),
        map(float, _squares(step.grads)),
        strict=True,
    ):
        total = sums.setdefault(family_of(place_of(path)[1]), [0, 0.0, 0.0])
        for i, value in enumerate(values):
            total[i] += value
    norm = math.fsum(gradient for _, _, gradient in sums.values())
    return [
        Scales.of(
            (*cell, kind),
            training_loss=step.loss,
            parameters=count,
            parameter_rms=math.sqrt(parameter / count),
            gradient_rms=math.sqrt(gradient / count),
            gradient_share=gradient / norm if norm else math.nan,
        )
        for kind, (count, parameter, gradient) in sorted(
            sums.items(), key=lambda item: FAMILIES.index(item[0])
        )
    ]


@jax.jit
def _squares(tree) -> list[jax.Array]:
    """Sum of squares of each leaf."""
    return [jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)]
