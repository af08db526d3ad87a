"""What computing blocks again on the way back (`--remat`) saves and costs.

A gradient, and slope and sharpness along one direction by `method="reverse"`, each with its blocks
kept and computed again. XLA:CPU orders instructions for concurrency, which starts recomputation
early and keeps what it makes; accelerators order them for least memory. Both orders are compiled.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import _harness
from benchmarks.directions import MODELS, batch_of, directions_like
from sharpjax.curvature import _measure
from sharpjax.models import init_params, make_loss

ORDERS = {"concurrency": True, "least memory": False}


def compare(name: str, examples: int, length: int, repeats: int) -> list[dict[str, Any]]:
    params, batch = init_params(MODELS[name], jax.random.key(0)), batch_of(name, examples, length)
    updates, batches = (
        directions_like(params, 1),
        jax.tree.map(lambda x: jnp.asarray(x)[None], batch),
    )
    runs, temporaries = {}, {}
    for order, concurrent in ORDERS.items():
        options = {"xla_cpu_enable_concurrency_optimized_scheduler": concurrent}
        for blocks, remat in (("kept", False), ("again", True)):
            loss = make_loss(MODELS[name].clone(remat=remat), remat=remat)
            gradient = jax.jit(jax.value_and_grad(loss)).lower(params, batch)
            arguments = params, updates, batches, ()
            reverse = _measure.lower(loss, *arguments, "reverse", 1)
            for what, lowered, given in (
                ("gradient", gradient, (params, batch)),
                ("reverse", reverse, arguments),
            ):
                made = lowered.compile(compiler_options=options)
                runs[what, order, blocks] = lambda made=made, given=given: made(*given)
                temporaries[what, order, blocks] = made.memory_analysis().temp_size_in_bytes
    seconds = _harness.interleaved_seconds(runs, repeats=repeats)
    rows = []
    for what in ("gradient", "reverse"):
        for order in ORDERS:
            mine = {key: values for key, values in seconds.items() if key[:2] == (what, order)}
            for row in _harness.compare(mine, (what, order, "kept")):
                key = row.pop("name")
                size = {"temporary_MiB": round(temporaries[key] / 2**20)}
                about = {"model": name, "batch": f"{examples}x{length}", "name": what}
                rows.append({**about, "order": order, "blocks": key[2], **row, **size})
    return rows


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks remat", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["t5-small", "distilroberta-base"])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="tiny models: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    models = ["tiny-t5", "tiny-roberta"] if options.quick else options.models
    examples, length = (2, 8) if options.quick else (8, 128)
    rows = []
    for name in models:
        found = compare(name, examples, length, options.repeats)
        _harness.print_table(found, f"Blocks kept and computed again, {name}")
        rows += found
    if options.out:
        _harness.write_json(options.out, "remat", rows)
