"""Experiment 1: directional sharpness of many algorithms along one trajectory (Appendix A.3)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sharpjax
from experiments import algorithms, processes, records, scales, trajectory
from experiments.config import Config
from experiments.errors import DamagedError
from experiments.layout import Layout
from experiments.tasks import Task, rng
from experiments.watch import Watch

# Edges of the histograms of magnitudes, in powers of ten.
EDGES = np.arange(-20.0, 4.25, 0.25)


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
    the update. At one of them in each measured epoch: the landscape along all of them, the
    histograms and the scales (these also at the start). At the first of those, or wherever
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

    def points_of(table: type) -> set[tuple[int, int]]:
        return {
            (row.epoch, row.batch)
            for row in processes.from_first(lambda: records.read(directory, table))
            if (row.task, row.trajectory, row.seed) == (task.name, name, task.seed)
        }

    full = {point for point, landscape in measured.items() if landscape}
    asked = {"none": set(), "first": {min(full)}, "all": set(measured)}[config.precision_check]
    recorded = points_of(records.Sharpness)
    landscapes = full - points_of(records.Landscape)
    checks = asked - points_of(records.Precision)
    missing = (measured.keys() - recorded) | landscapes | checks
    if not missing:
        return
    per_epoch = config.batches_per_epoch
    number = lambda point: (point[0] - 1) * per_epoch + point[1]  # noqa: E731
    checkpoints = directory / "checkpoints" / f"sharpness-{task.name}-{name}-{task.seed}"
    passed = processes.from_first(lambda: trajectory.latest_step(checkpoints))
    lost = sorted(point for point in measured.keys() - recorded if number(point) <= passed)
    if lost:
        epoch, batch = lost[0]
        raise DamagedError(
            f"{directory / records.Sharpness.FILE} has lost {len(lost)} points that were measured, "
            f"the first of them epoch {epoch}, batch {batch}: put a whole copy of it back, or "
            f"delete {checkpoints}, and the same command measures them again"
        )
    if max(map(number, missing)) <= passed:
        return  # What an earlier version did not record.
    test = layout.place_batch(task.test)
    last_epoch, last_batch = max(measured)

    def record(rows: list) -> None:
        if processes.is_first():
            records.append(directory, rows)

    def observe(step: trajectory.Step) -> None:
        epoch, batch = (step.number - 1) // per_epoch + 1, (step.number - 1) % per_epoch + 1
        cell = (task.name, name, task.seed, epoch, batch)
        if step.number == 1:
            record(scales.measure(cell, step))
        if (epoch, batch) not in missing:
            return
        with watch.doing("slope and sharpness"):
            stats = sharpjax.measure_directions(
                task.loss_fn,
                step.params,
                step.updates,
                test,
                method=config.method,
                chunk=config.chunk,
            )
        if (epoch, batch) not in recorded:
            record(_sharpness_rows(cell, config, step, stats))
        if (epoch, batch) in landscapes:
            record(_histogram_rows(cell, step, layout) + scales.measure(cell, step))
            with watch.doing("landscapes"):  # Last: their presence says that the others are there.
                record(_landscape_rows(cell, config, task, step, stats, test))
        if (epoch, batch) in checks:
            with watch.doing("check in float64"):
                record(_precision_rows(cell, task, layout, step, stats))

    def kind(point: tuple[int, int]) -> str:
        also = ["landscapes"] * (point in landscapes) + ["a check in float64"] * (point in checks)
        return " with ".join(filter(None, ("measurement", " and ".join(also))))

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
        kinds={number(point): kind(point) for point in missing},
        layout=layout,
    )


def follow(
    config: Config,
    task: Task,
    name: str,
    start: Any,
    *,
    title: str,
    directory: Path,
    steps: int,
    observe: Callable[[trajectory.Step], None],
    watch: Watch,
    kinds: Mapping[int, str] | None = None,
    layout: Layout | None = None,
) -> None:
    """Trains along trajectory `name`, observed with the updates of all that is measured there."""
    rate = {"sgd": config.sgd_learning_rate, "adam": config.adam_learning_rate}[name]
    trajectory.train(
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


def _sharpness_rows(cell, config, step, stats) -> list[records.Sharpness]:
    threshold = float(_threshold(step.grads, config.clip_fraction))
    shares = {k: float(_top_share(u, config.clip_fraction)) for k, u in step.updates.items()}
    reference = abs(float(stats["sgd"].sharpness))
    return [
        records.Sharpness(
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
        )
        for algorithm, s in stats.items()
    ]


def _landscape_rows(cell, config, task, step, stats, test) -> list[records.Landscape]:
    rows = []
    for algorithm, update in step.updates.items():
        newton = float(stats[algorithm].newton_step)
        search = sharpjax.search_along(
            task.loss_fn,
            step.params,
            update,
            test,
            initial_step=newton if 0 < newton < float("inf") else None,
            points=config.landscape_points,
        )
        rows += [
            records.Landscape(*cell, algorithm, step=float(s), loss=float(loss))
            for s, loss in zip(search.steps, search.losses, strict=True)
        ]
    return rows


def _histogram_rows(cell, step, layout) -> list[records.Histogram]:
    trees = [("sgd", "gradient", step.grads), ("sgd", "momentum", step.updates["sgd"])]
    trees += [(algorithm, "update", update) for algorithm, update in step.updates.items()]
    bounds = np.concatenate([[-np.inf], EDGES, [np.inf]])
    return [
        records.Histogram(
            *cell,
            algorithm,
            quantity=quantity,
            lower=float(bounds[i]),
            upper=float(bounds[i + 1]),
            count=int(count),
        )
        for algorithm, quantity, tree in trees
        for i, count in enumerate(sum(c.astype(np.int64) for c in layout.gather(_counts(tree))))
        if count
    ]


def _precision_rows(cell, task, layout, step, stats) -> list[records.Precision]:
    """The same point, directions and data in float64, on the host's own precision."""
    host = layout.gather((step.params, step.updates))
    with jax.enable_x64(True):
        params, updates = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), host)
        exact = sharpjax.measure_directions(task.loss_fn, params, updates, task.test)
        exact = {k: float(s.sharpness) for k, s in exact.items()}
    return [
        records.Precision(
            *cell,
            algorithm,
            sharpness=float(s.sharpness),
            sharpness_float64=exact[algorithm],
            relative_error=abs(float(s.sharpness) / exact[algorithm] - 1),
        )
        for algorithm, s in stats.items()
    ]


