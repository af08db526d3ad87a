"""The anatomy of sharpness at one point of a trajectory: where it sits and what it is made of.

Twelve instruments on the algorithms' directions, all on the fixed test subset, in float32. Each
item is recorded as it is done, so that an interrupted run continues with the next.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from experiments import records
from experiments.anatomy_rows import (
    PLACE,
    Block,
    Clipped,
    Correlation,
    Decrease,
    Lorenz,
    Parts,
    Ritz,
)
from experiments.config import Config
from experiments.data.tasks import Task
from experiments.explanation_rows import (
    BlockSummary,
    Dominant,
    ExactCorrelation,
    FrequencyPart,
    Noise,
    Preconditioned,
)
from experiments.run import explanations, measurements, sharpness, training
from experiments.run.measurements import Point
from experiments.run.options import Options
from experiments.run.progress import Interrupted, Watch


def run(
    directory: Path,
    config: Config,
    task: Task,
    name: str,
    start: Any,
    watch: Watch,
    *,
    epoch: int | None = None,
    batch: int | None = None,
    options: Options | None = None,
) -> None:
    """Trains along trajectory `name` from `start` to a batch and records the point's anatomy.

    Args:
      directory: Of the records; the same call continues what is there.
      config: The study.
      task: What the model learns; a pretrained folder is the study's `checkpoint`.
      name: The trajectory, "sgd" or "adam".
      start: Where the trajectory starts.
      watch: Told of every item, and asked whether to stop.
      epoch: Of the point, from 1; None takes the first that the sharpness experiment measures.
      batch: Of the epoch, from 1; None takes the first that is measured there, so that the point's
        sharpness is also in sharpness.csv. The start itself is epoch 1, batch 1.
      options: How finely the instruments look.

    Raises:
      Interrupted: it was asked to stop.
      ValueError: no such epoch or batch.
    """
    options = options or Options()
    config.check_point(epoch, batch)
    epoch = min(config.measured_epochs) if epoch is None else epoch
    batch = task.measured_batches(epoch)[0] if batch is None else batch
    place = (task.name, name, task.seed, epoch, batch)
    items = list(_items(place, config, options))
    missing = [item for item in items if not _recorded(directory, place, item)]
    if not missing:
        return
    step = _reach(directory, config, task, name, start, watch, epoch, batch)
    point = Point(task, config, options, place, step.params, step.grads, step.updates)
    title = f"{task.name}, anatomy on the {name} trajectory, seed {task.seed}"
    done = len(items) - len(missing)
    kinds = {n: item.measure.__name__ for n, item in enumerate(missing, start=done + 1)}
    with watch.stage(title, len(items), done, kinds) as stage:
        for number, item in enumerate(missing, start=done + 1):
            if watch.stopping:
                raise Interrupted(f"{title} stopped after item {number - 1} of {len(items)}")
            with watch.doing(" ".join(map(str, item.where.values()))):
                records.append(directory, item.measure(point, **item.where))
            stage.step(number, step.loss)


class _Arrived(Exception):
    def __init__(self, step: training.Step):
        self.step = step


def _reach(directory, config, task, name, start, watch, epoch, batch) -> training.Step:
    """Trains to the point and stops before its update; the next call starts a few steps before."""
    number = (epoch - 1) * config.batches_per_epoch + batch

    def observe(step: training.Step) -> None:
        if step.number == number:
            raise _Arrived(step)

    try:
        sharpness.follow(
            config,
            task,
            name,
            start,
            title=f"{task.name}, {name} trajectory to epoch {epoch}, batch {batch}, "
            f"seed {task.seed}",
            directory=directory
            / "checkpoints"
            / f"anatomy-{task.name}-{name}-{task.seed}-{number}",
            steps=number,
            observe=observe,
            watch=watch,
        )
    except _Arrived as arrived:
        return arrived.step
    raise RuntimeError(f"the trajectory in {directory} never came to step {number}")


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
    if "adam" in config.measured(place[1]):
        yield _Item(explanations.preconditioned, Preconditioned, {})
    yield _Item(explanations.exact_diagonal, ExactCorrelation, {})
    yield _Item(explanations.block_spectra, BlockSummary, {})


def _recorded(directory, place, item) -> bool:
    where = dict(zip(PLACE, place, strict=True)) | item.where
    return any(
        all(getattr(row, k) == v for k, v in where.items())
        for row in records.read(directory, item.table)
    )
