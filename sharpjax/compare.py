"""Many optimizers on one model: trained, measured at the same points or each where it is."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sharpjax._arguments import join, plain
from sharpjax._checks import check_choice, check_count, check_in_range
from sharpjax._places import on_mesh_of
from sharpjax.monitor import tolerant
from sharpjax.named import named, own_rate
from sharpjax.objective import LossFn, Params, objective, result, static
from sharpjax.point import Point, at_step, measure_point
from sharpjax.pseudo import pseudo_updates

OWN = "own"


@result
class Comparison:
    """What `compare` measured along one trajectory, or along each optimizer's own.

    Shows itself as a table in a notebook and when printed. `sharpjax.plot` draws it, and `report`
    writes one page.
    """

    points: list[Point]
    """In the order in which they were measured; each knows its step and trajectory."""
    losses: dict[str, Any]
    """Trajectory -> [steps] training losses, before each step's update."""
    names: tuple[str, ...] = static()
    """The optimizers, in the order in which they were given."""
    follow: str = static()
    """Whose trajectory it is; "own" if each has its own."""
    interrupted: bool = static()
    """Whether the loop was stopped (Ctrl-C) before its end."""

    def to_pandas(self, table: str = "directions") -> Any:
        """A tidy table of all points, as a pandas DataFrame.

        Args:
            table: "directions" (a row is an update at a point: the fields of `DirectionStats`,
                `ratio` to SGD's |sharpness| where there is an "sgd", step ratio, best and critical
                step, best decrease, top share, clip threshold), "landscape" (a distance and its
                loss), "histogram" (a bin of magnitudes), "cosines" (a pair of updates: cosine,
                curvature and its error, overlap of the top coordinates), "convergence" (a training
                step and its loss), or "precision" (float32 beside float64).

        Raises:
            ValueError: an unknown table.
            ImportError: pandas is not installed (`pip install 'sharpjax[plot]'`).
        """
        from sharpjax.tables import to_pandas

        return to_pandas(self.points, table, self.losses)

    def at_loss(self, level: float) -> Any:
        """Every optimizer's numbers where its test loss is first down at `level`: a DataFrame.

        The fair question to optimizers on trajectories of their own: how do they differ at equal
        progress? Numbers are interpolated linearly in the test loss, between the last measured
        point above the level and the first at or below it. NaN where a loss was never measured on
        both sides.

        Args:
            level: A test loss.

        Returns:
            A row an optimizer: `algorithm`, `step` and the fields of `DirectionStats`.
        """
        from sharpjax.tables import at_loss

        return at_loss(self.points, self.names, level)

    def report(self, path: str | Path) -> Path:
        """Writes one self-contained HTML page with tables and figures; returns its path."""
        from sharpjax.report import write_comparison

        return write_comparison(self, path)

    def save(self, path: str | Path) -> Path:
        """Writes everything as JSON; `Comparison.load` reads it again. Returns the path."""
        from sharpjax.files import save

        return save(self, path)

    @staticmethod
    def load(path: str | Path) -> "Comparison":
        """Reads what `save` wrote."""
        from sharpjax.files import load

        return load(path)

    def __repr__(self) -> str:
        steps = ", ".join(str(point.step) for point in self.points)
        return f"<Comparison of {', '.join(self.names)}, follow={self.follow!r}, steps {steps}>"

    def __str__(self) -> str:
        from sharpjax.tables import to_text

        return to_text(self.points)

    def _repr_html_(self) -> str:
        from sharpjax.tables import to_html

        return to_html(self.points)


