"""The training loop: jitted steps, checkpoints, resuming to the bit."""

import contextlib
import dataclasses
import functools
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

import sharpjax
from experiments.errors import DamagedError
from experiments.run import processes
from experiments.run.devices import Layout, one_device
from experiments.run.progress import Interrupted, Watch
from sharpjax._places import on_mesh_of
from sharpjax.pseudo import PseudoUpdates

# Orbax tells of every save, and of a failure on many lines; `_told` says it on one.
logging.getLogger("absl").setLevel(logging.CRITICAL)


# Training takes this many times as long as the checkpoints between its steps, at least: of a small
# model with the states of many optimizers, a checkpoint takes longer than ten steps.
_BETWEEN_SAVES = 20

# Updates of all optimizers together, up to which they are made at once: it compiles far less.
HELD_BYTES = 2**29


class Updates(Mapping):
    """What each of many optimizers would do at a step, by name; valid until the step is taken.

    Each is made when it is asked for and held by nobody else: seven updates of 60 million
    parameters are 1.7 GB.
    """

    def __init__(self, programs: "Programs", grads: Any, context: dict[str, Any], params: Any):
        self._programs, self._grads, self._params = programs, grads, params
        self._context, self._names = context, programs.bound.names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._programs.bound.update_one(name, self._grads, self._context, self._params)

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)

    def state(self, name: str) -> Any:
        """An optimizer's state once it has seen this step's gradient: what made its update."""
        if name not in self._names:
            raise KeyError(name)
        return self._programs.state(self._grads, self._context, self._params, name)

    def measure(self, loss_fn: Callable, batches: Any, **options: Any) -> dict[str, Any]:
        """`sharpjax.measure_updates` of all of them."""
        return sharpjax.measure_updates(
            loss_fn,
            self._params,
            self._programs.bound,
            self._grads,
            self._context,
            batches,
            **options,
        )


class HeldUpdates(dict):
    """The same where all of them are small: made together, in one program."""

    def __init__(self, updates: dict[str, Any], states: dict[str, Any], params: Any):
        super().__init__(updates)
        self._states, self._params = states, params

    def state(self, name: str) -> Any:
        """As that of `Updates`."""
        return self._states[name]

    def measure(self, loss_fn: Callable, batches: Any, **options: Any) -> dict[str, Any]:
        """`sharpjax.measure_directions` of all of them."""
        return sharpjax.measure_directions(loss_fn, self._params, self, batches, **options)


class Step(NamedTuple):
    """One training step, seen before its update is applied."""

    number: int  # From 1.
    loss: float  # Training loss of the batch at `params`.
    params: Any
    grads: Any
    updates: Any  # Of many optimizers, `HeldUpdates` or `Updates`; of one, nothing.


