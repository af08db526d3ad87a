"""A hook for one's own training loop: sharpness every n steps, and where to write it."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from sharpjax._legacy import check_batches
from sharpjax.directions import DirectionStats, measure_directions
from sharpjax.pseudo import pseudo_updates

Stats = dict[str, DirectionStats]
Logger = Callable[[int, Stats], Any]


class SharpnessMonitor(NamedTuple):
    """Two pure functions, made by `sharpness_monitor`.

    * `init(params)` -> state, the optimizers' states.
    * `update(step, grads, state, params, **extra_args)` -> (state, stats), where stats is
      {name: `DirectionStats`} at the steps that are measured and None at the others. `params` are
      those that `grads` were taken at, before the loop's own update; `step` is an integer of
      Python's; extra arguments, pytrees of arrays (a loss `value`, say), reach the optimizers
      that take them.
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Stats | None]]


def sharpness_monitor(
    loss_fn: Callable,
    algorithms: Mapping[str, optax.GradientTransformation],
    batches: Any,
    *,
    every: int = 100,
    log: Logger | None = None,
    method: str = "reverse",
    chunk: int | None = None,
    key: jax.Array | None = None,
) -> SharpnessMonitor:
    """Measures, along one's own trajectory, the directions that many optimizers would take.

    Every step's gradients feed the optimizers (`pseudo_updates`: each keeps its momentum; nothing
    is applied), and every `every`-th step, those that it divides, the slope and sharpness of their
    updates are measured on `batches` (`measure_directions`).

        monitor = sharpness_monitor(loss_fn, paper_algorithms(), test_batches, every=100, log=log)
        seen = monitor.init(params)
        for step, batch in enumerate(training_batches, start=1):
            grads = grad_fn(params, batch)
            seen, stats = monitor.update(step, grads, seen, params)  # stats: None, or the table
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)

    Args:
      loss_fn: `loss_fn(params, batch)` -> real scalar; `loss_fn(params, batch, key)` with `key`.
      algorithms: Name -> transformation.
      batches: Pytree whose leaves have two leading axes [micro_batches, micro_batch, …]: the fixed
        examples that all measurements share.
      every: Steps from one measurement to the next.
      log: Called as `log(step, stats)` at each measurement: `tensorboard_logger(writer)`,
        `wandb_logger(run)`, or one's own.
      method: "reverse" or "forward", as in `measure_directions`; so are the other two.
      chunk: How many directions are evaluated together.
      key: A dropout key for all measurements; None measures without.

    Returns:
      A `SharpnessMonitor`, whose `update` belongs outside of `jax.jit` (it compiles what it does).

    Raises:
      ValueError: every < 1; no algorithms; empty `batches`, or leaves that disagree on the number
        of micro-batches.
      TypeError: `every` is no integer; an entry of `algorithms` is no gradient transformation.

    Cost: each step, the optimizers' time and memory; each measurement, that of
    `measure_directions`, for K algorithms K + 1 tangents of the gradient on all of `batches`.
    """
    if isinstance(every, bool) or not isinstance(every, int):
        raise TypeError(f"every must be a positive integer, got {every!r}")
    if every < 1:
        raise ValueError(f"every must be a positive integer, got {every!r}")
    check_batches(batches)
    pseudo = pseudo_updates(algorithms)
    names = tuple(algorithms)

    @jax.jit
    def advance(grads, state, params, extra_args):
        # The updates are not returned, so that what only they need is not computed.
        return pseudo.update(grads, state, params, **extra_args)[1]

    @jax.jit
    def propose(grads, state, params, extra_args):
        return pseudo.update(grads, state, params, **extra_args)

    def update(step, grads, state, params, **extra_args):
        if step % every:
            return advance(grads, state, params, extra_args), None
        updates, state = propose(grads, state, params, extra_args)
        updates = {name: updates[name] for name in names}  # Compiled calls sort them.
        stats = measure_directions(loss_fn, params, updates, batches, method=method, chunk=chunk)
        if log is not None:
            log(step, stats)
        return state, stats

    return SharpnessMonitor(pseudo.init, update)


def scalars(stats: Mapping[str, DirectionStats]) -> dict[str, float]:
    """Tag -> number, for loggers: `sharpness/adam`, `slope/adam`, …, and `measured_loss`.

    One tag for each field of `DirectionStats` and algorithm; the loss is the same for all. What is
    not finite (a Newton step where the direction is concave, an error bar of one micro-batch) is
    left out, so that a plot has a gap there. The call waits for the measurement.
    """
    table: Mapping[str, DirectionStats] = jax.device_get(dict(stats))
    tags = {"measured_loss": float(next(iter(table.values())).loss)}
    for field in DirectionStats.__dataclass_fields__:
        if field != "loss":
            tags |= {f"{field}/{name}": float(getattr(one, field)) for name, one in table.items()}
    return {tag: value for tag, value in tags.items() if math.isfinite(value)}


def tensorboard_logger(writer: Any) -> Logger:
    """A `log` that writes `scalars` with a TensorBoard `SummaryWriter`.

    PyTorch's, tensorboardX's, or any object with `add_scalar(tag, value, step)`, as its caller made
    it: nothing is flushed or closed here.
    """

    def log(step: int, stats: Stats) -> None:
        for tag, value in scalars(stats).items():
            writer.add_scalar(tag, value, step)

    return log


def wandb_logger(run: Any) -> Logger:
    """A `log` that writes `scalars` with a Weights & Biases run, `wandb.init(…)`.

    Or any object with `log(mapping, step=…)`. Its steps must not decrease: log the loop's own
    metrics of a step with the same or a later one.
    """

    def log(step: int, stats: Stats) -> None:
        run.log(scalars(stats), step=step)

    return log
