"""The training loop: jitted steps, checkpoints, resuming to the bit."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from experiments import processes
from experiments.layout import Layout, one_device
from experiments.watch import Interrupted, Watch

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every save.


class Step(NamedTuple):
    """One training step, seen before its update is applied."""

    number: int  # From 1.
    loss: float  # Training loss of the batch at `params`.
    params: Any
    grads: Any
    updates: Any  # What the transformation returned.


def train(
    name: str,
    *,
    directory: Path | None,
    params: Any,
    transformation: optax.GradientTransformation,
    loss_fn: Callable,
    batches: Callable[[int], Iterator[Any]],
    steps: int,
    watch: Watch,
    select: tuple[str, float] | None = None,
    observe: Callable[[Step], bool | None] = lambda step: None,
    flush: Callable[[], None] = lambda: None,
    checkpoint_every: int = 1,
    dropout_key: jax.Array | None = None,
    layout: Layout | None = None,
) -> Any:
    """Trains to step `steps` from the last checkpoint, or from `params`, and returns parameters.

    Args:
      name: What the progress calls it.
      directory: Of its checkpoints; None keeps none.
      params: The starting point; host arrays.
      transformation: Any optax transformation; its updates may be a dict of many (pseudo-updates).
        If it takes extra arguments, it is given `value`, `grad` and `value_fn`, the batch's loss as
        a function of the parameters.
      loss_fn: `loss_fn(params, micro_batch, key)`.
      batches: `batches(start)` yields the batches of steps start + 1, start + 2, …, each a pytree
        of leaves [micro_batches, micro_batch, …].
      steps: The last step.
      watch: Told of every step, and asked whether to stop.
      select: Of many updates, the name and the rate of the one that is applied.
      observe: Called at every step before the update; a true answer ends the training there.
      flush: Called before a checkpoint is made: all that was observed must be recorded by then.
      checkpoint_every: Steps between checkpoints; one is made at the end too.
      dropout_key: Folded with the step; None trains without dropout.
      layout: Where parameters, states and batches lie; None is one device.

    Returns:
      The parameters on the host, whole.

    Raises:
      Interrupted: it was asked to stop; a checkpoint of the last whole step has been made.
    """
    layout = layout or one_device()
    init, update = make_steps(transformation, loss_fn, layout)
    params = layout.place(params)  # Copies: the first step's parameters are donated.
    state = init(params)
    with _checkpoints(directory) as manager:
        start = processes.from_first(lambda: manager.latest_step() or 0) if manager else 0
        if start:
            tree = {"params": params, "state": state}
            like = jax.tree.map(ocp.utils.to_shape_dtype_struct, _storable(tree))
            restored = manager.restore(start, args=ocp.args.StandardRestore(like))
            restored = jax.tree.map(lambda new, x: new if x.size else x, restored, tree)
            params, state = restored["params"], restored["state"]
        if start >= steps:
            return layout.gather(params)
        saved = number = start

        def save(number):
            nonlocal saved
            flush()
            if manager and number > saved:
                tree = {"params": params, "state": state}
                manager.save(number, args=ocp.args.StandardSave(_storable(tree)))
                saved = number

        with watch.stage(name, steps, start) as stage:
            for number, batch in zip(range(start + 1, steps + 1), batches(start), strict=False):
                key = None if dropout_key is None else jax.random.fold_in(dropout_key, number)
                batch = layout.place_batch(batch)
                loss, grads = gradient(loss_fn, params, batch, key, layout)
                updates, state = update(grads, state, params, loss, batch, key)
                loss = float(loss)
                if observe(Step(number, loss, params, grads, updates)):
                    break
                del grads
                params = _apply(params, updates, select, layout)
                stage.step(number, loss)
                if processes.any_of(watch.stopping):
                    save(number)
                    raise Interrupted(f"{name} stopped after step {number} of {steps}")
                if number % checkpoint_every == 0:
                    save(number)
        save(number)
    return layout.gather(params)


def _storable(tree: Any) -> Any:
    """A zero in place of each array of size zero, as GaLore's state has: Orbax refuses those."""
    return jax.tree.map(lambda x: x if x.size else jnp.zeros(1, x.dtype), tree)


@functools.partial(jax.jit, static_argnames=("loss_fn", "layout"))
def gradient(
    loss_fn: Callable, params: Any, batch: Any, key: Any, layout: Layout | None = None
) -> tuple[jax.Array, Any]:
    """Mean loss and gradient over micro-batches, in one micro-batch's memory."""
    keep = layout.constrain if layout else lambda tree: tree
    count = jax.tree.leaves(batch)[0].shape[0]
    value_and_grad = jax.value_and_grad(loss_fn)
    if count == 1:
        loss, grads = value_and_grad(params, jax.tree.map(lambda x: x[0], batch), key)
        return loss, keep(grads)

    def add(total, numbered):
        i, micro_batch = numbered
        own = None if key is None else jax.random.fold_in(key, i)
        loss, grads = value_and_grad(params, micro_batch, own)
        return jax.tree.map(jnp.add, total, (loss, keep(grads))), None

    zero = (jnp.zeros(()), optax.tree.zeros_like(params))
    total, _ = jax.lax.scan(add, zero, (jnp.arange(count), batch))
    return jax.tree.map(lambda x: x / count, total)


@functools.cache  # Trajectories of one task and the same algorithms compile once.
def make_steps(
    transformation: optax.GradientTransformation, loss_fn: Callable, layout: Layout
) -> tuple[Callable, Callable]:
    """Jitted `params` -> state, and `(grads, state, params, loss, batch, key)` -> (updates, state).

    The second donates its state.
    """
    transformation = optax.with_extra_args_support(transformation)
    init = jax.jit(lambda params: layout.constrain(transformation.init(params)))

    @functools.partial(jax.jit, donate_argnums=1)
    def update(grads, state, params, loss, batch, key):
        # An argument that no optimizer reads is not compiled.
        value_fn = lambda p: mean_loss(loss_fn, p, batch, key)  # noqa: E731
        extra = {"value": loss, "grad": grads, "value_fn": value_fn}
        return layout.constrain(transformation.update(grads, state, params, **extra))

    return init, update


def _apply(params: Any, updates: Any, select: tuple[str, float] | None, layout: Layout) -> Any:
    name, rate = select or (None, 1.0)
    return _add(params, updates if name is None else updates[name], rate, layout)


@functools.partial(jax.jit, static_argnames="layout", donate_argnums=0)
def _add(params, update, rate, layout):
    return layout.constrain(optax.apply_updates(params, jax.tree.map(lambda u: rate * u, update)))


def mean_loss(loss_fn: Callable, params: Any, batch: Any, key: Any) -> jax.Array:
    """The loss that `gradient` derives; its own derivatives take one micro-batch's memory."""
    count = jax.tree.leaves(batch)[0].shape[0]

    @jax.checkpoint
    def one(numbered):
        i, micro_batch = numbered
        own = key if key is None or count == 1 else jax.random.fold_in(key, i)
        return loss_fn(params, micro_batch, own)

    return jax.lax.map(one, (jnp.arange(count), batch)).mean()


@contextlib.contextmanager
def _checkpoints(directory: Path | None):
    if directory is None:
        yield None
        return
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    with ocp.CheckpointManager(directory.absolute(), options=options) as manager:
        yield manager