@dataclasses.dataclass(frozen=True)
class Training:
    """What is trained: by which optimizer, on which batches, how long."""

    name: str  # What the progress calls it.
    # Its updates may be a dict of many (pseudo-updates). If it takes extra arguments, it is given
    # `value`, `grad` and `value_fn`, the batch's loss as a function of the parameters.
    transformation: optax.GradientTransformation
    loss_fn: Callable  # loss_fn(params, micro_batch, key).
    # batches(start) yields the batches of steps start + 1, start + 2, …, each a pytree of leaves
    # [micro_batches, micro_batch, …].
    batches: Callable[[int], Iterator[Any]]
    steps: int  # The last step.
    select: tuple[str, float] | None = None  # Of many updates, the applied one's name and rate.
    dropout_key: jax.Array | None = None  # Folded with the step; None trains without dropout.
    # What the steps do that do more than train, by their numbers; for the time left.
    kinds: Mapping[int, str] | None = None


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Where they lie, and how many steps at least there are between two."""

    directory: Path
    every: int = 1


def train(
    what: Training,
    params: Any,
    watch: Watch,
    *,
    checkpoints: Checkpoints | None = None,
    observe: Callable[[Step], bool | None] = lambda step: None,
    flush: Callable[[], None] = lambda: None,
    layout: Layout | None = None,
) -> Any:
    """Trains to the last step from the last checkpoint, or from `params`, and returns parameters.

    Args:
      what: The optimizer, the loss and the batches.
      params: The starting point; host arrays.
      watch: Told of every step, and asked whether to stop.
      checkpoints: One is made at the end too; None keeps none.
      observe: Called at every step before the update; a true answer ends the training there.
      flush: Called before a checkpoint is made: all that was observed must be recorded by then.
      layout: Where parameters, states and batches lie; None is one device.

    Returns:
      The parameters on the host, whole.

    Raises:
      Interrupted: it was asked to stop; a checkpoint of the last whole step has been made.
      DamagedError: a checkpoint that cannot be written or read; it is named with what to do.
    """
    layout = layout or one_device()
    name, steps, select, loss_fn = what.name, what.steps, what.select, what.loss_fn
    programs = make_programs(what.transformation, loss_fn, layout)
    lazy = select is not None and not are_held(programs.bound, params)
    chosen, rate = select or (None, 1.0)
    params = layout.place(params)  # Copies: the first step's parameters are donated.
    state = programs.init(params)
    with _manager(checkpoints) as manager:
        start = processes.from_first(lambda: manager.latest_step() or 0) if manager else 0
        if start:
            tree = {"params": params, "state": state}
            like = jax.tree.map(ocp.utils.to_shape_dtype_struct, _storable(tree))
            with _told(checkpoints.directory, start, _UNREADABLE):
                restored = manager.restore(start, args=ocp.args.StandardRestore(like))
            restored = jax.tree.map(lambda new, x: new if x.size else x, restored, tree)
            params, state = restored["params"], restored["state"]
        if start >= steps:
            return layout.gather(params)
        saved = number = start
        due = 0.0

        def save(number):
            nonlocal saved, due
            flush()
            if manager and number > saved:
                tree, began = {"params": params, "state": state}, time.monotonic()
                with _told(checkpoints.directory, number, _UNWRITTEN):
                    manager.save(number, args=ocp.args.StandardSave(_storable(tree)))
                saved, ended = number, time.monotonic()
                due = ended + _BETWEEN_SAVES * (ended - began)

        with watch.stage(name, steps, start, what.kinds) as stage:
            for number, batch in zip(
                range(start + 1, steps + 1), what.batches(start), strict=False
            ):
                key = what.dropout_key
                key = None if key is None else jax.random.fold_in(key, number)
                batch = layout.place_batch(batch)
                loss, grads = gradient(loss_fn, params, batch, key, layout)
                about = {"value": loss, "batch": batch, "key": key}
                made = seen = None
                if lazy:
                    seen = Updates(programs, grads, about | {"state": state}, params)
                else:
                    made, state = programs.update(state, params, grads, about)
                    seen = HeldUpdates(made, state, params) if select else None
                stop = observe(Step(number, float(loss), params, grads, seen))
                del seen
                if stop:
                    break
                if lazy:
                    params, state = programs.advance(state, params, grads, about, select)
                else:
                    params = _add(params, made[chosen] if select else made, rate, layout)
                del grads, made
                stage.step(number, float(loss))
                if processes.any_of(watch.stopping):
                    save(number)
                    raise Interrupted(f"{name} stopped after step {number} of {steps}")
                may = checkpoints is not None and number % checkpoints.every == 0
                if may and processes.from_first(lambda: time.monotonic() >= due):
                    save(number)
        save(number)
    return layout.gather(params)


def paths(tree: Any) -> list[str]:
    """The path of every leaf, as the records have it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


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


