"""Experiment 1: directional sharpness of many algorithms along one trajectory (Appendix A.3)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import sharpjax
from experiments import algorithms, records
from experiments.config import Config
from experiments.data.tasks import Task, rng
from experiments.errors import DamagedError
from experiments.rows import Histogram, Landscape, Precision, Scales, Search, Sharpness
from experiments.run import processes, scales, training
from experiments.run.devices import Layout
from experiments.run.progress import Watch
from sharpjax.directions import newton_start
from sharpjax.magnitudes import magnitude_histogram, top_overlap, top_share
from sharpjax.point import EDGES
from sharpjax.precision import measure_precision

# Of the test subset's micro-batches, those that the float64 check uses.
PRECISION_MICRO_BATCHES = 1

# What the progress calls the making of each table's rows.
_DOING = {
    Sharpness: "slope and sharpness",
    Landscape: "landscapes",
    Histogram: "histograms",
    Scales: "scales",
    Precision: "check in float64",
}


def run(
    directory: Path,
    config: Config,
    task: Task,
    name: str,
    start: Any,
    watch: Watch,
    layout: Layout,
) -> None:
    """Trains along trajectory `name` from `start` and records what every algorithm would do.

    At each measured batch: slope, sharpness and its error for all directions, at the point before
    the update. At one of them in each measured epoch: the search and the landscape along all of
    them, the histograms and the scales (these also at the start). At the first of those, or where
    `config.precision_check` says: sharpness in float64 beside float32. What is measured is on disk
    before the next of these begins.

    Raises:
      Interrupted: it was asked to stop.
      DamagedError: a record or a checkpoint cannot be read or written, or is not there any more.
    """
    measured = {
        (epoch, batch): False
        for epoch in config.measured_epochs
        for batch in task.measured_batches(epoch)
    }
    for epoch in config.measured_epochs:
        drawn = rng(task.seed, task.name, "landscape", epoch).choice(task.measured_batches(epoch))
        measured[epoch, int(drawn)] = True
    full = {point for point, landscape in measured.items() if landscape}
    checked = {"none": set(), "first": {min(full)}, "all": set(measured)}[config.precision_check]
    wanted = {
        Sharpness: set(measured),
        Landscape: full,
        Histogram: full,
        Scales: full,
        Precision: checked,
    }
    missing = {
        table: points - _recorded(directory, table, (task.name, name, task.seed))
        for table, points in wanted.items()
    }
    per_epoch = config.batches_per_epoch
    number = lambda point: (point[0] - 1) * per_epoch + point[1]  # noqa: E731
    checkpoints = directory / "checkpoints" / f"sharpness-{task.name}-{name}-{task.seed}"
    passed = processes.from_first(lambda: training.latest_step(checkpoints))
    lost = sorted(p for p in missing[Sharpness] if number(p) <= passed)
    if lost:
        epoch, batch = lost[0]
        raise DamagedError(
            f"{directory / Sharpness.FILE} has lost {len(lost)} points that were measured, "
            f"the first of them epoch {epoch}, batch {batch}: put a whole copy of it back, or "
            f"delete {checkpoints}, and the same command measures them again"
        )
    # Of a point that training has passed, nothing else is made: an earlier version made less.
    missing = {t: {p for p in points if number(p) > passed} for t, points in missing.items()}
    if not any(missing.values()):
        return
    test = layout.place_batch(task.test)
    last_epoch, last_batch = max(measured)

    def observe(step: training.Step) -> None:
        point = (step.number - 1) // per_epoch + 1, (step.number - 1) % per_epoch + 1
        cell = (task.name, name, task.seed, *point)
        makers = {
            Sharpness: lambda: _sharpness_rows(cell, config, step, stats()),
            Landscape: lambda: _landscape_rows(cell, config, task, step, stats(), test),
            Histogram: lambda: _histogram_rows(cell, step),
            Scales: lambda: scales.measure(cell, step),
            Precision: lambda: _precision_rows(cell, task, config, layout, step),
        }

        @functools.cache
        def stats():
            return step.updates.measure(
                task.loss_fn, test, method=config.method, chunk=config.chunk
            )

        # Each is on disk before the next begins.
        for table, make in makers.items():
            if point in missing[table] or (table is Scales and step.number == 1):
                with watch.doing(_DOING[table]):
                    rows = make()
                if processes.is_first():
                    records.append(directory, rows)

    def kind(point: tuple[int, int]) -> str:
        names = {Landscape: "landscapes", Precision: "a check in float64"}
        also = " and ".join(name for table, name in names.items() if point in missing[table])
        return f"measurement with {also}" if also else "measurement"

    follow(
        config,
        task,
        name,
        start,
        title=f"{task.name}, {name} trajectory, seed {task.seed}",
        directory=checkpoints,
        steps=(last_epoch - 1) * per_epoch + last_batch,
        observe=observe,
        watch=watch,
        kinds={number(point): kind(point) for point in set().union(*missing.values())},
        layout=layout,
    )


def _recorded(directory: Path, table: type, column: tuple) -> set[tuple[int, int]]:
    """The points (epoch, batch) of a column (task, trajectory, seed) that a table has."""
    rows = processes.from_first(lambda: records.read(directory, table))
    return {(r.epoch, r.batch) for r in rows if (r.task, r.trajectory, r.seed) == column}


def follow(
    config: Config,
    task: Task,
    name: str,
    start: Any,
    *,
    title: str,
    directory: Path,
    steps: int,
    observe: Callable[[training.Step], None],
    watch: Watch,
    kinds: Mapping[int, str] | None = None,
    layout: Layout | None = None,
) -> None:
    """Trains along trajectory `name`, observed with the updates of all that is measured there."""
    rate = {"sgd": config.sgd_learning_rate, "adam": config.adam_learning_rate}[name]
    training.train(
        title,
        directory=directory,
        params=start,
        transformation=algorithms.pseudo_updates(config.measured(name), config.clip_fraction),
        # The trajectory's own update is one of the pseudo-updates, at its rate.
        select=(name, rate),
        loss_fn=task.training_loss_fn,
        batches=lambda done: epochs(task, done),
        steps=steps,
        watch=watch,
        observe=observe,
        checkpoint_every=config.checkpoint_every,
        kinds=kinds,
        dropout_key=dropout_key(config, task),
        layout=layout,
    )


def epochs(task: Task, done: int):
    """The study's training batches from step `done` + 1 on, without end."""
    epoch, skip = divmod(done, task.config.batches_per_epoch)
    while True:
        epoch += 1
        yield from task.batches(epoch)[skip:]
        skip = 0