_threshold = jax.jit(sharpjax.top_fraction_threshold, static_argnums=1)


@jax.jit
def _counts(tree) -> list[jax.Array]:
    """Counts of each leaf's magnitudes between EDGES; the host sums leaves without overflow."""
    edges = jnp.asarray(10.0**EDGES, jnp.float32)

    def count(x):
        where = jnp.searchsorted(edges, jnp.abs(x).ravel(), side="right")
        return jnp.bincount(where, length=len(EDGES) + 1)

    return [count(x) for x in jax.tree.leaves(tree)]


def _top_share(update, fraction: float) -> float:
    """Share of ‖update‖² in its ⌊n·fraction⌋ largest coordinates.

    Those above τ, and of those equal to it as many as are missing.
    """
    size = sum(x.size for x in jax.tree.leaves(update))
    top, count, threshold, total = (float(x) for x in _top_sums(update, fraction))
    rank = int(np.floor(size * fraction))
    return (top + (rank - count) * threshold**2) / total if total else float("nan")


@jax.jit
def _top_sums(update, fraction):
    # Relative to the largest coordinate: squares of tiny updates would vanish.
    largest = jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(update)]).max()
    scaled = jax.tree.map(lambda x: jnp.abs(x) / largest, update)
    threshold = sharpjax.top_fraction_threshold(scaled, fraction)
    leaves = jax.tree.leaves(scaled)
    top = sum(jnp.sum(jnp.where(x > threshold, x, 0) ** 2) for x in leaves)
    count = sum(jnp.sum(x > threshold) for x in leaves)
    return top, count, threshold, sum(jnp.sum(x**2) for x in leaves)
