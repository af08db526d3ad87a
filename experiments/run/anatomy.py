"""The anatomy of sharpness at one point of a trajectory: where it sits and what it is made of.

All instruments look at the algorithms' directions on the fixed test subset, in float32. Each
item is recorded as it is done, so that an interrupted run continues with the next.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from experiments.anatomy_rows import Block, Clipped, Correlation, Decrease, Lorenz, Parts, Ritz
from experiments.data.tasks import Task
from experiments.explanation_rows import (
    BlockSummary,
    Cosine,
    Dominant,
    ExactCorrelation,
    FrequencyPart,
    Noise,
    Preconditioned,
)
from experiments.rows import one
from experiments.run import explanations, measurements
from experiments.run.measurements import Point
from experiments.run.options import Options
from experiments.run.progress import Interrupted
from experiments.run.sharpness import following
from experiments.run.training import Step

if TYPE_CHECKING:
    from experiments.run.study import Study


def run(study: "Study", task: Task, at: tuple, start: Any, options: Options) -> None:
    """Trains along a trajectory from `start` to a batch and records the point's anatomy.

    Args:
      study: Its directory has what is recorded already; the same call continues it.
      task: What the model learns; a pretrained folder is the study's `checkpoint`.
      at: The point, as `AtPoint.KEY` has it.
      start: Where the trajectory starts.
      options: How finely the measurements look.

    Raises:
      Interrupted: it was asked to stop.
    """
    items = [
        item
        for item in _items(at, study.config, options)
        if item.measure.__name__ in options.instruments
    ]
    tables = dict.fromkeys(item.table for item in items)
    recorded = {table: study.recorded(table, at) for table in tables}
    missing = [item for item in items if not one(recorded[item.table], **item.where)]
    if not missing:
        return
    step = _reach(study, task, at, start)
    point = Point(task, study.config, options, at, step.params, step.grads, step.updates)
    title = f"{task.name}, anatomy on the {at[1]} trajectory, seed {task.seed}"
    done = len(items) - len(missing)
    kinds = {n: item.measure.__name__ for n, item in enumerate(missing, start=done + 1)}
    with study.watch.stage(title, len(items), done, kinds) as stage:
        for number, item in enumerate(missing, start=done + 1):
            if study.watch.stopping:
                raise Interrupted(f"{title} stopped after item {number - 1} of {len(items)}")
            with study.watch.doing(" ".join(map(str, item.where.values()))):
                study.record(item.measure(point, **item.where))
            stage.step(number, step.loss)


class _Arrived(Exception):
    def __init__(self, step: Step):
        self.step = step


def _reach(study: "Study", task: Task, at: tuple, start: Any) -> Step:
    """Trains to the point and stops before its update; the next call starts a few steps before."""
    _, trajectory, seed, epoch, batch = at
    number = (epoch - 1) * study.config.batches_per_epoch + batch

    def observe(step: Step) -> None:
        if step.number == number:
            raise _Arrived(step)

    title = f"{task.name}, {trajectory} trajectory to epoch {epoch}, batch {batch}, seed {seed}"
    what = following(task, trajectory, title, number)
    checkpoints = study.checkpoints("anatomy", *at[:3], number)
    try:
        study.train(what, start, checkpoints=checkpoints, observe=observe)
    except _Arrived as arrived:
        return arrived.step
    raise RuntimeError(f"{checkpoints.directory} never came to step {number}")


@dataclasses.dataclass(frozen=True)
class _Item:
    measure: Callable[..., list]  # measure(point, **where) -> rows.
    table: type  # Its rows are recorded last, and say that all of the item is there.
    where: dict[str, Any]


def _items(place, config, options) -> Iterator[_Item]:
    for algorithm in config.measured(place[1]):
        yield _Item(measurements.lorenz, Lorenz, {"algorithm": algorithm})
    yield _Item(measurements.parts, Parts, {})
    yield _Item(measurements.span, Decrease, {})
    for algorithm in config.measured(place[1]):
        yield _Item(measurements.blocks, Block, {"algorithm": algorithm})
    yield _Item(measurements.spectrum, Ritz, {})
    yield _Item(measurements.correlations, Correlation, {})
    for quantity in options.clipped:
        for scope in ("global", "tensor"):
            for fraction in options.clipped_fractions:
                where = {"quantity": quantity, "scope": scope, "fraction": float(fraction)}
                yield _Item(measurements.clipped, Clipped, where)
    yield _Item(explanations.noise, Noise, {})
    yield _Item(explanations.frequency, FrequencyPart, {})
    yield _Item(explanations.dominant, Dominant, {})
    yield _Item(explanations.dominant_shares, Cosine, {})
    if "adam" in config.measured(place[1]):
        yield _Item(explanations.preconditioned, Preconditioned, {})
    yield _Item(explanations.exact_diagonal, ExactCorrelation, {})
    yield _Item(explanations.block_spectra, BlockSummary, {})
