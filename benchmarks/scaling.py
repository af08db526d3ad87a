"""How a measurement's time grows with depth, tokens and directions, beside a gradient's.

A GPT-2 of width 64; slope and sharpness along many directions by `method="adjoint"`. In each sweep
one of the three grows. `fits` has the line a + b·x through the median seconds, of least relative
error, and the largest relative distance of a point from it.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import _harness
from benchmarks.compile import small_gpt2

LENGTH = 64
BASE = {"blocks": 2, "tokens": 256, "directions": 4}
SWEEPS = {
    "blocks": (2, 4, 8, 16, 24),
    "tokens": (64, 256, 1024, 4096, 8192),
    "directions": (1, 4, 16, 64),
}


def contenders(blocks: int, tokens: int, directions: int) -> dict[str, Callable[[], Any]]:
    """A gradient, and the measurement of this many directions, of the same batch."""
    import jax
    import jax.numpy as jnp

    import sharpjax

    shape = (1, tokens // LENGTH, LENGTH)
    loss_fn, params, batches, gradient = small_gpt2(blocks, shape, vocabulary=512)
    updates = {
        str(i): jax.tree.map(lambda x, i=i: jnp.roll(x, i + 1), params) for i in range(directions)
    }
    return {
        "gradient": gradient,
        "measurement": lambda: sharpjax.measure_directions(
            loss_fn, params, updates, batches, method="adjoint"
        ),
    }


def sweep(name: str, values: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """A row for each value; all of them take turns."""
    runs = {
        (value, what): run
        for value in values
        for what, run in contenders(**BASE | {name: value}).items()
    }
    seconds = _harness.interleaved_seconds(runs, repeats=repeats)
    rows = []
    for value in values:
        gradient, whole = (np.array(seconds[value, w]) for w in ("gradient", "measurement"))
        count = value if name == "directions" else BASE["directions"]
        rows.append(
            {
                "name": name,
                "count": value,
                "gradient_seconds": float(np.median(gradient)),
                "measurement_seconds": float(np.median(whole)),
                "gradients_a_direction": float(np.median(whole / gradient)) / count,
            }
        )
    return rows


def fit(name: str, rows: list[dict[str, Any]], quantity: str) -> dict[str, Any]:
    """The line through a sweep's seconds."""
    x, y = (np.array([row[key] for row in rows]) for key in ("count", quantity))
    slope, fixed = np.polyfit(x, y, 1, w=1 / y)
    return {
        "name": f"{quantity.removesuffix('_seconds')} against {name}",
        "fixed_seconds": float(fixed),
        "seconds_each": float(slope),
        "largest_distance": float(np.max(np.abs((fixed + slope * x) / y - 1))),
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=__doc__)
    parser.add_argument("--sweeps", nargs="+", choices=[*SWEEPS], default=[*SWEEPS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the two least values: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    rows, fits = [], []
    for name in options.sweeps:
        found = sweep(name, SWEEPS[name][: 2 if options.quick else None], options.repeats)
        _harness.print_table(found, f"Against {name}")
        lines = [fit(name, found, f"{what}_seconds") for what in ("gradient", "measurement")]
        _harness.print_table(lines)
        rows, fits = rows + found, fits + lines
    if options.out:
        _harness.write_json(options.out, "scaling", rows, fits=fits)