def compare(
    loss_fn: LossFn,
    params: Params,
    optimizers: Mapping[str, optax.GradientTransformation] | Sequence[str],
    batches: Iterable[Any],
    test_batches: Any,
    *,
    follow: str,
    steps: int | None = None,
    every: int = 50,
    args: tuple = (),
    has_aux: bool = False,
    next_args: Callable[[Any, tuple], tuple] | None = None,
    learning_rate: float | Mapping[str, float] = 1e-3,
    landscape: bool = True,
    span: bool = True,
    precision: bool = False,
    fraction: float = 0.05,
    method: str = "auto",
    chunk: int | None = None,
    progress: bool = False,
) -> Comparison:
    """Trains, and measures what every optimizer would do (`measure_point`) every few steps.

    With `follow="adam"` that optimizer's updates are applied. All others are fed with the same
    gradients and measured at the same points, as in the paper (`pseudo_updates`). With
    `follow="own"` each optimizer trains parameters of its own, from the same start on the same
    batches, and is measured where it is; `Comparison.at_loss` sets them side by side at equal
    progress.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        params: Pytree of real floating-point arrays: the start. It is not changed.
        optimizers: Name -> transformation, or names that `named` knows, such as "adamw", "muon" or
            "sgd_clip".
        batches: Any iterable of training batches; each is what `loss_fn` takes.
        test_batches: What is measured on: leaves [micro_batches, micro_batch, …], or a list of
            equal batches.
        follow: The name of the optimizer whose updates are applied, or "own".
        steps: Training steps; None takes all batches.
        every: Steps from one measurement to the next. Measured are the steps that it divides,
            before their update; if there are fewer steps, the last one.
        args: Extra arguments of the loss, for training and measurement, such as batch statistics.
        has_aux: The loss returns (scalar, auxiliary).
        next_args: `next_args(auxiliary, args)` -> the arguments of the next step, called outside of
            `jit`: `lambda stats, args: (stats,)` for batch statistics. None keeps them. The
            auxiliary is None without `has_aux`.
        learning_rate: The rate of optimizers that are given by name; a mapping has one for each.
        landscape: As in `measure_point`, like `span`, `precision`, `fraction`, `method`, `chunk`.
        span: As in `measure_point`.
        precision: As in `measure_point`.
        fraction: As in `measure_point`; also what optimizers called `…_clip` clip.
        method: As in `measure_point`.
        chunk: As in `measure_point`.
        progress: Whether a bar is shown (needs rich).

    Returns:
        A `Comparison`. Ctrl-C ends the loop, and what was measured is returned, marked
        `interrupted`. A trajectory whose loss is not finite ends there.

    Raises:
        ValueError: no optimizers, an unknown name, `follow` not among them; every < 1, steps < 1;
            no batch; otherwise as `measure_point`.
        TypeError: as `measure_point`.

    Cost: a step is a gradient and all optimizers' updates ("own": a gradient each); memory holds
    every optimizer's state and, while measuring, every update.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda w, batch: jnp.mean((batch @ w - 1.0) ** 2)
        >>> x = jnp.array([[1.0, 10.0], [2.0, -3.0], [0.5, 4.0]])
        >>> found = sharpjax.compare(
        ...     loss, jnp.zeros(2), ["sgd", "adam"], [x] * 20, x[None], follow="adam", every=10
        ... )
        >>> [point.step for point in found.points], found.points[0].names
        ([10, 20], ('sgd', 'adam'))
    """
    check_in_range("fraction", fraction, 0.0, 1.0)
    optimizers = _optimizers(optimizers, learning_rate, fraction)
    check_choice("follow", follow, (*optimizers, OWN))
    for name, value in (("every", every), ("steps", steps)):
        if value is not None or name == "every":
            check_count(name, value, 1)
    # Its errors come before the first step.
    test_batches = objective(loss_fn, params, test_batches, args=args, has_aux=has_aux).batches
    tracks = (
        [[follow, optimizers]] if follow != OWN else [[n, {n: t}] for n, t in optimizers.items()]
    )
    trajectories = [
        _Trajectory(loss_fn, params, own, name, test_batches, args, has_aux, next_args)
        for name, own in tracks
    ]
    options = {"landscape": landscape, "span": span, "precision": precision, "fraction": fraction}
    options |= {"method": method, "chunk": chunk}
    points, interrupted = [], False
    try:
        for number, batch, last in _numbered(batches, steps, every, progress):
            measured = number % every == 0 or last
            for trajectory in trajectories:
                point = trajectory.step(plain(batch), options if measured else None)
                if point is not None:
                    points.append(at_step(point, number, trajectory.name))
    except KeyboardInterrupt:
        interrupted = True
    losses = {t.name: np.asarray(jax.device_get(t.losses), np.float64) for t in trajectories}
    if not interrupted and not any(map(len, losses.values())):
        raise ValueError(f"batches must hold at least one batch, got {batches!r}")
    return Comparison(points, losses, tuple(optimizers), follow, interrupted)


