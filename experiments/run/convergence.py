"""Experiment 2: many algorithms from one initial point (Figure 4), at given or tuned rates."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments import algorithms, paper, records
from experiments.algorithms import RELATIVE, AlgorithmError
from experiments.config import Config
from experiments.data.tasks import Task
from experiments.errors import DamagedError
from experiments.rows import Convergence, Tuning
from experiments.run import processes, training
from experiments.run.devices import Layout
from experiments.run.progress import Watch
from experiments.run.sharpness import dropout_key, epochs

GRID = 10**0.5  # Ratio of neighbouring rates of the search.
MAX_TRIALS = 12  # Of one algorithm's search.
BASE = "0.001"  # Where the search starts for an algorithm of which no rate is known.


def run(
    directory: Path, config: Config, task: Task, start: Any, watch: Watch, layout: Layout
) -> None:
    """Trains each algorithm from `start` on the same batches and records every step's loss.

    A run whose loss is no longer finite is recorded as diverged and ends; the others go on.
    """
    fixed = None if config.tune else rates(config, task.name)
    for algorithm, rate in (fixed or tune(directory, config, task, start, watch, layout)).items():
        _converge(directory, config, task, start, algorithm, rate, watch, layout)


def rates(config: Config, task: str) -> dict[str, str]:
    """Each algorithm's rate: Table 2's, or the algorithm's own.

    With `config.tune` these are where its search starts; one without either then starts at the rate
    that Table 2 has for the unclipped algorithm, or else at BASE.

    Raises:
      AlgorithmError: neither is there, and no search is asked for.
    """
    table = table_2(task)
    known = {}
    for name in config.algorithms:
        known[name] = table.get(name) or algorithms.own_rate(name)
        if not known[name] and config.tune:
            known[name] = table.get(algorithms.family(name), BASE)
    unknown = [name for name, rate in known.items() if not rate]
    if unknown:
        raise AlgorithmError(
            f"algorithms: the paper's Table 2 has no learning rate for {', '.join(unknown)}: "
            "--tune searches one"
        )
    return known


def table_2(task: str) -> dict[str, str]:
    """The paper's rates, in the records' notation."""
    rates = paper.LEARNING_RATES.get(task, paper.LEARNING_RATES["mlm"])
    return {k: r if r == RELATIVE else repr(float(r)) for k, r in rates.items()}


def tune(
    directory: Path, config: Config, task: Task, start: Any, watch: Watch, layout: Layout
) -> dict[str, str]:
    """Each algorithm's rate of least training loss over a short horizon, on a log grid.

    From that of `rates` outwards in half decades, in the direction that improves, until it no
    longer does. The search of an algorithm is recorded when it is complete.
    """
    chosen = {}
    recorded = processes.from_first(lambda: records.read(directory, Tuning))
    for algorithm, rate in rates(config, task.name).items():
        rows = [
            row
            for row in recorded
            if (row.task, row.seed, row.algorithm) == (task.name, task.seed, algorithm)
        ]
        if not rows and rate == RELATIVE:
            rows = [_tuning_row(config, task, algorithm, rate, float("nan"), True)]
        elif not rows:
            rows = _search(config, task, start, algorithm, float(rate), watch, layout)
        if processes.is_first():
            records.append(directory, rows)
        chosen[algorithm] = next(row.learning_rate for row in rows if row.chosen)
    return chosen


def _search(config, task, start, algorithm, base, watch, layout) -> list[Tuning]:
    trials: dict[int, float] = {}  # Grid index -> loss.

    def loss_at(i: int) -> float:
        if i not in trials:
            rate = _grid_rate(base, i)
            losses: list[float] = []

            def observe(step: training.Step) -> bool:
                losses.append(step.loss)
                return not math.isfinite(step.loss)

            training.train(
                f"{task.name}, tuning {algorithm} at {rate}",
                directory=None,
                params=start,
                transformation=algorithms.build(algorithm, config.clip_fraction, rate),
                loss_fn=task.training_loss_fn,
                batches=lambda done: epochs(task, done),
                steps=config.tune_steps,
                watch=watch,
                observe=observe,
                dropout_key=dropout_key(config, task),
                layout=layout,
            )
            tail = losses[-max(1, config.tune_steps // 5) :]
            trials[i] = float(np.mean(tail)) if math.isfinite(losses[-1]) else float("inf")
        return trials[i]

    direction = 1 if loss_at(1) < loss_at(0) else -1
    best = max(direction, 0)
    while len(trials) < MAX_TRIALS and loss_at(best + direction) < loss_at(best):
        best += direction
    return [
        _tuning_row(config, task, algorithm, _grid_rate(base, i), loss, i == best)
        for i, loss in trials.items()
    ]


def _grid_rate(base: float, i: int) -> str:
    return repr(float(f"{base * GRID**i:.3g}"))


def _tuning_row(config, task, algorithm, rate, loss, chosen) -> Tuning:
    return Tuning(
        task=task.name,
        seed=task.seed,
        algorithm=algorithm,
        learning_rate=rate,
        steps=config.tune_steps,
        loss=loss,
        diverged=math.isinf(loss),
        chosen=chosen,
    )


def _converge(directory, config, task, start, algorithm, rate, watch, layout) -> None:
    steps = config.epochs * config.batches_per_epoch
    own = [
        row
        for row in processes.from_first(lambda: records.read(directory, Convergence))
        if (row.task, row.seed, row.algorithm) == (task.name, task.seed, algorithm)
    ]
    if [row.step for row in own] != list(range(1, len(own) + 1)):
        raise _lost(directory, algorithm, "a step is missing")
    if own and (own[-1].step == steps or own[-1].diverged):
        return
    checkpoints = directory / "checkpoints" / f"convergence-{task.name}-{algorithm}-{task.seed}"
    passed = processes.from_first(lambda: training.latest_step(checkpoints))
    if passed > len(own):
        raise _lost(directory, algorithm, f"{len(own)} steps, the checkpoint is of step {passed}")
    pending: list[Convergence] = []

    def observe(step: training.Step) -> bool:
        diverged = not math.isfinite(step.loss)
        pending.append(
            Convergence(
                task=task.name,
                seed=task.seed,
                algorithm=algorithm,
                learning_rate=rate,
                step=step.number,
                epoch=(step.number - 1) // config.batches_per_epoch + 1,
                loss=step.loss,
                diverged=diverged,
            )
        )
        return diverged

    def flush() -> None:
        if processes.is_first():
            records.append(directory, pending)
        pending.clear()

    training.train(
        f"{task.name}, {algorithm} at {rate}",
        directory=checkpoints,
        params=start,
        transformation=algorithms.build(algorithm, config.clip_fraction, rate),
        loss_fn=task.training_loss_fn,
        batches=lambda done: epochs(task, done),
        steps=steps,
        watch=watch,
        observe=observe,
        flush=flush,
        checkpoint_every=config.checkpoint_every,
        dropout_key=dropout_key(config, task),
        layout=layout,
    )


def _lost(directory: Path, algorithm: str, what: str) -> DamagedError:
    path = directory / Convergence.FILE
    return DamagedError(
        f"{path} has lost records of {algorithm} ({what}): put a whole copy of it back, or delete "
        f"it and {directory / 'checkpoints'}, and the same command makes them anew"
    )