class Programs(NamedTuple):
    """The compiled parts of a training step, beside its gradient."""

    # Of many; its state is the context of a step, and its `update_one` is compiled.
    bound: PseudoUpdates | None
    init: Callable  # params -> state.
    update: Callable  # (state, params, grads, about) -> (updates, state); donates the state.
    advance: Callable  # The same and `select` -> (params, state); donates both.
    state: Callable  # (grads, context, params, name) -> one optimizer's state after its update.


@functools.cache  # Trajectories of one task and the same algorithms compile once.
def make_programs(
    transformation: optax.GradientTransformation,
    loss_fn: Callable,
    layout: Layout,
) -> Programs:
    """The programs of a transformation, of one optimizer or of many."""
    many = isinstance(transformation, PseudoUpdates)
    transformation = transformation if many else optax.with_extra_args_support(transformation)

    def arguments(grads, context):
        # One that no optimizer reads is not compiled.
        value_fn = lambda p: mean_loss(loss_fn, p, context["batch"], context["key"])  # noqa: E731
        return {"value": context["value"], "grad": grads, "value_fn": value_fn}

    def updates_and_state(grads, context, params):
        extra = arguments(grads, context)
        return transformation.update(grads, context["state"], params, **extra)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, params, grads, about):
        return layout.constrain(updates_and_state(grads, about | {"state": state}, params))

    @functools.partial(jax.jit, donate_argnums=(0, 1), static_argnums=4)
    def advance(state, params, grads, about, select):
        updates, state = updates_and_state(grads, about | {"state": state}, params)
        name, rate = select
        scaled = jax.tree.map(lambda u: rate * u, updates[name])
        return layout.constrain((optax.apply_updates(params, scaled), state))

    @functools.partial(jax.jit, static_argnums=0)
    def one(name, grads, context, params):
        extra = arguments(grads, context)
        return layout.constrain(
            transformation.update_one(name, grads, context["state"], params, **extra)
        )

    bound = None
    if many:
        bound = PseudoUpdates.make(
            transformation.init, updates_and_state, one, transformation.names
        )
    first = jax.jit(lambda params: layout.constrain(transformation.init(params)))
    init = lambda params: on_mesh_of(params, first(params))  # noqa: E731

    @functools.partial(jax.jit, static_argnames="name")
    def state(grads, context, params, name):
        return layout.constrain(updates_and_state(grads, context, params)[1][name])

    return Programs(bound, init, update, advance, state)


def are_held(pseudo: PseudoUpdates, params: Any) -> bool:
    """Whether the updates of all optimizers together are small enough to be held."""
    each = sum(np.size(x) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(params))
    return len(pseudo.names) * each <= HELD_BYTES


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


_UNREADABLE = (
    "cannot be read ({}): put a whole copy of it back, or delete it, and the same command makes "
    "it anew and keeps all records"
)
_UNWRITTEN = (
    "could not be written ({}): make room there or make it writable, and the same command "
    "continues from the checkpoint before; all records are kept"
)


@contextlib.contextmanager
def _told(directory: Path, step: int, words: str) -> Iterator[None]:
    """Whatever a checkpoint fails with, as one line; Orbax's errors have no common base."""
    try:
        yield
    except Exception as error:
        line = " ".join(str(error).split()) or type(error).__name__
        # TensorStore tells its whole way down, and the system's reason last.
        reason = re.sub(r" \[(?:tensorstore_spec|os_error_code|source locations)=.*", "", line)
        reason = reason.rpartition('": ')[2].strip() or line
        place = directory / str(step)
        raise DamagedError(f"the checkpoint {place} {words.format(reason[:200])}") from error


def latest_step(directory: Path) -> int:
    """The step of the newest checkpoint in a directory; 0 without one."""
    if not directory.is_dir():
        return 0
    return max((int(p.name) for p in directory.iterdir() if p.name.isdecimal()), default=0)


@contextlib.contextmanager
def _manager(checkpoints: Checkpoints | None):
    if checkpoints is None:
        yield None
        return
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    directory = checkpoints.directory.absolute()
    with ocp.CheckpointManager(directory, options=options) as manager:
        yield manager
