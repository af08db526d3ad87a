"""Instruments of the padding study: which coordinates, and which targets, padding makes sharp."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sharpjax
from experiments.explanation_rows import PaddingGroup, PaddingPart
from experiments.run.measurements import Point, pairs
from sharpjax.anatomy import block_sharpness
from sharpjax.models.losses import example_weights, weighted_loss
from sharpjax.models.tensor_places import place_of

ROW, OTHER_ROWS = "padding’s row", "other rows"
_KINDS = {"position": "relative positions", "norm": "norms", "output": "head"}


def padding_groups(point: Point, algorithm: str) -> list[PaddingGroup]:
    """A direction's sharpness by groups of a T5's coordinates, the padding's embedding apart.

    Cost: 1 + 2G gradients of the test subset, G = 7 groups.
    """
    pad = point.task.model.config.pad_token_id
    split = functools.partial(split_row, row=pad)
    found = block_sharpness(
        split_loss(point.task.loss_fn, pad),
        split(point.params),
        {algorithm: split(point.updates[algorithm])},
        point.task.test,
        groups=group_of,
    )[algorithm]
    threshold = sharpjax.top_fraction_threshold(point.grads, point.config.clip_fraction)
    sizes = {label: [0, 0] for label in found.labels}
    for path, gradient in jax.tree_util.tree_leaves_with_path(split(point.grads)):
        label = group_of(jax.tree_util.keystr(path, simple=True, separator="/"))
        sizes[label][0] += gradient.size
        sizes[label][1] += int(jnp.sum(jnp.abs(gradient) > threshold))
    sizes[OTHER_ROWS][0] -= sizes[ROW][0]  # The row left a row of zeros behind.
    return [
        PaddingGroup.of(
            (*point.at, algorithm, ours, other),
            coordinates=sizes[ours][0],
            clipped=sizes[ours][1] / sizes[ours][0],
            **columns,
        )
        for ours, other, columns in pairs(found)
    ]


def padding_parts(point: Point) -> list[PaddingPart]:
    """What targets of text and of padding make of every direction. Cost: 5/3 a direction."""
    task = point.task
    parts_fn = text_and_padding(task.model)
    labels = jnp.asarray(task.test["labels"])
    weights = np.mean([_split_weights(task.model, x).sum((0, 1)) for x in labels], axis=0)
    found = sharpjax.measure_parts(parts_fn, point.params, point.updates, task.test)
    return [
        PaddingPart.of(
            (*point.at, algorithm, part),
            jax.tree.map(lambda x, i=i: x[i], stats),
            targets=weights[i],
        )
        for algorithm, stats in found.items()
        for i, part in enumerate(("text", "padding"))
    ]


def group_of(path: str) -> str:
    """The group of a tensor of a T5 whose padding's row is split from its embedding."""
    if path.startswith("shared/"):
        return ROW if path == "shared/row" else OTHER_ROWS
    layer, kind = place_of(path)
    if kind in _KINDS:
        return _KINDS[kind]
    return "cross-attention" if kind.startswith("cross") else layer.split()[0]


def split_row(tree: Any, row: int) -> Any:
    """A tree like a T5's parameters with one row of its embedding as a tensor of its own."""
    embedding = tree["shared"]["embedding"]
    rest = embedding.at[row].set(0)
    return tree | {"shared": {"row": embedding[row], "embedding": rest}}


@functools.cache  # The same function for the same loss: it compiles once.
def split_loss(loss_fn: Callable, row: int) -> Callable:
    """The loss as a function of parameters that `split_row` split."""

    def loss(params: Any, batch: Any) -> jax.Array:
        own = params["shared"]
        embedding = own["embedding"].at[row].add(own["row"])
        return loss_fn(params | {"shared": {"embedding": embedding}}, batch)

    return loss


@functools.cache
def text_and_padding(model: Any) -> Callable:
    """`parts_fn(params, batch)` -> the loss of targets that are text, and that are padding, [2]."""

    def parts_fn(params: Any, batch: Any) -> jax.Array:
        weigh = lambda labels, _: _split_weights(model, labels)  # noqa: E731
        return weighted_loss(model, params, batch, None, weigh, logit_chunk=None, remat=False)

    return parts_fn


def _split_weights(model: Any, labels: jax.Array) -> jax.Array:
    """[batch, length, 2]: the loss's weights of text and of padding."""
    padding = labels == model.config.pad_token_id
    weights = example_weights(labels, "example")
    return weights[..., None] * jnp.stack([~padding, padding], -1)
