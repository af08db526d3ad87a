"""Instruments of what later work explains Adam's lead by: each looks at an anatomy's point.

Stability under the preconditioner, the frequency of tokens, noise, the conjecture without probes,
the dominant subspace, and how blocks of tensors differ. Costs are in gradients of the test subset.
"""

from typing import Any

import jax
import numpy as np

import sharpjax
from experiments.data.tasks import Task
from experiments.explanation_rows import (
    BlockDistance,
    BlockRitz,
    BlockSummary,
    Cosine,
    Diagonal,
    Dominant,
    Eigenvector,
    ExactCorrelation,
    FrequencyPart,
    Noise,
    Preconditioned,
    Signal,
)
from experiments.run import training
from experiments.run.measurements import Point, ritz_values
from experiments.run.training import paths
from sharpjax.coordinates import stratified_coordinates, take_coordinates
from sharpjax.directions import newton_start
from sharpjax.models import frequency_bins, frequency_parts
from sharpjax.models.tensor_places import place_of
from sharpjax.statistics import exact_rank_correlation


def preconditioned(point: Point) -> list[Preconditioned]:
    """The spectrum as Adam sees it, beside the edge of its stability.

    Cost: 3·lanczos_probes·lanczos_steps.
    """
    found = point.lanczos(
        "preconditioned",
        preconditioner=sharpjax.preconditioner(point.updates.state("adam"), point.params),
        probes=point.options.lanczos_probes,
    )
    trains = point.at[1] == "adam"
    edge = sharpjax.adaptive_edge(point.config.adam_learning_rate) if trains else np.nan
    return ritz_values(Preconditioned, point.at, found, edge=edge)


def frequency(point: Point) -> list[FrequencyPart]:
    """Which tokens, by their frequency in the training text, make slope and sharpness.

    Cost: 5/3 a direction.
    """
    counts, bins = token_counts(point.task), point.options.frequency_bins
    made = frequency_bins(counts, min(bins, int(np.count_nonzero(counts))))
    parts_fn = frequency_parts(point.task.model, counts, tuple(map(int, made.edges[1:-1])))
    found = sharpjax.measure_parts(parts_fn, point.params, point.updates, point.task.test)
    return [
        FrequencyPart.of(
            (*point.at, algorithm, part),
            jax.tree.map(lambda x, part=part: x[part], stats),
            ranks=ranks,
            tokens=made.shares[part],
        )
        for algorithm, stats in found.items()
        for part, ranks in enumerate(made.labels)
    ]


def token_counts(task: Task) -> np.ndarray:
    """How often each token is in the training text that the model is to write, [vocabulary].

    Of a masked text every token counts, also those that are not masked: which ones are is chance.
    """
    labels = np.asarray(task.examples["labels"])
    counted = labels >= 0
    if task.name == "mlm":
        text = np.where(counted, labels, task.examples["input_ids"])
        tokens = text[np.asarray(task.examples["attention_mask"]) > 0]
    else:
        tokens = labels[counted]
    return np.bincount(tokens, minlength=task.model.config.vocab_size)


def noise(point: Point) -> list:
    """The gradient's noise, and every direction's signal to noise. Cost: 2."""
    found = sharpjax.gradient_noise(
        point.task.loss_fn, point.params, point.updates, point.task.test
    )
    rows: list[Any] = [
        Signal(*point.at, algorithm, float(ratio), float(found.signal_to_noise_se[algorithm]))
        for algorithm, ratio in found.signal_to_noise.items()
    ]
    return [*rows, Noise.of(point.at, found)]


