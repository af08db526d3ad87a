"""A training step, gradient and SGD update, against the same in eager PyTorch.

Both without dropout, in float32, with momentum 0.9. `coord_clip` adds the exact threshold, and
`pseudo-updates` what all seven of the paper's algorithms would do; `gradients_added` is what either
adds to the step, in gradients, round by round.
"""

from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import optax
import torch

import sharpjax
from benchmarks import _harness
from benchmarks.directions import MODELS, batch_of, torch_model
from sharpjax.models import init_params, make_loss

RATE = 1e-3


def step_here(kind: str, name: str, params: Any, batch: Any) -> tuple[Any, Any]:
    """A compiled step whose arguments are donated, and the arguments to start from."""
    loss_fn = make_loss(MODELS[name])
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

    states = tx.init(params), pseudo.init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, states, batch).compile()
    # Donation takes the caller's arrays; each contender owns its own.
    return compiled, jax.tree.map(jax.numpy.copy, (params, states))


def contender(kind: str, name: str, params: Any, batch: Any) -> Callable[[], Any]:
    """One step, or one gradient, each time it is called."""
    if kind.startswith("torch"):
        model = torch_model(name, attention="sdpa")
        inputs = {k: torch.from_numpy(x).long() for k, x in batch.items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)

        def torch_step():
            optimizer.zero_grad(set_to_none=True)
            model(**inputs).loss.backward()
            optimizer.step()

        return torch_step
    if kind == "gradient":
        gradient = jax.jit(jax.value_and_grad(make_loss(MODELS[name])))
        return lambda: gradient(params, batch)
    compiled, carried = step_here(kind, name, params, batch)

    def step():
        nonlocal carried
        *carried, loss = compiled(*carried, batch)[:3]
        return loss, carried

    return step


KINDS = ("sgd", "torch sgd", "gradient", "coord_clip", "pseudo-updates")


def compare_steps(name: str, examples: int, length: int, repeats: int) -> list[dict[str, Any]]:
    params, batch = init_params(MODELS[name], jax.random.key(0)), batch_of(name, examples, length)
    runs = {kind: contender(kind, name, params, batch) for kind in KINDS}
    seconds = _harness.interleaved_seconds(runs, repeats=repeats)
    rows = []
    for row in _harness.compare(seconds, "sgd"):
        rounds = zip(seconds[row["name"]], seconds["sgd"], seconds["gradient"], strict=True)
        added = median((s - base) / gradient for s, base, gradient in rounds)
        row = {"model": name, "batch": f"{examples}x{length}", **row, "gradients_added": added}
        rows.append(row)
    return rows


def peak_memory(name: str, examples: int, length: int) -> list[dict[str, Any]]:
    """Peak memory of a process each."""
    rows = []
    for kind in KINDS:
        # The reference draws its own parameters.
        params = (
            "None" if kind.startswith("torch") else "init_params(MODELS[name], jax.random.key(0))"
        )
        code = (
            f"from benchmarks.train import *\nname = {name!r}\n"
            f"step = contender({kind!r}, name, {params}, batch_of(name, {examples}, {length}))\n"
            "jax.block_until_ready(step())\njax.block_until_ready(step())\n"
        )
        row = {"model": name, "batch": f"{examples}x{length}", "name": kind}
        rows.append({**row, "peak_MiB": _harness.peak_mebibytes(code)})
    return rows


def main(arguments: list[str]) -> None:
    models = ["t5-small", "distilroberta-base"]
    options = _harness.model_options("train", __doc__, models, 3, arguments)
    examples, length = options.examples, options.length
    rows, memory = [], []
    if not options.quick:
        # First: a process starts with its parent's peak, which is small only now.
        for name in options.models:
            memory += peak_memory(name, examples, length)
    _harness.print_table(memory, "Peak memory of a process each")
    for name in options.models:
        found = compare_steps(name, examples, length, options.repeats)
        _harness.print_table(found, f"A training step, {name}")
        rows += found
    if options.out:
        _harness.write_json(options.out, "train", rows, memory=memory)
