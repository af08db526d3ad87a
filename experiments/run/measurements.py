"""The instruments of an anatomy: each looks at one point and returns the rows to be recorded."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sharpjax
from experiments.anatomy_rows import (
    BIN,
    Block,
    Clipped,
    Correlation,
    Decrease,
    Density,
    Lorenz,
    Parts,
    Ritz,
    SpanPair,
    SpanValue,
)
from experiments.config import Config
from experiments.data.tasks import Task, rng
from experiments.run import training
from experiments.run.options import Options
from experiments.run.training import paths
from sharpjax.anatomy import BlockSharpness, block_sharpness, sharpness_by_rank
from sharpjax.clip_curve import clip_curve
from sharpjax.coordinates import sample_coordinates, take_coordinates
from sharpjax.diagonal import hessian_diagonal
from sharpjax.gauss_newton import gauss_newton_sharpness
from sharpjax.models import make_logits
from sharpjax.models.losses import example_weights
from sharpjax.models.tensor_places import place_of
from sharpjax.statistics import rank_correlation
from sharpjax.subspace import combine_directions, measure_span, span_step

_MINIMUM = 30  # Sampled coordinates from which a tensor has a correlation of its own.


@dataclasses.dataclass(frozen=True)
class Point:
    """Where the instruments are held, and what they are held to."""

    task: Task
    config: Config
    options: Options
    at: tuple  # The values of AtPoint.KEY.
    params: Any
    grads: Any
    updates: Any  # `training.Updates`.

    def seed(self, purpose: str) -> int:
        """That of one instrument's randomness."""
        return int(rng(self.task.seed, self.task.name, "anatomy", purpose).integers(2**31))

    def rng(self, purpose: str) -> jax.Array:
        """The same as a key."""
        return jax.random.key(self.seed(purpose))

    def lanczos(self, purpose: str, **options: Any) -> sharpjax.Spectrum:
        """The spectrum of the test loss's Hessian, in as many steps as the options say."""
        return sharpjax.lanczos_spectrum(
            self.task.loss_fn,
            self.params,
            self.task.test,
            self.rng(purpose),
            steps=self.options.lanczos_steps,
            **options,
        )


def lorenz(point: Point, algorithm: str) -> list[Lorenz]:
    """How much of a direction's sharpness its top fractions of gradient coordinates hold."""
    fractions = point.options.fractions
    found = sharpness_by_rank(
        point.task.loss_fn,
        point.params,
        {algorithm: point.updates[algorithm]},
        point.grads,
        fractions,
        point.task.test,
    )[algorithm]
    return [
        Lorenz.of((*point.at, algorithm, fraction), jax.tree.map(lambda x, i=i: x[i], found))
        for i, fraction in enumerate(fractions)
    ]


def blocks(point: Point, algorithm: str) -> list[Block]:
    """Sharpness within and between the places of a direction's tensors."""
    found = block_sharpness(
        point.task.loss_fn,
        point.params,
        {algorithm: point.updates[algorithm]},
        point.task.test,
        groups=place_of,
    )[algorithm]
    return [
        Block.of((*point.at, algorithm, *ours, *other), **columns)
        for ours, other, columns in pairs(found)
    ]


def pairs(found: BlockSharpness) -> Iterator[tuple[Any, Any, dict[str, float]]]:
    """Every two labels of blocks, with what a row says of them."""
    matrix, errors, squares = jax.device_get((found.matrix, found.matrix_se, found.squared_norms))
    for i, ours in enumerate(found.labels):
        for j, other in enumerate(found.labels):
            columns = {"sharpness": matrix[i, j], "sharpness_se": errors[i, j]}
            yield ours, other, columns | {"squared_norm": squares[i]}


def parts(point: Point) -> list[Parts]:
    """Every direction's sharpness as Gauss-Newton part and residual."""
    found = gauss_newton_sharpness(
        make_logits(point.task.model),
        loss_of_logits,
        point.params,
        point.updates,
        point.task.test,
    )
    return [Parts.of((*point.at, name), split) for name, split in found.items()]


