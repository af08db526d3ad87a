"""Experiment 1: directional sharpness of many algorithms along one trajectory (Appendix A.3)."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

import sharpjax
from experiments import algorithms
from experiments.data.tasks import Task, rng
from experiments.errors import DamagedError
from experiments.rows import Histogram, Landscape, Precision, Row, Scales, Search, Sharpness
from experiments.run import memory, processes, scales
from experiments.run.devices import Layout
from experiments.run.training import Step, Training, latest_step
from sharpjax.directions import newton_start
from sharpjax.magnitudes import magnitude_histogram, top_overlap, top_share
from sharpjax.point import EDGES
from sharpjax.precision import measure_precision

if TYPE_CHECKING:
    from experiments.run.study import Study

# Whose top coordinates those of every update are compared with.
COMPARED = ("sgd", "adam")


def run(
    study: "Study",
    task: Task,
    trajectory: str,
    start: Any,
    only: Collection[type[Row]] | None = None,
) -> None:
    """Trains along a trajectory from `start` and records what every algorithm would do.

    At each measured batch: slope, sharpness and its error for all directions, at the point before
    the update. At one of them in each measured epoch: the search and the landscape along all of
    them, the histograms and the scales (these also at the start). At the first of those, or where
    `config.precision_check` says: sharpness in float64 beside float32. What is measured is on disk
    before the next of these begins. With `only`, just these tables are made.

    Raises:
      Interrupted: it was asked to stop.
      DamagedError: a record or a checkpoint cannot be read or written, or is not there any more.
    """
    config, column = study.config, (task.name, trajectory, task.seed)
    wanted = {t: points for t, points in _wanted(task).items() if only is None or t in only}
    missing = {
        table: points - {(r.epoch, r.batch) for r in study.recorded(table, column)}
        for table, points in wanted.items()
    }
    per_epoch = config.batches_per_epoch
    number = lambda point: (point[0] - 1) * per_epoch + point[1]  # noqa: E731
    checkpoints = study.checkpoints("sharpness", task.name, trajectory, task.seed)
    passed = processes.from_first(lambda: latest_step(checkpoints.directory))
    lost = sorted(p for p in missing[Sharpness] if number(p) <= passed)
    if lost:
        epoch, batch = lost[0]
        raise DamagedError(
            f"{study.directory / Sharpness.FILE} has lost {len(lost)} points that were measured, "
            f"the first of them epoch {epoch}, batch {batch}: put a whole copy of it back, or "
            f"delete {checkpoints.directory}, and the same command measures them again"
        )
    # Of a point that training has passed, nothing else is made: an earlier version made less.
    missing = {t: {p for p in points if number(p) > passed} for t, points in missing.items()}
    if not any(missing.values()):
        return
    test = study.layout.place_batch(task.test)

    def observe(step: Step) -> None:
        point = (step.number - 1) // per_epoch + 1, (step.number - 1) % per_epoch + 1
        here = _Here(task, study.layout, (*column, *point), step, test)
        for table, (doing, make) in _MEASURED.items():
            first = table is Scales and step.number == 1
            if table in missing and (first or point in missing[table]):
                memory.give_back()
                with study.watch.doing(doing):
                    rows = make(here)
                study.record(rows)  # On disk before the next begins.

    def kind(point: tuple[int, int]) -> str:
        names = {Landscape: "landscapes", Precision: "a check in float64"}
        also = " and ".join(name for t, name in names.items() if point in missing.get(t, ()))
        return f"measurement with {also}" if also else "measurement"

    title = f"{task.name}, {trajectory} trajectory, seed {task.seed}"
    kinds = {number(point): kind(point) for point in set().union(*missing.values())}
    what = following(task, trajectory, title, number(max(wanted[Sharpness])), kinds)
    study.train(what, start, checkpoints=checkpoints, observe=observe)


def following(
    task: Task, trajectory: str, title: str, steps: int, kinds: Mapping[int, str] | None = None
) -> Training:
    """A trajectory on which each step has the updates of all that is measured there."""
    config = task.config
    return Training(
        title,
        algorithms.pseudo_updates(config.measured(trajectory), config.clip_fraction),
        task.training_loss_fn,
        task.training_batches,
        steps,
        # The trajectory's own update is one of the pseudo-updates, at its rate.
        select=(trajectory, config.rate_along(trajectory)),
        dropout_key=task.dropout_key,
        kinds=kinds,
    )


def _wanted(task: Task) -> dict[type, set[tuple[int, int]]]:
    """The points (epoch, batch) of each table."""
    config = task.config
    measured, full = set(), set()
    for epoch in config.measured_epochs:
        batches = task.measured_batches(epoch)
        measured |= {(epoch, batch) for batch in batches}
        full.add((epoch, int(rng(task.seed, task.name, "landscape", epoch).choice(batches))))
    checked = {"none": set(), "first": {min(full)}, "all": measured}[config.precision_check]
    return {
        Sharpness: measured, Landscape: full, Histogram: full, Scales: full, Precision: checked
    }  # fmt: skip


class _Here:
    """A measured point, and what its tables are made of."""

    def __init__(self, task: Task, layout: Layout, key: tuple, step: Step, test: Any):
        self.task, self.config, self.layout = task, task.config, layout
        self.key, self.step, self.test = key, step, test

    @functools.cached_property
    def stats(self) -> dict[str, Any]:
        config = self.config
        return self.step.updates.measure(
            self.task.loss_fn, self.test, method=config.method, chunk=config.chunk
        )


def _sharpness_rows(here: _Here) -> list[Sharpness]:
    step, fraction = here.step, here.config.clip_fraction
    threshold = _threshold(step.grads, fraction)
    magnitudes = _magnitudes(step.updates, step.grads, fraction)
    reference = abs(float(here.stats["sgd"].sharpness))
    return [
        Sharpness.of(
            (*here.key, name),
            stats,
            ratio=float(stats.sharpness) / reference if reference else float("nan"),
            threshold=threshold,
            **magnitudes[name],
        )
        for name, stats in here.stats.items()
    ]


def _magnitudes(
    updates: Mapping[str, Any], grads: Any, fraction: float
) -> dict[str, dict[str, float]]:
    """[algorithm][column]: what an update's top coordinates hold and share with COMPARED, cosines.

    Of `updates`, which are made when they are asked for, three at most are held at once.
    """
    others = {name: updates[name] for name in COMPARED if name in updates}
    found = {}
    for algorithm in updates:
        own = others[algorithm] if algorithm in others else updates[algorithm]
        trees = dict(enumerate([own, *others.values()]))
        shares = np.asarray(top_overlap({str(i): u for i, u in trees.items()}, fraction))[0, 1:]
        found[algorithm] = {f"overlap_{o}": x for o, x in zip(others, shares, strict=True)}
        found[algorithm]["top_share"] = top_share(own, fraction)
        found[algorithm]["cosine_gradient"] = -_cosine(own, grads)
        if "adam" in others:
            found[algorithm]["cosine_adam"] = _cosine(own, others["adam"])
    return found


def _landscape_rows(here: _Here) -> list[Search | Landscape]:
    # The landscape's rows are written last: where they are, the searches are too.
    searches, rows = [], []
    for name, update in here.step.updates.items():
        search = sharpjax.search_along(
            here.task.loss_fn,
            here.step.params,
            update,
            here.test,
            initial_step=newton_start(here.stats[name], here.step.params),
            points=here.config.landscape_points,
        )
        searches.append(Search.of((*here.key, name), search))
        # The curve ends where the loss is back at its start, if it ever is.
        critical = search.critical_step
        end = max(critical, search.best_step) if 0 < critical < float("inf") else float("inf")
        rows += [
            Landscape.of((*here.key, name, distance), loss=loss)
            for distance, loss in zip(search.steps, search.losses, strict=True)
            if distance <= end
        ]
    return searches + rows


def _histogram_rows(here: _Here) -> list[Histogram]:
    bounds = np.concatenate([[-np.inf], EDGES, [np.inf]])

    def rows(algorithm: str, quantity: str, tree: Any) -> list[Histogram]:
        counts = magnitude_histogram(tree, 10.0**EDGES)
        return [
            Histogram.of((*here.key, algorithm, quantity, lower), upper=upper, count=count)
            for lower, upper, count in zip(bounds, bounds[1:], counts, strict=False)
            if count
        ]

    found = rows("sgd", "gradient", here.step.grads)
    found += rows("sgd", "momentum", here.step.updates["sgd"])
    for name, update in here.step.updates.items():
        found += rows(name, "update", update)
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


def precision_batches(batches: Any) -> Any:
    """Of a test subset, what the float64 check uses: a quarter of the first micro-batch.

    The check holds float64 trees like the parameters beside it, and XLA:CPU keeps more numbers.
    """
    return jax.tree.map(lambda x: x[:1, : -(-x.shape[1] // 4)], batches)


def _precision_rows(here: _Here) -> list[Precision]:
    """The same point, directions and data in float64, one update at a time on the host."""
    found = measure_precision(
        here.task.loss_fn,
        here.layout.gather(here.step.params),
        _Gathered(here.step.updates, here.layout),
        precision_batches(here.task.test),
        method=here.config.method,
    )
    return [Precision.of((*here.key, name), result) for name, result in found.items()]


@jax.jit
def _cosine(a: Any, b: Any) -> jax.Array:
    """aᵀb/(‖a‖‖b‖); each is divided by its norm first, so that no product underflows."""
    a, b = (optax.tree.scale(1 / optax.tree.norm(x), x) for x in (a, b))
    return optax.tree.vdot(a, b)


_threshold = jax.jit(sharpjax.top_fraction_threshold, static_argnums=1)
# What each table holds, as the progress calls it, and what makes its rows at a point.
_MEASURED: dict[type, tuple[str, Callable[[_Here], list]]] = {
    Sharpness: ("slope and sharpness", _sharpness_rows),
    Landscape: ("landscapes", _landscape_rows),
    Histogram: ("histograms", _histogram_rows),
    Scales: ("scales", lambda here: scales.measure(here.key, here.step)),
    Precision: ("check in float64", _precision_rows),
}
