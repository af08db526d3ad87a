"""An accelerator's figures in one process, most of whose time is compilation.

What is asked first of a device comes first, on the first model: directions, training, monitoring,
the threshold and `precision`, which sets float32 beside float64 and the threshold beside NumPy's;
then more tokens and the second model. XLA does not try kernels out, unless XLA_FLAGS says so: with
that, the first part did not end in four minutes. A record is written as soon as it has rows. What
fails is tried once more without PyTorch, and does not keep the rest from running. With `--seconds`,
parts that would not end in time are skipped, by guesses for an H100 that follow the pace so far.
"""

import argparse
import gc
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sharpjax
from benchmarks import _harness, directions, monitor, threshold, train

COUNT, FRACTION = 7, 0.05
DISTRIBUTIONS = ("normal", "heavy tail")


class Part(NamedTuple):
    """Rows of one list of one record."""

    record: str
    key: str
    words: str
    guess: float
    """Seconds."""
    rows: Callable[[], list[dict[str, Any]]]


def parts(quick: bool, repeats: int) -> list[Part]:
    """All of them, in the order in which they run."""
    models = ("tiny-t5", "tiny-roberta") if quick else ("t5-small", "distilroberta-base")
    small, large = ((2, 8), (4, 8)) if quick else ((8, 128), (64, 128))
    n = 10_000 if quick else 6 * 10**7

    one, two = models

    def measured(name, size, methods):
        rows = partial(sharpness, name, *size, repeats, methods)
        return Part("directions", "rows", f"{name}, {size[0]}x{size[1]}", 40, rows)

    def trained(name, dtype, kinds):
        rows = partial(train.compare_steps, name, *small, repeats, dtype, kinds)
        return Part("train", "rows", f"{name}, {dtype}", 15 * len(kinds) - 10, rows)

    def selected(distribution):
        rows = partial(threshold.compare_peers, distribution, n, FRACTION, repeats)
        return Part("threshold", "rows", distribution, 10, rows)

    followed = partial(monitor.monitoring, one, *small, repeats, monitor.KINDS[2:])
    clipped = partial(threshold.compare_scopes, n, FRACTION, repeats)
    counted = partial(directions.arithmetic, one, *small, repeats)
    return [
        measured(one, small, directions.METHODS),
        trained(one, "float32", train.KINDS),
        trained(one, "bfloat16", train.KINDS[:2]),
        Part("monitor", "rows", one, 20, followed),
        *map(selected, DISTRIBUTIONS),
        Part("threshold", "scopes", "by scope", 15, clipped),
        Part("precision", "rows", one, 25, partial(precision, one, *small)),
        Part("precision", "thresholds", "thresholds", 8, partial(thresholds, n)),
        measured(one, large, directions.METHODS[-1:]),
        Part("directions", "arithmetic", f"arithmetic, {one}", 8, counted),
        measured(two, small, directions.METHODS),
        trained(two, "float32", train.KINDS[:3]),
        trained(two, "bfloat16", train.KINDS[:2]),
        measured(two, large, directions.METHODS[-1:]),
    ]


def sharpness(
    name: str, examples: int, length: int, repeats: int, methods: tuple[str, ...]
) -> list[dict[str, Any]]:
    """By these methods, and by the loop."""
    peers = ("vhp",) if _harness.torch_device() else ()
    options = {"peers": peers, "methods": methods}
    return directions.compare_methods(name, examples, length, COUNT, repeats, **options)


def precision(name: str, examples: int, length: int) -> list[dict[str, Any]]:
    """Sharpness in float32 and float64 along the first updates of the paper's algorithms."""
    params = jax.device_put(directions.host_params(name))
    batch = directions.batch_of(name, examples, length)
    init, step = train.step_here("pseudo-updates", name, "float32")
    updates = step(jax.tree.map(jnp.array, params), init(params), batch)[-1]
    batches = jax.tree.map(lambda x: x[None], batch)
    found = sharpjax.measure_precision(
        directions.loss_of(name), params, updates, batches, method="adjoint"
    )
    return [
        {
            "model": name,
            "batch": f"{examples}x{length}",
            "name": update,
            "float32": float(one.sharpness),
            "float64": float(one.sharpness_float64),
            "relative_error": float(one.relative_error),
        }
        for update, one in found.items()
    ]


def thresholds(n: int) -> list[dict[str, Any]]:
    """The threshold beside NumPy's."""
    rows = []
    for distribution in reversed(DISTRIBUTIONS):  # The last one was drawn last.
        x = threshold.draw(distribution, n)
        here = np.asarray(threshold.THRESHOLD(jnp.asarray(x), FRACTION))
        exact = threshold.exact(x, FRACTION)
        row = {"name": distribution, "n": n, "here": float(here), "numpy": float(exact)}
        rows.append({**row, "equal_bits": "yes" if here.tobytes() == exact.tobytes() else "no"})
    return rows


def attempt(part: Part) -> list[dict[str, Any]] | None:
    """Its rows; if it fails, those without PyTorch, or None."""
    for _harness.alone in (False, True):
        try:
            return part.rows()
        except Exception:
            traceback.print_exc()
        finally:
            _harness.alone = False
    return None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks accelerator", description=__doc__)
    parser.add_argument("--seconds", type=float, help="skip what would end later (None: nothing)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny models: a smoke test")
    parser.add_argument("--out", type=Path, help="write the records into this folder")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    device, peers = jax.devices()[0].device_kind, _harness.torch_device() or "left out"
    print(f"{device}; PyTorch: {peers}; {time.perf_counter() - start:.0f} s", flush=True)
    found: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    skipped, failed, guessed, took = [], [], 0.0, 0.0
    for part in parts(options.quick, options.repeats):
        title, begun = f"{part.record}: {part.words}", time.perf_counter()
        expected = part.guess * (took / guessed if guessed else 1)
        if options.seconds is not None and begun - start + expected > options.seconds:
            print(f"\n{title}: skipped, {expected:.0f} s are not left", flush=True)
            skipped.append(title)
            continue
        rows = attempt(part)
        gc.collect()
        if _harness.torch_device() == "cuda":
            directions.torch.cuda.empty_cache()
        spent = time.perf_counter() - begun
        guessed, took = guessed + part.guess, took + spent
        if rows is None:
            failed.append(title)
            continue
        _harness.print_table(rows, f"{title} ({spent:.0f} s)")
        sys.stdout.flush()
        found[part.record][part.key] += rows
        if options.out:
            record = {"rows": [], "count": COUNT, **found[part.record]}
            _harness.write_json(options.out / f"{part.record}.json", part.record, **record)
    print(f"\n{time.perf_counter() - start:.0f} s; skipped: {skipped}; failed: {failed}")
    return 1 if failed else 0
