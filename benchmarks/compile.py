"""What is waited for before the first number: compilation, in processor seconds.

Each row is a fresh process without a cache of compiled programs: the first call's processor time
less that of a second one. `times_gradient` is over the same model's gradient.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import _harness

WIDTH, LENGTH, BATCH = 64, 16, (2, 2)
DIRECTIONS = (1, 7)
METHODS = ("adjoint", "forward", "reverse")
TENSORS = 400
# Of a model, and what of it is measured how for how many directions.
MEASURED = {
    f"{count} direction{'s' * (count > 1)}, {method}": (count, method)
    for method in METHODS
    for count in DIRECTIONS
}
OF_MODEL = ("gradient", *MEASURED, "point")
OF_TENSORS = ("optax.clip_by_global_norm", "coord_clip", "coord_clip, by tensor")


def small_gpt2(layers: int, shape: tuple[int, int, int], vocabulary: int) -> tuple[Any, ...]:
    """(loss, parameters, batches of this shape, what makes a gradient of the first of them)."""
    import jax
    import jax.numpy as jnp

    from sharpjax import models

    config = models.GPT2Config(
        vocab_size=vocabulary, n_positions=shape[-1], n_embd=WIDTH, n_layer=layers, n_head=4
    )
    model = models.GPT2(config)
    params, loss_fn = models.init_params(model, jax.random.key(0)), models.make_loss(model)
    ids = jax.random.randint(jax.random.key(1), shape, 0, vocabulary)
    batches = {"input_ids": ids, "attention_mask": jnp.ones_like(ids), "labels": ids}
    gradient = jax.jit(jax.grad(lambda p, b: loss_fn(p, jax.tree.map(lambda x: x[0], b))))
    return loss_fn, params, batches, lambda: gradient(params, batches)


def contenders(layers: int) -> dict[str, Callable[[], Any]]:
    """Of a GPT-2 with this many blocks: its gradient, and what is measured of its updates."""
    import jax
    import jax.numpy as jnp

    import sharpjax

    loss_fn, params, batches, gradient = small_gpt2(layers, (*BATCH, LENGTH), vocabulary=128)
    updates = {
        str(i): jax.tree.map(lambda x, i=i: jnp.full_like(x, i + 1), params)
        for i in range(max(DIRECTIONS))
    }

    def directions(count: int, method: Any) -> Any:
        some = dict(list(updates.items())[:count])
        return sharpjax.measure_directions(loss_fn, params, some, batches, method=method)

    runs = (
        gradient,
        *(functools.partial(directions, *how) for how in MEASURED.values()),
        lambda: sharpjax.measure_point(loss_fn, params, updates, batches),
    )
    return dict(zip(OF_MODEL, runs, strict=True))


def clipping() -> dict[str, Callable[[], Any]]:
    """One step over many small tensors."""
    import jax
    import jax.numpy as jnp
    import optax

    import sharpjax

    tree = [jnp.ones((8, 1 + i % 7)) for i in range(TENSORS)]

    def step(transformation: Any) -> Callable[[], Any]:
        update = jax.jit(lambda tree: transformation.update(tree, transformation.init(tree))[0])
        return lambda: update(tree)

    clip = sharpjax.coord_clip
    made = optax.clip_by_global_norm(1.0), clip(0.05), clip(0.05, scope="tensor")
    return dict(zip(OF_TENSORS, map(step, made), strict=True))


def first_call(kind: str, size: int, name: str) -> list[dict[str, Any]]:
    """The row of one contender, in a process that has compiled nothing of it before."""
    runs = contenders(size) if kind == "model" else clipping()
    return [{"compile_cpu_seconds": _harness.compile_seconds(runs[name])}]


def measure(kind: str, size: int, names: Sequence[str], repeats: int) -> list[dict[str, Any]]:
    """A row for each name; the least of the repeats, which take turns."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            code = f"benchmarks.compile.first_call({kind!r}, {size!r}, {name!r})"
            (row,) = _harness.rows_of(code, JAX_ENABLE_COMPILATION_CACHE="false")
            found[name].append(row["compile_cpu_seconds"])
    least = {name: min(values) for name, values in found.items()}
    over = f"times_{'gradient' if kind == 'model' else 'optax'}"
    return [
        {"name": name, "compile_cpu_seconds": value, over: value / least[names[0]]}
        for name, value in least.items()
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compile", description=__doc__)
    parser.add_argument("--layers", nargs="+", type=int, default=[4, 12])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one block: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    rows = []
    for layers in [1] if options.quick else options.layers:
        names = ("gradient", "7 directions, adjoint") if options.quick else OF_MODEL
        found = measure("model", layers, names, options.repeats)
        _harness.print_table(found, f"A GPT-2 of {layers} blocks of width {WIDTH}")
        rows += [{"blocks": layers} | row for row in found]
    clips = measure("clip", TENSORS, OF_TENSORS, options.repeats)
    _harness.print_table(clips, f"Clipping {TENSORS} tensors")
    if options.out:
        _harness.write_json(options.out, "compile", rows, clipping=clips)
