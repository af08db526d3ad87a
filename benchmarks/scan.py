"""Blocks in a scan against the models' own, one after the other: compilation and run time.

A GPT-2 whose blocks are stacked inside the program, so that its parameters stay as they are, and
scanned. Compilation is the first call's processor time less a second one's, of a process without
a cache; run times take turns. `times_own` is over the model as it is.
"""

import argparse
import functools
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import sharpjax
from benchmarks import _harness
from sharpjax import models
from sharpjax.models import gpt2
from sharpjax.models.layers import key_mask

# Blocks, width, batch, length, vocabulary.
SIZES = ((2, 128, 32, 32, 4096), (6, 128, 8, 64, 4096), (12, 64, 4, 64, 512))
QUICK = ((2, 16, 2, 4, 32),)
DIRECTIONS = 4


class Scanned(gpt2.GPT2):
    """The same model of the same parameters, without dropout."""

    def features(self, batch: Any, *, deterministic: bool = True) -> jax.Array:
        ids, c = jnp.asarray(batch["input_ids"]), self.config
        h = self.embeddings(ids, None, deterministic=deterministic)
        mask = key_mask(batch.get("attention_mask"), ids)
        mask = mask & jnp.asarray(np.tri(h.shape[1], dtype=bool))[None, None]
        held = self.variables["params"]["decoder"]
        blocks = [held[f"block_{i}"] for i in range(c.n_layer)]
        block = gpt2.Block(c, 0, self.dtype, parent=None)

        def step(h, params):
            return block.apply({"params": params}, h, mask, deterministic=True), None

        h, _ = jax.lax.scan(step, h, jax.tree.map(lambda *xs: jnp.stack(xs), *blocks))
        epsilon = c.layer_norm_epsilon
        norm = nn.LayerNorm(epsilon, self.dtype, use_fast_variance=False, parent=None)
        normed: Any = norm.apply({"params": held["final_norm"]}, h)
        return normed


def compare(
    layers: int, width: int, examples: int, length: int, vocabulary: int, repeats: int
) -> list[dict[str, Any]]:
    """A row for a gradient, and one for a measurement by "adjoint"."""
    config = models.GPT2Config(
        vocab_size=vocabulary, n_positions=length, n_embd=width, n_layer=layers, n_head=4
    )
    params = models.init_params(models.GPT2(config), jax.random.key(0))
    ids = jax.random.randint(jax.random.key(1), (1, examples, length), 0, vocabulary)
    batches = {"input_ids": ids, "labels": ids}
    batch = jax.tree.map(lambda x: x[0], batches)
    draw = lambda i: jax.tree.map(  # noqa: E731
        lambda x: jax.random.normal(jax.random.key(i), x.shape), params
    )
    updates = {str(i): draw(i) for i in range(DIRECTIONS)}
    own, scanned = (models.make_loss(kind(config)) for kind in (models.GPT2, Scanned))
    np.testing.assert_allclose(scanned(params, batch), own(params, batch), rtol=1e-5)
    runs: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, loss_fn in (("own", own), ("scanned", scanned)):
        runs["gradient", name] = functools.partial(jax.jit(jax.grad(loss_fn)), params, batch)
        runs["adjoint", name] = functools.partial(
            sharpjax.measure_directions, loss_fn, params, updates, batches, method="adjoint"
        )
    compiling = {key: _harness.compile_seconds(run) for key, run in runs.items()}
    seconds = _harness.interleaved_seconds(runs, repeats=repeats, warmups=0)
    about = {"blocks": layers, "width": width, "batch": f"{examples}x{length}"}
    rows = []
    for name in ("gradient", "adjoint"):
        mine, other = (name, "scanned"), (name, "own")
        ratios = [a / b for a, b in zip(seconds[mine], seconds[other], strict=True)]
        row = {"own_compile_cpu_seconds": compiling[other]}
        row |= {"scanned_compile_cpu_seconds": compiling[mine]}
        row |= {"compile_times_own": compiling[mine] / compiling[other]}
        rows.append({"name": name, **about, **row, "run_times_own": median(ratios)})
    return rows


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scan", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tiny model: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    rows = []
    for size in QUICK if options.quick else SIZES:
        code = f"benchmarks.scan.compare(*{size!r}, {options.repeats})"
        rows += _harness.rows_of(code, JAX_ENABLE_COMPILATION_CACHE="false")
    _harness.print_table(rows, "Blocks in a scan, over the model's own")
    if options.out:
        _harness.write_json(options.out, "scan", rows)