def exact_diagonal(point: Point) -> list:
    """The conjecture without probes: Hᵢᵢ of as many coordinates in each stratum of |gradient|.

    Cost: 1 a coordinate.
    """
    options, task = point.options, point.task
    drawn = stratified_coordinates(
        point.grads, options.exact_coordinates, point.seed("strata"), fractions=options.strata
    )
    chosen = drawn.coordinates
    found = sharpjax.exact_diagonal(task.loss_fn, point.params, task.test, chosen)
    _, of_test = training.gradient(task.loss_fn, point.params, task.test, None)
    flat = lambda tree: np.concatenate([np.asarray(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    value, error, weights, strata, at = map(
        flat, (found.value, found.standard_error, drawn.weights, drawn.strata, chosen)
    )
    gradients = {
        "batch": take_coordinates(point.grads, chosen),
        "test": take_coordinates(of_test, chosen),
    }
    tensors = np.repeat(paths(chosen), [len(x) for x in jax.tree.leaves(chosen)])
    rows: list[Any] = [
        Diagonal(*point.at, str(tensor), int(at[i]), int(strata[i]), *map(float, numbers))
        for i, (tensor, *numbers) in enumerate(
            zip(tensors, weights, *gradients.values(), value, error, strict=True)
        )
    ]
    for name, gradient in gradients.items():
        ranks = exact_rank_correlation(gradient, value, weights, strata)
        rows.append(ExactCorrelation.of((*point.at, name), ranks))
    return rows


def dominant(point: Point) -> list:
    """How much of each update lies in the top eigenvectors, and what it is without that part.

    Cost: 3·lanczos_steps, and 2 and two searches (of some 35 losses each) a direction.
    """
    spectrum = _top_vectors(point)
    rows = _eigenvectors(point, spectrum)
    last: list[Any] = []
    for algorithm in point.updates:  # One update at a time.
        update = point.updates[algorithm]
        cosines = _cosines(point, algorithm, update, spectrum)
        rows += cosines
        whole = _descent(point, update)
        rest = _descent(point, sharpjax.without_dominant(update, spectrum))
        share = float(np.nansum([r.squared_cosine for r in cosines]))
        last.append(Dominant(*point.at, algorithm, len(cosines), share, *whole, *rest))
    return rows + last


def dominant_shares(point: Point) -> list:
    """How much of each update lies in the top eigenvectors. Cost: 3·lanczos_steps."""
    spectrum = _top_vectors(point)
    rows = _eigenvectors(point, spectrum)
    for algorithm in point.updates:
        rows += _cosines(point, algorithm, point.updates[algorithm], spectrum)
    return rows


def _top_vectors(point: Point) -> sharpjax.Spectrum:
    count = min(point.options.dominant, point.options.lanczos_steps)
    return point.lanczos("dominant", vectors=count, probes=1)


def _eigenvectors(point: Point, spectrum: sharpjax.Spectrum) -> list[Any]:
    values = zip(spectrum.vector_values, spectrum.vector_residuals, strict=True)
    return [
        Eigenvector(*point.at, k, float(value), float(residual))
        for k, (value, residual) in enumerate(values)
    ]


def _cosines(point: Point, algorithm: str, update: Any, spectrum: Any) -> list[Cosine]:
    squares = np.asarray(sharpjax.dominant_share({algorithm: update}, spectrum)[algorithm])
    return [Cosine(*point.at, algorithm, k, float(x)) for k, x in enumerate(squares)]


def _descent(point: Point, direction: Any) -> tuple[float, float, float]:
    """(sharpness, its standard error, best decrease) along a direction."""
    task, of = point.task, {"direction": direction}
    stats = sharpjax.measure_directions(
        task.loss_fn, point.params, of, task.test, method=point.config.method
    )["direction"]
    start = newton_start(stats, point.params)
    found = sharpjax.search_along(
        task.loss_fn, point.params, direction, task.test, initial_step=start
    )
    return float(stats.sharpness), float(stats.sharpness_se), float(found.best_decrease)


def block_spectra(point: Point) -> list:
    """The spectrum of each layer's and kind's block, and how far the blocks are apart.

    Cost: 3·block_probes·block_steps a block.
    """
    options = point.options
    found = sharpjax.block_spectra(
        point.task.loss_fn,
        point.params,
        point.task.test,
        point.rng("blocks"),
        groups=place_of,
        probes=options.block_probes,
        steps=options.block_steps,
    )
    distances = np.asarray(found.distances)
    fields = ("eigenvalues", "weights", "residuals")
    rows: list[Any] = []
    for b, (block, size) in enumerate(zip(found.labels, found.sizes, strict=True)):
        own = sharpjax.Spectrum(*(getattr(found, field)[b] for field in fields), size)
        rows += ritz_values(BlockRitz, (*point.at, *block), own)
    rows += [
        BlockDistance(*point.at, *ours, *other, float(distances[i, j]))
        for i, ours in enumerate(found.labels)
        for j, other in enumerate(found.labels)
    ]
    numbers = len(found.labels), float(found.distance), float(found.distance_se)
    return [*rows, BlockSummary(*point.at, *numbers)]