class _Trajectory:
    """One optimizer's parameters, and the states of all that are fed with its gradients."""

    def __init__(self, loss_fn, params, optimizers, name, test_batches, args, has_aux, next_args):
        self.name, self.losses, self._test_batches = name, [], test_batches
        self._loss_fn, self._has_aux, self._next_args = loss_fn, has_aux, next_args
        self._params, self._args = jax.tree.map(jnp.asarray, params), tuple(args)
        self._names, self._pseudo = tuple(optimizers), pseudo_updates(optimizers)
        state = jax.tree.map(jnp.asarray, self._pseudo.init(self._params))
        self._state = on_mesh_of(self._params, state)
        self._take = jax.jit(self._train, static_argnames=("rest", "keep"))

    def step(self, batch, options: dict[str, Any] | None) -> Point | None:
        """One training step; with options for it, the measurement before its update."""
        # The last step's loss is known by now, this one's would have to be waited for.
        if self.losses and not jnp.isfinite(self.losses[-1]):
            return None
        before, point = self._params, None
        loss = {"args": self._args, "has_aux": self._has_aux}
        bound = objective(self._loss_fn, before, self._test_batches, **loss)
        after, state, value, aux, grads, updates = self._take(
            before, self._state, batch, bound.traced, rest=bound.rest, keep=options is not None
        )
        if options is not None:
            # Compiled calls sort a dict's keys.
            updates = {name: updates[name] for name in self._names}
            point = measure_point(
                self._loss_fn, before, updates, self._test_batches, grads=grads, **loss, **options
            )
        # All of a step or nothing: an interruption leaves whole ones behind.
        self._params, self._state = after, state
        self.losses.append(value)
        if self._next_args is not None:
            self._args = tuple(self._next_args(aux, self._args))
        return point

    def _train(self, params, state, batch, traced, *, rest, keep):
        """The step, its loss and auxiliary; with `keep` also the gradient and all updates."""

        def loss_and_aux(p):
            out = self._loss_fn(p, batch, *join(traced, rest))
            return out if self._has_aux else (out, None)

        (loss, aux), grads = jax.value_and_grad(loss_and_aux, has_aux=True)(params)
        value_fn = lambda p: loss_and_aux(p)[0]  # noqa: E731
        # What an optimizer does not take is not passed on to it.
        extra = tolerant({"value": loss, "grad": grads, "value_fn": value_fn, "obj_fn": value_fn})
        updates: Any
        updates, state = self._pseudo.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates[self.name])
        return params, state, loss, aux, *((grads, updates) if keep else (None, None))


def _optimizers(optimizers, learning_rate, fraction) -> dict[str, optax.GradientTransformation]:
    if isinstance(optimizers, Mapping):
        made = dict(optimizers)
    elif isinstance(optimizers, str) or not isinstance(optimizers, Sequence):
        raise TypeError(f"optimizers must be a mapping or a list of names, got {optimizers!r}")
    elif wrong := [one for one in optimizers if not isinstance(one, str)]:
        raise TypeError(
            f"a list of optimizers must hold names, got {wrong[0]!r}; "
            "transformations need names: {'mine': optax.adam(1e-3)}"
        )
    else:
        made = {}
        for name in optimizers:
            if isinstance(learning_rate, Mapping) and name not in learning_rate:
                raise ValueError(f"learning_rate has no rate for {name!r}")
            rate = learning_rate[name] if isinstance(learning_rate, Mapping) else learning_rate
            if rate is None and own_rate(name) is None:
                raise ValueError(f"learning_rate must be a number for {name!r}, got None")
            made[name] = named(name, rate, clip_fraction=fraction)
    if not made:
        raise ValueError(f"optimizers must name at least one optimizer, got {optimizers!r}")
    return made


def _numbered(batches, steps, every, progress) -> Iterable[tuple[int, Any, bool]]:
    """`_until_last` of at most `steps` batches, with a bar on request."""
    numbered = _until_last(itertools.islice(batches, steps), every)
    if not progress:
        return numbered
    try:
        from rich.progress import track
    except ImportError as error:
        raise ImportError("progress=True needs rich: pip install rich") from error
    total = steps if steps is not None else len(batches) if hasattr(batches, "__len__") else None
    return track(numbered, description="comparing", total=total)


def _until_last(batches: Iterator[Any], every: int) -> Iterator[tuple[int, Any, bool]]:
    """Each batch with its number from 1, and whether it is the last before step `every`."""
    ended = object()
    number, batch = 1, next(batches, ended)
    while batch is not ended:
        if number < every:  # To be known as the last, a batch waits for the next one to be read.
            following = next(batches, ended)
            yield number, batch, following is ended
        else:
            yield number, batch, False
            following = next(batches, ended)
        number, batch = number + 1, following
