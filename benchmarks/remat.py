"""What recomputing blocks in the backward pass (`--remat`) saves and costs.

A gradient, and slope and sharpness along one direction by `method="reverse"`, each with its blocks
kept and computed again. XLA:CPU orders instructions for concurrency, which starts recomputation
early and keeps what it makes; accelerators order them for least memory. Both orders are compiled,
in a process each, since XLA reads the order once.
"""

import functools
import os
from typing import Any

import jax

from benchmarks import _harness
from benchmarks.directions import MODELS, batch_of, directions_like, measurement, temporary_bytes
from sharpjax.models import init_params, make_loss

ORDERS = {"concurrency": "true", "least memory": "false"}


def in_process(order: str, *arguments: Any) -> list[dict[str, Any]]:
    """The rows of `compare` in a process whose XLA orders so."""
    flag = f"--xla_cpu_enable_concurrency_optimized_scheduler={ORDERS[order]}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    return _harness.rows_of(f"benchmarks.remat.compare{(order, *arguments)!r}", XLA_FLAGS=flags)


def compare(
    order: str, name: str, examples: int, length: int, repeats: int
) -> list[dict[str, Any]]:
    params, batch = init_params(MODELS[name], jax.random.key(0)), batch_of(name, examples, length)
    updates = directions_like(params, 1)
    runs, temporary = {}, {}
    for blocks, remat in (("kept", False), ("again", True)):
        loss = make_loss(MODELS[name].clone(remat=remat), remat=remat)
        gradient = jax.jit(jax.value_and_grad(loss)).lower(params, batch).compile()
        runs["gradient", blocks] = functools.partial(gradient, params, batch)
        temporary["gradient", blocks] = gradient.memory_analysis().temp_size_in_bytes
        reverse = measurement(name, params, updates, batch, "reverse", loss)
        runs["reverse", blocks], temporary["reverse", blocks] = reverse, temporary_bytes(reverse)
    seconds = _harness.interleaved_seconds(runs, repeats=repeats)
    rows = []
    for what in ("gradient", "reverse"):
        mine = {key: values for key, values in seconds.items() if key[0] == what}
        for row in _harness.compare(mine, (what, "kept")):
            key = row.pop("name")
            about = {"model": name, "batch": f"{examples}x{length}", "name": what}
            size = {"temporary_MiB": round(temporary[key] / 2**20)}
            rows.append({**about, "order": order, "blocks": key[1], **row, **size})
    return rows


def main(arguments: list[str]) -> None:
    models = ["t5-small", "distilroberta-base"]
    options = _harness.model_options("remat", __doc__, models, 2, arguments)
    examples, length = options.examples, options.length
    rows = []
    for name in options.models:
        found = [
            row
            for order in ORDERS
            for row in in_process(order, name, examples, length, options.repeats)
        ]
        _harness.print_table(found, f"Blocks kept and computed again, {name}")
        rows += found
    if options.out:
        _harness.write_json(options.out, "remat", rows)
