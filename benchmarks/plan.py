"""What `python -m experiments plan` promises against the memory of a process that does it.

One step of the study's own loop on one device: a training step, the updates of all seven
algorithms, and a measurement along them, with random weights and tokens. Planned is the most held
at once; the process is a fresh one that does the step, less what it takes when it only compiles.
"""

import argparse
import dataclasses
from typing import Any

import numpy as np

from benchmarks import _harness

TASKS = {"t5": "translation", "roberta": "mlm"}


def prepared(name: str, examples: int, length: int) -> tuple[Any, ...]:
    """The plan of a step, and what `step` takes; in a process that has not used JAX yet."""
    from experiments.run import plan

    plan.prepare_devices(1)
    from benchmarks.directions import MODELS
    from experiments.presets import PRESETS
    from experiments.run.devices import one_device

    task = next(task for kind, task in TASKS.items() if kind in name)
    sizes = dict.fromkeys(("batch_size", "micro_batch_size", "test_examples"), examples)
    paper = PRESETS["paper"]
    about = dataclasses.replace(getattr(paper, task), length=length, target_length=length)
    config = dataclasses.replace(paper, **sizes, **{task: about})
    return plan.plan(config, task, MODELS[name], one_device()), config, MODELS[name]


def step(name: str, examples: int, length: int, config: Any, model: Any) -> None:
    """One step of the study's loop, measured."""
    import jax

    import sharpjax
    from benchmarks.directions import batch_of
    from experiments import algorithms
    from experiments.data import tasks
    from experiments.run import training
    from experiments.run.progress import Watch

    training_loss, loss = tasks.make_losses(model, config)
    batch = {key: value[None] for key, value in batch_of(name, examples, length).items()}

    def measure(seen: training.Step) -> None:
        stats = seen.updates.measure(loss, batch, method=config.method, chunk=config.chunk)
        assert all(np.isfinite(s.sharpness) for s in jax.block_until_ready(stats).values())

    step = training.Training(
        name,
        algorithms.pseudo_updates(config.measured("sgd"), config.clip_fraction),
        training_loss,
        lambda start: iter([batch]),
        steps=1,
        select=("sgd", 1e-3),
    )
    params = sharpjax.models.init_params(model, jax.random.key(0))
    training.train(step, params, Watch(), observe=measure)


def planned_bytes(name: str, examples: int, length: int) -> list[dict[str, Any]]:
    return [{"peak": prepared(name, examples, length)[0].peak_bytes}]


def compare(name: str, examples: int, length: int) -> dict[str, Any]:
    given = f"{name!r}, {examples}, {length}"
    (planned,) = _harness.rows_of(f"benchmarks.plan.planned_bytes({given})")
    base = f"from benchmarks.plan import *\nfound, *rest = prepared({given})\n"
    compiled = _harness.peak_mebibytes(base)
    done = _harness.peak_mebibytes(base + f"step({given}, *rest)\n") - compiled
    return {
        "model": name,
        "batch": f"{examples}x{length}",
        "planned_MiB": planned["peak"] / 2**20,
        "process_MiB": done,
        "planned_over_process": planned["peak"] / 2**20 / done,
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks plan", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["t5-small", "distilroberta-base"])
    parser.add_argument("--sizes", nargs="+", default=["2x128", "8x128"], help="examples x tokens")
    parser.add_argument("--quick", action="store_true", help="tiny models: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    models = ["tiny-t5", "tiny-roberta"] if options.quick else options.models
    sizes = ["2x8"] if options.quick else options.sizes
    sizes = [tuple(map(int, size.split("x"))) for size in sizes]
    rows = [compare(name, *size) for name in models for size in sizes]
    _harness.print_table(rows, "Planned memory and a process's")
    if options.out:
        _harness.write_json(options.out, "plan", rows)
