"""A column of the study (one task, one trajectory) against the same loops in eager PyTorch.

At the sizes of the preset `small`, from random weights: a training step over the micro-batches with
the pseudo-updates of all seven algorithms; slope and sharpness of all seven on the test subset; one
point of a landscape. The peer accumulates gradients and applies SGD alone, loops over
`torch.autograd.functional.vhp` as the paper's code does, and runs the model forward. The last row
adds them up as a column of Tables 3 to 6 does: 200 steps, 20 measurements, and 4 landscapes along
seven directions of 25 points each. Text, checkpoints and records are left out on both sides.
"""

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

import sharpjax
from benchmarks import _harness
from benchmarks.directions import MODELS, batch_of, peer, same_params, torch_batch, torch_model
from experiments.run import training
from experiments.run.devices import one_device
from sharpjax.models import make_loss

ALGORITHMS = 7
TIMES = {"training step": 200, "seven directions": 20, "landscape point": 4 * ALGORITHMS * 25}


def here(name: str, params: Any, batches: Any) -> dict[str, Callable[[], Any]]:
    """The study's parts, compiled."""
    loss_fn, layout = make_loss(MODELS[name]), one_device()
    pseudo = sharpjax.pseudo_updates(sharpjax.paper_algorithms())
    programs = training.make_programs(pseudo, loss_fn, layout)
    params, held = layout.place(params), params
    state = programs.init(params)

    def step():
        nonlocal params, state
        loss, grads = training.gradient(loss_fn, params, batches, None, layout)
        about = {"value": loss, "batch": batches, "key": None}
        params, state = programs.advance(state, params, grads, about, ("sgd", 1e-3))
        return params

    _, grads = training.gradient(loss_fn, params, batches, None, layout)
    about = {"value": 0.0, "batch": batches, "key": None}
    made, after = programs.update(programs.init(held), held, grads, about)
    updates = training.HeldUpdates(made, after, held)
    return {
        "training step": step,
        "seven directions": lambda: updates.measure(loss_fn, batches, method="adjoint"),
        "landscape point": lambda: sharpjax.loss_along(
            loss_fn, held, updates["adam"], np.ones(1), batches
        ),
    }


def there(name: str, model: Any, batches: Any) -> dict[str, Callable[[], Any]]:
    """The same by PyTorch, micro-batch by micro-batch."""
    fast = torch_model(name, attention="sdpa")  # For what needs no second derivative.
    fast.load_state_dict(model.state_dict())
    micro = [{k: v[i] for k, v in batches.items()} for i in range(len(batches["labels"]))]
    inputs = [torch_batch(batch) for batch in micro]
    optimizer = torch.optim.SGD(fast.parameters(), lr=1e-3, momentum=0.9)
    products = [peer("vhp", model, batch) for batch in micro]

    def step():
        optimizer.zero_grad()
        for batch in inputs:
            (fast(**batch).loss / len(inputs)).backward()
        optimizer.step()

    def point():
        with torch.no_grad():
            return float(np.mean([float(fast(**batch).loss) for batch in inputs]))

    return {
        "training step": step,
        # One of the seven; all take the same time.
        "seven directions": lambda: float(np.mean([product() for product in products])),
        "landscape point": point,
    }


def compare(name: str, micro_batches: int, size: int, length: int, repeats: int) -> list[dict]:
    """Seconds of each part and of the whole column, side by side."""
    model = torch_model(name)
    params = same_params(model)
    flat = batch_of(name, micro_batches * size, length)
    batches = {k: v.reshape(micro_batches, size, length) for k, v in flat.items()}
    ours, theirs = here(name, params, batches), there(name, model, batches)
    runs = {
        f"{part}, {side}": run
        for side, parts in (("here", ours), ("torch", theirs))
        for part, run in parts.items()
    }
    seconds = _harness.interleaved_seconds(runs, repeats=repeats)
    least = {k: median(v) for k, v in seconds.items()}
    rows, column = [], [0.0, 0.0]
    for part, times in TIMES.items():
        peers = ALGORITHMS if part == "seven directions" else 1
        both = least[f"{part}, here"], peers * least[f"{part}, torch"]
        column = [total + times * value for total, value in zip(column, both, strict=True)]
        rows.append((part, *both))
    rows.append(("a column", *column))
    return [
        {"model": name, "part": part, "here": ours, "torch": theirs, "times": theirs / ours}
        for part, ours, theirs in rows
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks study", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny models: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    cases = {"small-t5": (8, 32, 32), "small-roberta": (8, 32, 64)}
    if options.quick:
        cases = {"tiny-t5": (2, 2, 8), "tiny-roberta": (2, 2, 8)}
    rows = []
    for name, shape in cases.items():
        rows += compare(name, *shape, options.repeats)
    _harness.print_table(rows, "Seconds of the study's parts")
    if options.out:
        _harness.write_json(options.out, "study", rows)