def loss_of_logits(logits: jax.Array, batch: Any) -> jax.Array:
    """The tasks' loss: the mean over examples of the mean over their counted tokens."""
    labels = batch["labels"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(example_weights(labels, "example") * losses)


def span(point: Point) -> list:
    """Curvature in the span of all directions, and decreases along each and along its best step."""
    loss_fn, test = point.task.loss_fn, point.task.test
    model = measure_span(loss_fn, point.params, point.updates, test)
    step = span_step(model)
    names = model.names
    cosines, curvature, errors = jax.device_get((model.gram, model.curvature, model.curvature_se))
    rows: list[Any] = [
        SpanPair(*point.at, a, b, *(float(x[i, j]) for x in (cosines, curvature, errors)))
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    rows += [
        SpanValue(*point.at, i, float(value), float(error), bool(kept))
        for i, (value, error, kept) in enumerate(
            zip(step.eigenvalues, step.eigenvalues_se, step.kept, strict=True)
        )
    ]
    slopes = np.asarray(model.slopes, np.float64)
    for i, (name, update) in enumerate(point.updates.items()):
        convex = curvature[i, i] > 0
        newton = -slopes[i] / curvature[i, i] if convex else np.nan
        promised = slopes[i] ** 2 / (2 * curvature[i, i]) if convex else np.nan
        ours = (float(step.coefficients[i]), float(newton), float(promised))
        rows.append(Decrease(*point.at, name, *ours, *_descend(point, update, newton)))
    whole = combine_directions(point.updates, step.coefficients)
    ours = (float("nan"), step.norm, step.predicted_decrease)
    rows.append(Decrease(*point.at, "span", *ours, *_descend(point, whole, step.norm)))
    return rows


def _descend(point: Point, direction, newton) -> tuple[float, float, float]:
    """(decrease at the model's step, best step, best decrease) along a direction."""
    start = float(newton) if 0 < newton < np.inf else None
    found = sharpjax.search_along(
        point.task.loss_fn, point.params, direction, point.task.test, initial_step=start
    )
    there = float("nan")
    if np.isfinite(newton):
        at = sharpjax.loss_along(
            point.task.loss_fn, point.params, direction, np.array([newton]), point.task.test
        )
        there = float(found.losses[0] - at[0])
    return there, found.best_step, found.best_decrease


def spectrum(point: Point) -> list[Ritz]:
    """Eigenvalues and weights of the Hessian by Lanczos from random starts."""
    found = point.lanczos("spectrum", probes=point.options.lanczos_probes)
    return ritz_values(Ritz, point.at, found)


def ritz_values(table: type, key: tuple, found: Any, **columns: Any) -> list[Any]:
    """A row for each Ritz value of a `Spectrum`."""
    values = [np.asarray(x) for x in (found.eigenvalues, found.weights, found.residuals)]
    names = ("eigenvalue", "weight", "residual")
    return [
        table.of(
            (*key, *i),
            parameters=found.size,
            **dict(zip(names, (x[i] for x in values), strict=True)),
            **columns,
        )
        for i in np.ndindex(values[0].shape)
    ]


def correlations(point: Point) -> list:
    """Rank correlations of |gradient| with the Hessian's diagonal, and their joint density."""
    options, task = point.options, point.task
    chosen = sample_coordinates(point.params, options.coordinates, point.seed("coordinates"))
    found = hessian_diagonal(
        task.loss_fn,
        point.params,
        task.test,
        point.rng("diagonal"),
        probes=options.probes,
        coordinates=chosen,
    )
    samples = np.concatenate([np.asarray(x) for x in jax.tree.leaves(found.samples)], axis=1)
    diagonal = take_coordinates(found.diagonal, chosen)
    error = take_coordinates(found.standard_error, chosen)
    sizes = [len(x) for x in jax.tree.leaves(chosen)]
    tensors = np.repeat(np.arange(len(sizes)), sizes)
    everything = np.ones(len(diagonal), bool)
    scopes: list[tuple] = [("overall", everything, None), ("within tensors", everything, tensors)]
    scopes += [
        (path, tensors == i, None)
        for i, path in enumerate(paths(point.params))
        if np.sum(tensors == i) >= _MINIMUM
    ]
    _, of_test = training.gradient(task.loss_fn, point.params, task.test, None)
    rows: list[Any] = []
    last: list[Any] = []
    for name, tree in (("batch", point.grads), ("test", of_test)):
        gradient = take_coordinates(tree, chosen)
        bins = np.stack([_bins(gradient), _bins(diagonal)], axis=1)
        edges, counts = np.unique(bins, axis=0, return_counts=True)
        rows += [
            Density(*point.at, name, float(x), float(y), int(count))
            for (x, y), count in zip(edges, counts, strict=True)
        ]
        for scope, which, groups in scopes:
            ranks = rank_correlation(gradient[which], samples[:, which], groups)
            resolved = np.mean(np.abs(diagonal[which]) > 2 * error[which])
            last.append(
                Correlation.of(
                    (*point.at, name, scope), ranks, resolved=resolved, probes=options.probes
                )
            )
    return rows + last


def _bins(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.floor(np.log10(np.abs(values)) / BIN) * BIN


def clipped(point: Point, quantity: str, scope: Any, fraction: float) -> list[Clipped]:
    """What one fraction of clipping makes of SGD's direction."""
    if quantity == "momentum":
        direction = point.updates["sgd"]
    else:
        direction = jax.tree.map(lambda g: -g, point.grads)
    (found,) = clip_curve(
        point.task.loss_fn,
        point.params,
        direction,
        [fraction],
        point.task.test,
        scope=scope,
        method=point.config.method,
    )
    search = {k: getattr(found.search, k) for k in ("best_step", "best_decrease")}
    return [Clipped.of((*point.at, quantity, scope, fraction), found.stats, **search)]
