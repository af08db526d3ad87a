"""Experiment 2: many algorithms from one initial point (Figure 4), at given or tuned rates."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import algorithms, paper
from experiments.algorithms import RELATIVE, AlgorithmError
from experiments.config import Config
from experiments.data.tasks import Task
from experiments.errors import DamagedError
from experiments.horizon_rows import Own, Trial
from experiments.rows import Convergence, Row, Tuning
from experiments.run import own, processes
from experiments.run.training import Step, Training, latest_step
from sharpjax.named import parse

if TYPE_CHECKING:
    from experiments.run.study import Study

GRID = 10**0.5  # Ratio of neighbouring rates of the search.
MAX_TRIALS = 12  # Of one algorithm's search, before it is refined.
BASE = "0.001"  # Where the search starts for an algorithm of which no rate is known.


def run(study: "Study", task: Task, start: Any, measured: bool = False) -> None:
    """Trains each algorithm from `start` on the same batches and records every step's loss.

    A run whose loss is no longer finite is recorded as diverged and ends; the others go on.

    Args:
      study: Its directory has what is recorded already; the same call continues it.
      task: What the model learns.
      start: Where all runs start.
      measured: Whether each algorithm's own update is measured along its run; see `own.measure`.
    """
    fixed = None if study.config.tune else rates(study.config, task.name)
    for algorithm, rate in (fixed or tune(study, task, start)).items():
        _converge(study, task, start, algorithm, rate, measured)


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
            known[name] = table.get(parse(name).base, BASE)
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


def tune(study: "Study", task: Task, start: Any) -> dict[str, str]:
    """Each algorithm's rate of least training loss over the horizon, on a log grid.

    From that of `rates` outwards in half decades, in the direction that improves, until it no
    longer does; while all diverge, downwards. Over the whole horizon the rates a quarter of a
    decade to both sides of the best are tried too, and each rate's run is a `Trial`, so that a
    search that was interrupted goes on with the next rate. The search of an algorithm is recorded
    as `Tuning` when it is complete.

    A relative step is kept as it is over `tune_steps`. Over the whole horizon it is one more rate
    to try, beside a grid around the one that Table 2 has for the algorithm elsewhere.
    """
    chosen, steps = {}, _horizon(study.config)
    for algorithm, rate in rates(study.config, task.name).items():
        key = task.name, task.seed, algorithm
        rows = study.recorded(Tuning, key)
        if not rows:
            tried, best = _search(study, task, start, algorithm, rate)
            rows = [
                Tuning.of(
                    (*key, trial),
                    steps=steps,
                    loss=loss,
                    diverged=math.isinf(loss),
                    chosen=trial == best,
                )
                for trial, loss in tried.items()
            ]
        study.record(rows)
        chosen[algorithm] = next(row.learning_rate for row in rows if row.chosen)
    return chosen


def _search(study, task, start, algorithm, rate: str) -> tuple[dict[str, float], str]:
    """Loss of every rate that was tried, and the best rate."""
    whole = study.config.tune_horizon == "whole"
    if rate == RELATIVE:
        if not whole:
            return {RELATIVE: math.nan}, RELATIVE
        # Table 2's number for the algorithm in the other task.
        base = table_2("mlm").get(parse(algorithm).base, BASE)
        tried, found = _search(study, task, start, algorithm, base)
        tried[RELATIVE] = _final_loss(study, task, start, algorithm, RELATIVE)
        return tried, min((found, RELATIVE), key=tried.__getitem__)
    tried = {}

    def loss_at(i: float) -> float:
        trial = _grid_rate(float(rate), i)
        if trial not in tried:
            tried[trial] = _final_loss(study, task, start, algorithm, trial)
        return tried[trial]

    direction = 1 if loss_at(1) < loss_at(0) else -1
    best = max(direction, 0)
    while len(tried) < MAX_TRIALS:
        better = loss_at(best + direction) < loss_at(best)
        if not better and math.isfinite(loss_at(best)):
            break
        best += direction
    if whole:
        best = min((best, best - 0.5, best + 0.5), key=loss_at)
    return tried, _grid_rate(float(rate), best)


def _horizon(config: Config) -> int:
    """Steps of each run of the search."""
    whole = config.epochs * config.batches_per_epoch
    return whole if config.tune_horizon == "whole" else config.tune_steps


def _final_loss(study, task, start, algorithm: str, rate: str) -> float:
    """Mean training loss over the end of the horizon; inf if it is no longer finite on the way."""
    whole, key = study.config.tune_horizon == "whole", (task.name, task.seed, algorithm, rate)
    if whole and (recorded := study.recorded(Trial, key)):
        return recorded[0].loss
    losses: list[float] = []

    def observe(step: Step) -> bool:
        losses.append(step.loss)
        return not math.isfinite(step.loss)

    name = f"{task.name}, tuning {algorithm} at {rate}"
    what = _training(study, task, name, (algorithm, rate), _horizon(study.config))
    study.train(what, start, observe=observe)
    tail = study.config.batches_per_epoch if whole else max(1, what.steps // 5)
    finite = math.isfinite(losses[-1])
    loss = float(np.mean(losses[-tail:])) if finite else math.inf
    if whole:
        until = {"diverged_at": 0 if finite else len(losses)}
        study.record([Trial.of(key, steps=what.steps, loss=loss, **until)])
    return loss


def _training(study, task, name, algorithm, steps) -> Training:
    made = algorithms.build(algorithm[0], study.config.clip_fraction, algorithm[1])
    data = task.training_loss_fn, task.training_batches
    return Training(name, made, *data, steps, dropout_key=task.dropout_key)


def _grid_rate(base: float, i: float) -> str:
    return repr(float(f"{base * GRID**i:.3g}"))


def _converge(study, task, start, algorithm, rate, measured=False) -> None:
    per_epoch = study.config.batches_per_epoch
    steps = study.config.epochs * per_epoch
    key = task.name, task.seed, algorithm
    seen = study.recorded(Convergence, key)
    if [row.step for row in seen] != list(range(1, len(seen) + 1)):
        raise _lost(study, algorithm, "a step is missing")
    ended = seen and (seen[-1].step == steps or seen[-1].diverged)
    missing = own.missing(study, key, seen[-1].step if ended else steps) if measured else set()
    if ended and not missing:
        return
    # Measured runs have checkpoints of their own: one that was not measured may have ended before.
    kind = "own" if measured else "convergence"
    checkpoints = study.checkpoints(kind, task.name, algorithm, task.seed)
    passed = processes.from_first(lambda: latest_step(checkpoints.directory))
    if passed > len(seen):
        raise _lost(study, algorithm, f"{len(seen)} steps, the checkpoint is of step {passed}")
    if missing and min(missing) <= passed:
        raise _lost(study, algorithm, f"step {min(missing)} is missing", Own)
    test = study.layout.place_batch(task.test) if measured else None
    pending: list[Row] = []

    def observe(step: Step) -> bool:
        epoch, diverged = (step.number - 1) // per_epoch + 1, not math.isfinite(step.loss)
        at = {"learning_rate": rate, "epoch": epoch, "diverged": diverged}
        pending.append(Convergence.of((*key, step.number), step, **at))
        if step.number in missing and not diverged:
            pending.append(own.measure(task, (*key, step.number), rate, step, test))
        return diverged

    def flush() -> None:
        study.record(pending)
        pending.clear()

    what = _training(study, task, f"{task.name}, {algorithm} at {rate}", (algorithm, rate), steps)
    if measured:
        what = own.following(what, algorithm)
    study.train(what, start, checkpoints=checkpoints, observe=observe, flush=flush)


def _lost(study, algorithm: str, what: str, table: type[Row] = Convergence) -> DamagedError:
    path = study.directory / table.FILE
    return DamagedError(
        f"{path} has lost records of {algorithm} ({what}): put a whole copy of it back, or delete "
        f"it and {study.directory / 'checkpoints'}, and the same command makes them anew"
    )
