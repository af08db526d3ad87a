"""Each optimizer's sharpness on its own trajectory, measured along its convergence run."""

import dataclasses
from typing import TYPE_CHECKING, Any

import sharpjax
from experiments.data.tasks import Task
from experiments.horizon_rows import Own
from experiments.run.training import Step, Training

if TYPE_CHECKING:
    from experiments.run.study import Study

PER_EPOCH = 2  # Measurements of an epoch, as evenly apart as its batches allow.


def missing(study: "Study", key: tuple, last: int) -> set[int]:
    """The steps up to `last` that are to be measured and are not.

    Args:
      study: Its directory has what is recorded already.
      key: (task, seed, algorithm).
      last: The run's last step; where it diverged, that step has nothing to be measured.
    """
    every = max(1, study.config.batches_per_epoch // PER_EPOCH)
    whole = study.config.epochs * study.config.batches_per_epoch
    wanted = {step for step in range(1, last + 1, every) if step < last or last == whole}
    return wanted - {row.step for row in study.recorded(Own, key)}


def following(what: Training, algorithm: str) -> Training:
    """The same training, each of whose steps shows its update before it is applied."""
    pseudo = sharpjax.pseudo_updates({algorithm: what.transformation})
    return dataclasses.replace(what, transformation=pseudo, select=(algorithm, 1.0))


def measure(task: Task, key: tuple, rate: str, step: Step, test: Any) -> Own:
    """The update of one step at its point.

    Args:
      task: Whose loss it is.
      key: (task, seed, algorithm, step).
      rate: The run's, as the records write it.
      step: Of a training made by `following`.
      test: The test subset, on the study's devices.
    """
    config, algorithm = task.config, key[2]
    stats = step.updates.measure(task.loss_fn, test, method=config.method, chunk=config.chunk)
    return Own.of(key, stats[algorithm], learning_rate=rate, training_loss=step.loss)
