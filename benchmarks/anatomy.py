"""What each of the library's measurements costs, in gradients of the same data.

The models of the study's preset `small` (or tiny ones) at its own lengths, random weights, tokens
and directions.
`gradients` is the time of one call over that of one gradient of the mean loss over all
micro-batches, at the same precision, taken in turns; `each` is that for one of `count`: a
direction, a loss, a probe, a coordinate, a Hessian product. These are times of one machine; what a
measurement's docstring says counts matrix products.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sharpjax
from benchmarks import _harness
from experiments.data.tasks import make_model
from experiments.presets import PRESETS
from experiments.run.measurements import loss_of_logits
from sharpjax.coordinates import sample_coordinates
from sharpjax.models import frequency_parts, init_params, make_logits, make_loss, places

TASKS = {"t5": "translation", "roberta": "mlm"}
TINY = {"vocab_size": 64, "d_model": 8, "d_ff": 16, "layers": 1, "heads": 2}
BINS = 8


class Size(NamedTuple):
    """How much of everything is measured at once."""

    micro_batches: int
    examples: int
    length: int | None  # Of sources and targets; None: the study's.
    products: int
    coordinates: int
    losses: int
    probes: int


FULL = Size(2, 8, None, products=10, coordinates=16, losses=8, probes=4)
QUICK = Size(2, 2, 6, products=2, coordinates=2, losses=3, probes=2)


class Cost(NamedTuple):
    """A measurement of `count` things by one call."""

    count: int
    of: str
    call: Callable[[], Any]


def measurements(name: str, quick: bool) -> dict[str, Cost]:
    """Every measurement by the name of its function; "gradient" is what they are compared with."""
    size = QUICK if quick else FULL
    about = getattr(PRESETS["small"], TASKS[name])
    model = make_model(TASKS[name], dataclasses.replace(about, **(TINY if quick else {})))
    params = init_params(model, jax.random.key(0))
    batches = data(model, size, about.length if size.length is None else size.length)
    updates = {letter: random_like(params, seed) for seed, letter in enumerate("ab")}
    key, loss_fn, logits_fn = jax.random.key(1), make_loss(model), make_logits(model)
    here = loss_fn, params
    counts = np.bincount(np.ravel(batches["labels"]), minlength=model.config.vocab_size)
    parts_fn = frequency_parts(model, counts, BINS)
    operator = sharpjax.hessian_operator(loss_fn, params, batches)
    gradient = jax.jit(lambda p: mean_gradient(loss_fn, p, batches))
    chosen = sample_coordinates(params, size.coordinates, seed=0)
    lanczos = {"probes": 1, "steps": size.products, "vectors": 2}

    @functools.cache
    def preconditioner():
        grads, adam = gradient(params), optax.adam(1e-3)
        return sharpjax.preconditioner(adam.update(grads, adam.init(params))[1])

    @functools.cache
    def vectors():
        return sharpjax.lanczos_spectrum(*here, batches, key, **lanczos)

    grid = np.linspace(0.0, 1.0, size.losses)
    side = 3
    products, two = size.products, len(updates)
    a, b = updates.values()
    lib = sharpjax
    return {
        "gradient": Cost(1, "gradient", lambda: gradient(params)),
        "hessian_operator": Cost(1, "product", lambda: operator(a)),
        "measure_directions": Cost(
            two, "directions", lambda: lib.measure_directions(*here, updates, batches)
        ),
        "loss_along": Cost(size.losses, "losses", lambda: lib.loss_along(*here, a, grid, batches)),
        "loss_plane": Cost(
            side**2,
            "losses",
            lambda: lib.loss_plane(*here, a, b, batches, points=side, extent=1.0).losses,
        ),
        "measure_span": Cost(two, "directions", lambda: lib.measure_span(*here, updates, batches)),
        "gauss_newton_sharpness": Cost(
            two,
            "directions",
            lambda: lib.gauss_newton_sharpness(logits_fn, loss_of_logits, params, updates, batches),
        ),
        "block_sharpness": Cost(
            two,
            "directions",
            lambda: lib.block_sharpness(*here, updates, batches, groups=places),
        ),
        "measure_parts": Cost(
            two, "directions", lambda: lib.measure_parts(parts_fn, params, updates, batches)
        ),
        "gradient_noise": Cost(1, "call", lambda: lib.gradient_noise(*here, updates, batches)),
        "hessian_diagonal": Cost(
            size.probes,
            "probes",
            lambda: lib.hessian_diagonal(*here, batches, key, probes=size.probes),
        ),
        "exact_diagonal": Cost(
            size.coordinates, "coordinates", lambda: lib.exact_diagonal(*here, batches, chosen)
        ),
        "lanczos_spectrum": Cost(
            products, "products", lambda: lib.lanczos_spectrum(*here, batches, key, **lanczos)
        ),
        "lanczos_spectrum, preconditioned": Cost(
            products,
            "products",
            lambda: lib.lanczos_spectrum(
                *here, batches, key, preconditioner=preconditioner(), **lanczos
            ),
        ),
        "block_spectra": Cost(
            2 * len(params),
            "products",
            lambda: lib.block_spectra(*here, batches, key, probes=1, steps=2),
        ),
        "dominant_share": Cost(two, "directions", lambda: lib.dominant_share(updates, vectors())),
        "top_overlap": Cost(two, "directions", lambda: lib.top_overlap(updates, 0.05)),
    }


def data(model: Any, size: Size, length: int) -> dict[str, np.ndarray]:
    """Random tokens [micro_batches, examples, length], none of them padding."""
    draw = np.random.default_rng(0)
    shape = size.micro_batches, size.examples, length
    ids, labels = draw.integers(5, model.config.vocab_size, (2, *shape), dtype=np.int32)
    return {"input_ids": ids, "attention_mask": np.ones(shape, np.int32), "labels": labels}


def random_like(tree: Any, seed: int) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return structure.unflatten(drawn)


def mean_gradient(loss_fn: Callable, params: Any, batches: Any) -> Any:
    """One micro-batch after the other in full precision, as the measurements take their losses."""

    def add(total, batch):
        return jax.tree.map(jnp.add, total, jax.grad(loss_fn)(params, batch)), None

    with jax.default_matmul_precision("highest"):
        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), batches)
    return jax.tree.map(lambda x: x / len(batches["labels"]), total)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks anatomy", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=TASKS, default=[*TASKS])
    parser.add_argument("--only", nargs="+", help="measurements by name; all without it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny models: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    rows = []
    for name in options.models:
        model = f"{'tiny' if options.quick else 'small'}-{name}"
        costs = measurements(name, options.quick)
        unknown = sorted({*(options.only or ())} - costs.keys())
        if unknown:
            parser.error(f"--only must name measurements ({', '.join(costs)}), got {unknown[0]}")
        found = []
        for kind in options.only or costs:
            runs = {"gradient": costs["gradient"].call, kind: costs[kind].call}
            seconds = _harness.interleaved_seconds(runs, repeats=options.repeats)
            row = _harness.compare(seconds, "gradient")[-1]
            cost, times = costs[kind], row["times_reference"]
            counted = {"count": cost.count, "of": cost.of}
            ratios = {"gradients": times, "each": times / cost.count}
            found.append(
                {"model": model, "name": kind, **counted, "seconds": row["seconds"], **ratios}
            )
            if options.out:  # After each, so that what is measured is kept.
                _harness.write_json(options.out, "anatomy", [*rows, *found])
        _harness.print_table(found, f"Cost in gradients, {model}")
        rows += found