def dropout_key(config: Config, task: Task) -> jax.Array | None:
    """The key of a run's dropout, if it has any."""
    seed = int(rng(task.seed, task.name, "dropout").integers(2**31))
    return jax.random.key(seed) if config.dropout else None


def _sharpness_rows(cell, config, step, stats) -> list[Sharpness]:
    threshold = float(_threshold(step.grads, config.clip_fraction))
    shares = {k: float(top_share(u, config.clip_fraction)) for k, u in step.updates.items()}
    overlaps = _overlaps(step.updates, config.clip_fraction)
    reference = abs(float(stats["sgd"].sharpness))
    return [
        Sharpness(
            *cell,
            algorithm,
            loss=float(s.loss),
            slope=float(s.slope),
            sharpness=float(s.sharpness),
            sharpness_se=float(s.sharpness_se),
            ratio=float(s.sharpness) / reference if reference else float("nan"),
            update_norm=float(s.update_norm),
            threshold=threshold,
            newton_step=float(s.newton_step),
            predicted_decrease=float(s.predicted_decrease),
            top_share=shares[algorithm],
            slope_se=float(s.slope_se),
            step_ratio=float(s.step_ratio),
            **{f"overlap_{other}": overlaps[other][algorithm] for other in _COMPARED},
        )
        for algorithm, s in stats.items()
    ]


# Whose top coordinates those of every update are compared with.
_COMPARED = ("sgd", "adam")


def _overlaps(updates: Mapping[str, Any], fraction: float) -> dict[str, dict[str, float]]:
    """[compared][algorithm]: the share of top coordinates that the two updates have in common.

    Of `updates`, which are made when they are asked for, three at most are held at once.
    """
    others = {name: updates[name] for name in _COMPARED if name in updates}
    found = {name: dict.fromkeys(updates, math.nan) for name in _COMPARED}
    for algorithm in updates:
        own = others[algorithm] if algorithm in others else updates[algorithm]
        table = np.asarray(_overlap([own, *others.values()], fraction))
        for other, share in zip(others, table[0, 1:], strict=True):
            found[other][algorithm] = float(share)
    return found


def _overlap(updates: list[Any], fraction: float) -> Any:
    return top_overlap({str(i): update for i, update in enumerate(updates)}, fraction)


def _landscape_rows(cell, config, task, step, stats, test) -> list:
    # The landscape's rows are written last: where they are, the searches are too.
    searches, rows = [], []
    for algorithm, update in step.updates.items():
        search = sharpjax.search_along(
            task.loss_fn,
            step.params,
            update,
            test,
            initial_step=newton_start(stats[algorithm]),
            points=config.landscape_points,
        )
        searches.append(
            Search(
                *cell,
                algorithm,
                best_step=float(search.best_step),
                best_decrease=float(search.best_decrease),
                critical_step=float(search.critical_step),
                status=search.status,
            )
        )
        # The curve ends where the loss is back at its start, if it ever is.
        critical = search.critical_step
        end = max(critical, search.best_step) if 0 < critical < float("inf") else float("inf")
        rows += [
            Landscape(*cell, algorithm, step=float(s), loss=float(loss))
            for s, loss in zip(search.steps, search.losses, strict=True)
            if s <= end
        ]
    return searches + rows


def _histogram_rows(cell, step) -> list[Histogram]:
    def rows(algorithm: str, quantity: str, tree: Any) -> list[Histogram]:
        bounds = np.concatenate([[-np.inf], EDGES, [np.inf]])
        return [
            Histogram(
                *cell,
                algorithm,
                quantity=quantity,
                lower=float(bounds[i]),
                upper=float(bounds[i + 1]),
                count=int(count),
            )
            for i, count in enumerate(magnitude_histogram(tree, 10.0**EDGES))
            if count
        ]

    found = rows("sgd", "gradient", step.grads)
    found += rows("sgd", "momentum", step.updates["sgd"])
    for algorithm, update in step.updates.items():
        found += rows(algorithm, "update", update)
    return found


class _Gathered(Mapping):
    """Updates as whole host arrays, each when it is asked for."""

    def __init__(self, updates: Mapping, layout: Layout):
        self._updates, self._layout = updates, layout

    def __getitem__(self, name: str) -> Any:
        return self._layout.gather(self._updates[name])

    def __iter__(self):
        return iter(self._updates)

    def __len__(self):
        return len(self._updates)


def _precision_rows(cell, task, config, layout, step) -> list[Precision]:
    """The same point, directions and data in float64, one update at a time on the host."""
    found = measure_precision(
        task.loss_fn,
        layout.gather(step.params),
        _Gathered(step.updates, layout),
        task.test,
        method=config.method,
        micro_batches=PRECISION_MICRO_BATCHES,
    )
    return [Precision(*cell, name, **dataclasses.asdict(f)) for name, f in found.items()]


_threshold = jax.jit(sharpjax.top_fraction_threshold, static_argnums=1)
