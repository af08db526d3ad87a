"""What `sharpness_monitor` adds to training: the paper's seven algorithms, every 100 steps.

A training step (gradient and plain SGD), a step that the monitor follows without measuring, and one
at which it measures all seven directions on the training batch. `steps` is that in training steps,
round by round, and `share` what the monitor takes on average: (99·following + measuring)/100. It
holds equal states once, and with `donate` overwrites them; without either, `pseudo_updates` is
followed, whose optimizers each hold a state of their own.
"""

import functools
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import jax
import optax

import sharpjax
from benchmarks import _harness
from benchmarks.directions import batch_of, host_params, loss_of
from benchmarks.train import gradient_here

EVERY = 100
STEP = "training step"
KINDS = ("each its own", "shared", "shared, donated")


def training_step(name: str, batch: Any, params: Any) -> Callable[[], Any]:
    """A gradient and an update, in place as in a loop."""
    tx = optax.sgd(1e-3)

    def step(params, state, batch):
        loss, grads = jax.value_and_grad(loss_of(name))(params, batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    compiled = jax.jit(step, donate_argnums=(0, 1))
    carried = jax.tree.map(jax.numpy.copy, params), tx.init(params)

    def run():
        nonlocal carried
        carried, loss = compiled(*carried, batch)
        return carried, loss

    return run


def contenders(
    name: str, examples: int, length: int, kinds: Sequence[str] = KINDS
) -> tuple[dict[Any, Callable], dict[str, int]]:
    """What is timed, and how many bytes the states of each kind hold."""
    params, batch = jax.device_put(host_params(name)), batch_of(name, examples, length)
    loss_fn, algorithms = loss_of(name), sharpjax.paper_algorithms()
    batches = jax.tree.map(lambda x: x[None], batch)
    _, grads = gradient_here(name, "float32")(params, batch)
    options = {"every": EVERY, "method": "adjoint"}
    monitors = {
        kind: sharpjax.sharpness_monitor(
            loss_fn, algorithms, batches, donate=kind == KINDS[2], **options
        )
        for kind in kinds
        if kind != KINDS[0]
    }
    pseudo = sharpjax.pseudo_updates(algorithms)
    propose = jax.jit(pseudo.update)
    advance = jax.jit(lambda *operands: pseudo.update(*operands)[1])
    held = {kind: monitor.init(params) for kind, monitor in monitors.items()}
    if KINDS[0] in kinds:
        held[KINDS[0]] = pseudo.init(params)

    def monitored(kind, step):
        held[kind], stats = monitors[kind].update(step, grads, held[kind], params)
        return held[kind], stats

    def follow():
        held[KINDS[0]] = advance(grads, held[KINDS[0]], params)
        return held[KINDS[0]]

    def measure():
        updates, held[KINDS[0]] = propose(grads, held[KINDS[0]], params)
        stats = sharpjax.measure_directions(loss_fn, params, updates, batches, method="adjoint")
        return held[KINDS[0]], stats

    runs = {(STEP, STEP): training_step(name, batch, params)}
    if KINDS[0] in kinds:
        runs |= {(KINDS[0], "follow"): follow, (KINDS[0], "measure"): measure}
    for kind in monitors:
        runs[kind, "follow"] = functools.partial(monitored, kind, 1)
        runs[kind, "measure"] = functools.partial(monitored, kind, EVERY)

    def first(kind):  # A first round compiles; what states hold is seen after it.
        for (whose, _), run in runs.items():
            if whose == kind:
                jax.block_until_ready(run())

    _harness.compiled(*(functools.partial(first, kind) for kind, what in runs if what != "follow"))
    return runs, {kind: held_bytes(state) for kind, state in held.items()}


def held_bytes(tree: Any) -> int:
    """Bytes of the arrays of a tree; one that stands there twice counts once."""
    return sum(x.nbytes for x in {id(x): x for x in jax.tree.leaves(tree)}.values())


def monitoring(
    name: str, examples: int, length: int, repeats: int, kinds: Sequence[str] = KINDS
) -> list[dict[str, Any]]:
    runs, held = contenders(name, examples, length, kinds)
    seconds = _harness.interleaved_seconds(runs, repeats=repeats, warmups=0)
    rows = []
    for kind, what in runs:
        relative = lambda key: [  # noqa: E731
            s / step for s, step in zip(seconds[key], seconds[STEP, STEP], strict=True)
        ]
        row = {"model": name, "batch": f"{examples}x{length}", "name": what, "states": kind}
        row |= {"seconds": median(seconds[kind, what]), "steps": median(relative((kind, what)))}
        row |= {"share": "", "states_MiB": ""}
        if what == "measure":
            pairs = zip(relative((kind, "follow")), relative((kind, "measure")), strict=True)
            row["share"] = median(((EVERY - 1) * f + m) / EVERY for f, m in pairs)
            row["states_MiB"] = round(held[kind] / 2**20)
        elif kind == STEP:
            row["states"] = ""
        rows.append(row)
    return rows


def main(arguments: list[str]) -> None:
    models = ["t5-small"]
    options = _harness.model_options("monitor", __doc__, models, 3, arguments)
    examples, length = options.examples, options.length
    rows = []
    for name in options.models:
        found = monitoring(name, examples, length, options.repeats)
        _harness.print_table(found, f"Monitoring seven optimizers every {EVERY} steps, {name}")
        rows += found
    if options.out:
        _harness.write_json(options.out, "monitor", rows)
