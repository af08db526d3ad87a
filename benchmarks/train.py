"""A training step, gradient and SGD update, against the same in eager PyTorch.

Both without dropout, with momentum 0.9. `coord_clip` adds the exact threshold, and
`pseudo-updates` what all seven of the paper's algorithms would do; `gradients_added` is what either
adds to the step, in gradients, round by round. Parameters are float32, and the model computes in
`dtype`, in PyTorch by autocast. Products of float32 have each framework's default precision: on a
GPU that is TF32 in JAX and float32 in PyTorch, which is therefore also run with TF32.
"""

import contextlib
import functools
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import optax

import sharpjax
from benchmarks import _harness
from benchmarks.directions import batch_of, host_params, loss_of, torch_batch, torch_model

torch = _harness.installed("torch")

RATE = 1e-3
DTYPES = ("float32", "bfloat16")


def training_loss(name: str, dtype: str) -> Callable[..., jax.Array]:
    return loss_of(name, None if dtype == "float32" else dtype)


@functools.cache
def gradient_here(name: str, dtype: str) -> Callable[..., Any]:
    return jax.jit(jax.value_and_grad(training_loss(name, dtype)))


@functools.cache
def step_here(kind: str, name: str, dtype: str) -> tuple[Callable, Callable]:
    """What makes the states of a step, and the step, to which it gives up what it carries."""
    loss_fn = training_loss(name, dtype)
    chain = [sharpjax.coord_clip(0.05)] if kind == "coord_clip" else []
    tx = optax.chain(*chain, optax.sgd(RATE, momentum=0.9))
    pseudo = sharpjax.pseudo_updates(
        sharpjax.paper_algorithms() if kind == "pseudo-updates" else {"sgd": optax.identity()}
    )

    def step(params, states, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = tx.update(grads, states[0], params)
        others, pseudo_state = pseudo.update(grads, states[1], params)
        out = optax.apply_updates(params, updates), (state, pseudo_state), loss
        return (*out, others) if kind == "pseudo-updates" else out

    init = lambda params: (tx.init(params), pseudo.init(params))  # noqa: E731
    return init, jax.jit(step, donate_argnums=(0, 1))


def contender(kind: str, name: str, batch: Any, dtype: str = "float32") -> Callable[[], Any]:
    """One step, or one gradient, each time it is called."""
    if kind.startswith("torch"):
        model, inputs = torch_model(name, attention="sdpa"), torch_batch(batch)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
        narrow = torch.autocast(_harness.torch_device(), torch.bfloat16)
        products = "high" if kind.endswith("TF32") else "highest"

        def torch_step():
            torch.set_float32_matmul_precision(products)
            optimizer.zero_grad(set_to_none=True)
            with narrow if dtype == "bfloat16" else contextlib.nullcontext():
                loss = model(**inputs).loss
            loss.backward()
            optimizer.step()

        return torch_step
    params = jax.device_put(host_params(name))
    if kind == "gradient":
        return lambda: gradient_here(name, dtype)(params, batch)
    init, compiled = step_here(kind, name, dtype)
    # The step takes over what it is given; each contender owns its own.
    carried = jax.tree.map(jax.numpy.array, (host_params(name), init(params)))

    def step():
        nonlocal carried
        *carried, loss = compiled(*carried, batch)[:3]
        return loss, carried

    return step


KINDS = ("sgd", "gradient", "coord_clip", "pseudo-updates")


def peers_of(dtype: str) -> tuple[str, ...]:
    """PyTorch's contenders."""
    if not _harness.torch_device():
        return ()
    both = _harness.on_gpu() and dtype == "float32"
    return ("torch sgd", "torch sgd, TF32") if both else ("torch sgd",)


def compare_steps(
    name: str,
    examples: int,
    length: int,
    repeats: int,
    dtype: str = "float32",
    kinds: tuple[str, ...] = KINDS,
) -> list[dict[str, Any]]:
    """A row for each kind, the first two among them, and each of PyTorch's steps."""
    batch = batch_of(name, examples, length)
    runs = {kind: contender(kind, name, batch, dtype) for kind in kinds}
    _harness.compiled(*runs.values())
    runs |= {kind: contender(kind, name, batch, dtype) for kind in peers_of(dtype)}
    seconds = _harness.interleaved_seconds(runs, repeats=repeats)
    rows = []
    for row in _harness.compare(seconds, "sgd"):
        rounds = zip(seconds[row["name"]], seconds["sgd"], seconds["gradient"], strict=True)
        added = median((s - base) / gradient for s, base, gradient in rounds)
        about = {"model": name, "batch": f"{examples}x{length}", "dtype": dtype}
        rows.append({**about, **row, "gradients_added": added})
    return rows


def peak_memory(name: str, examples: int, length: int) -> list[dict[str, Any]]:
    """Peak memory of a process each, in float32."""
    rows = []
    for kind in (*KINDS, *peers_of("float32")):
        code = (
            f"from benchmarks.train import *\nname = {name!r}\n"
            f"step = contender({kind!r}, name, batch_of(name, {examples}, {length}))\n"
            "jax.block_until_ready(step())\njax.block_until_ready(step())\n"
        )
        row = {"model": name, "batch": f"{examples}x{length}", "name": kind}
        rows.append({**row, "peak_MiB": _harness.peak_mebibytes(code)})
    return rows


def main(arguments: list[str]) -> None:
    models = ["t5-small", "distilroberta-base"]
    dtypes = {"nargs": "+", "choices": DTYPES, "default": DTYPES[:1]}
    options = _harness.model_options("train", __doc__, models, 3, arguments, dtypes=dtypes)
    examples, length = options.examples, options.length
    rows, memory = [], []
    if not options.quick:
        # First: a process starts with its parent's peak, which is small only now.
        for name in options.models:
            memory += peak_memory(name, examples, length)
    _harness.print_table(memory, "Peak memory of a process each")
    for name in options.models:
        for dtype in options.dtypes:
            found = compare_steps(name, examples, length, options.repeats, dtype)
            _harness.print_table(found, f"A training step, {name}")
            rows += found
    if options.out:
        _harness.write_json(options.out, "train", rows, memory=memory)
