"""A hook for one's own training loop: sharpness every n steps, and where to write it."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from sharpjax._arguments import as_batches, join, split
from sharpjax._checks import check_choice
from sharpjax._sharing import compiled_once, init_once
from sharpjax.directions import DirectionStats, measure_directions
from sharpjax.objective import LossFn
from sharpjax.pseudo import pseudo_updates
from sharpjax.taylor import METHODS

Stats = dict[str, DirectionStats]
Logger = Callable[[int, Stats], Any]


class SharpnessMonitor(NamedTuple):
    """Two functions, made by `sharpness_monitor`, for use outside of `jax.jit`."""

    init: Callable[[Any], Any]
    """`init(params)` -> state, {name: the optimizer's state}; equal leaves are one array."""
    update: Callable[..., tuple[Any, Stats | None]]
    """`update(step, grads, state, params, args=None, **extra_args)` -> (state, stats).

    stats is {name: `DirectionStats`} at the steps that are measured and None at the others.
    `params` are those that `grads` were taken at, before the loop's own update; `step` is an
    integer of Python's. `args` take the place of the monitor's own. The extra arguments reach the
    optimizers that take them, as in `compiled_updates`.
    """


def sharpness_monitor(
    loss_fn: LossFn,
    algorithms: Mapping[str, optax.GradientTransformation],
    batches: Any,
    *,
    every: int = 100,
    log: Logger | None = None,
    method: str = "auto",
    chunk: int | None = None,
    args: tuple = (),
    has_aux: bool = False,
    donate: bool = False,
) -> SharpnessMonitor:
    """Measures, along one's own trajectory, the directions that many optimizers would take.

    Every step's gradients feed the optimizers (`pseudo_updates`: each keeps its momentum; nothing
    is applied), and every `every`-th step, those that it divides, the slope and sharpness of their
    updates are measured on `batches` (`measure_directions`)::

        monitor = sharpness_monitor(loss_fn, paper_algorithms(), test_batches, every=100, log=log)
        seen = monitor.init(params)
        for step, batch in enumerate(training_batches, start=1):
            grads = grad_fn(params, batch)
            seen, stats = monitor.update(step, grads, seen, params)  # stats: None, or the table
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)

    Statistics of BatchNorm, which change every step, are arguments of the loss:
    `monitor.update(step, grads, seen, params, args=(batch_stats,))` compiles nothing after the
    first time. L-BFGS, line searches and others want functions as well:
    `value_fn=functools.partial(train_loss, batch=batch)`; see `compiled_updates`.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        algorithms: Name -> transformation.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches: the
            fixed examples that all measurements share.
        every: Steps from one measurement to the next.
        log: Called as `log(step, stats)` at each measurement: `tensorboard_logger(writer)`,
            `wandb_logger(run)`, or one's own.
        method: As in `measure_directions`; so are the other three.
        chunk: How many directions are evaluated together.
        args: Extra arguments of the loss for all measurements that are given no others.
        has_aux: The loss returns (scalar, anything); only the scalar counts.
        donate: Whether `update` takes over the state that it is given, as `jax.jit` does with
            `donate_argnums`: no memory is needed for a second one, and none has to be made ready
            at each step. The state that went in is gone then.

    Returns:
        A `SharpnessMonitor`, whose `update` belongs outside of `jax.jit` (it compiles what it
        does).

    Raises:
        ValueError: every < 1; no algorithms; an unknown method; empty or ragged `batches`.
        TypeError: `every` is not an integer; an entry of `algorithms` is not a transformation.

    Cost: each step, the optimizers' time and memory, where what is equal in several of their
    states is held and computed once (`compiled_updates`); each measurement, that of
    `measure_directions` on all of `batches`, and memory for the updates.

    Example:
        >>> import jax, jax.numpy as jnp, optax, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**2) / 2
        >>> x, optimizers = jnp.ones(2), {"sgd": optax.sgd(0.1), "adam": optax.adam(0.1)}
        >>> monitor = sharpjax.sharpness_monitor(loss, optimizers, jnp.ones((1, 1)), every=2)
        >>> seen = monitor.init(x)
        >>> for step in (1, 2):
        ...     seen, stats = monitor.update(step, jax.grad(loss)(x, jnp.ones(1)), seen, x)
        >>> {name: round(float(s.sharpness), 3) for name, s in stats.items()}
        {'sgd': 1.0, 'adam': 1.0}
    """
    if isinstance(every, bool) or not isinstance(every, int):
        raise TypeError(f"every must be a positive integer, got {every!r}")
    if every < 1:
        raise ValueError(f"every must be a positive integer, got {every!r}")
    check_choice("method", method, METHODS)
    as_batches(batches)
    own_args = args
    followed = compiled_updates(algorithms, donate=donate)

    def update(step, grads, state, params, args=None, **extra_args):
        if step % every:
            return followed.advance(grads, state, params, **extra_args), None
        updates, state = followed.propose(grads, state, params, **extra_args)
        stats = measure_directions(
            loss_fn,
            params,
            updates,
            batches,
            args=own_args if args is None else args,
            has_aux=has_aux,
            method=method,
            chunk=chunk,
        )
        if log is not None:
            log(step, stats)
        return state, stats

    return SharpnessMonitor(followed.init, update)


class CompiledUpdates(NamedTuple):
    """`pseudo_updates` in three compiled functions, made by `compiled_updates`."""

    init: Callable[[Any], Any]
    """`init(params)` -> state, for use outside of `jax.jit`, which copies what is one array."""
    advance: Callable[..., Any]
    """`advance(grads, state, params, **extra_args)` -> state; what only updates need is left."""
    propose: Callable[..., tuple[dict[str, Any], Any]]
    """`propose(grads, state, params, **extra_args)` -> ({name: update}, state)."""


def compiled_updates(
    algorithms: Mapping[str, optax.GradientTransformation], *, donate: bool = False
) -> CompiledUpdates:
    """`pseudo_updates` of these algorithms, compiled, whatever extra arguments they want.

    Arrays and numbers among the extra arguments are traced, and all else is static: a function
    (`value_fn` of L-BFGS and line searches, `obj_fn` of sophia) that is the same object at each
    step compiles once. A new lambda compiles anew at each step, since what it captures may have
    changed; `functools.partial` or `jax.tree_util.Partial` of one function does not: their
    arguments, such as the batch, are traced too. Of what was compiled the last few are kept.

    States are those of `pseudo_updates`, {name: state}, except that leaves which stay equal from
    `init` on are one array: of the paper's seven algorithms three keep one momentum, and two the
    clipped one, so that three trees like the parameters are held instead of six. The programs of
    `init` and of the steps say which, whatever the optimizers are. A state that was changed, or
    loaded, holds each leaf that is an array of its own. With `donate` a state that was given to
    `advance` or `propose` is gone, and its memory is the new one's.

    Raises:
        ValueError: no algorithm is given.
        TypeError: an entry is not a gradient transformation.
    """
    pseudo = pseudo_updates(algorithms)
    names = tuple(algorithms)

    @functools.lru_cache(maxsize=8)
    def compiled(rest):
        def propose(state, grads, params, traced):
            return pseudo.update(grads, state, params, **tolerant(join(traced, rest)))

        # The updates are not returned, so that what only they need is not computed.
        advance = lambda *operands: (None, propose(*operands)[1])  # noqa: E731
        return compiled_once(propose, advance, donate=donate)

    def call(which, grads, state, params, extra_args):
        traced, rest = split(jax.tree.map(_opened, extra_args), numbers_static=False)
        return compiled(rest)[which](state, grads, params, traced)

    def propose(grads, state, params, **extra_args):
        updates, state = call(0, grads, state, params, extra_args)
        return {name: updates[name] for name in names}, state  # Compiled calls sort them.

    def advance(grads, state, params, **extra_args):
        return call(1, grads, state, params, extra_args)[1]

    return CompiledUpdates(functools.partial(init_once, pseudo.init), advance, propose)


def tolerant(extra_args: dict[str, Any]) -> dict[str, Any]:
    """A `value_fn` that takes, and leaves aside, what is meant for other optimizers.

    Line searches refuse to run with arguments that `value_fn` does not name.
    """
    if "value_fn" not in extra_args:
        return extra_args
    value_fn = extra_args["value_fn"]
    signature = inspect.signature(value_fn)
    others = extra_args.keys() - signature.parameters.keys()

    def tolerant(*args, **kwargs):
        return value_fn(*args, **{k: v for k, v in kwargs.items() if k not in others})

    named = [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY) for k in sorted(others)]
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    tolerant.__signature__ = inspect.Signature(  # pyright: ignore[reportAttributeAccessIssue]
        sorted([*own, *named], key=lambda p: p.kind)
    )
    return extra_args | {"value_fn": tolerant}


def _opened(x: Any) -> Any:
    """A partial function as a pytree of its arguments."""
    if type(x) is not functools.partial:
        return x
    return jax.tree_util.Partial(x.func, *x.args, **x.keywords)


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
