"""Optimizers by name: sharpjax's, optax's and optax.contrib's, clipped or not."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import optax
import optax.contrib

from sharpjax import descent, optimizers, signed
from sharpjax._checks import check_in_range
from sharpjax.clipping import coord_clip

_OURS = (optimizers, signed, descent)
_MODULES = (*_OURS, optax, optax.contrib)
_RATES = ("learning_rate", "max_learning_rate")


class NameParts(NamedTuple):
    """What a name says: `lion_saturate_clip_clip_update:0.1` has all of it."""

    base: str  # The factory's name.
    saturate: bool  # The sign is replaced by saturation.
    clip: bool  # The gradient is clipped.
    clip_update: bool  # The update is clipped.
    fraction: float | None  # Its own fraction of coordinates, instead of `clip_fraction`.


def named(
    name: str,
    learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    clip_fraction: float = 0.05,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer by its name, with all arguments but the rate at their defaults.

    NAME is a factory of sharpjax, optax or optax.contrib, the first that has it, which needs no
    argument but a learning rate. What follows it says what happens to the top `clip_fraction` of
    the coordinates:

    - `NAME_clip` clips the gradient: the numerator only where sharpjax's own factory has `clip=`,
      else everything, by `coord_clip` in front;
    - `NAME_clip_update` clips the update, by `coord_clip` behind; `NAME_clip_clip_update` both;
    - `lion_saturate` and `sign_momentum_saturate` saturate instead of taking the sign;
    - a number after a colon is a fraction of its own: `sgd_clip:0.1`.

    Args:
        name: As above; capitals and modules are not part of it.
        learning_rate: A number or a schedule. None is the optimizer's own default where it has one
            (Prodigy's 1, Adafactor's relative step), else 1: the sharpness along a direction does
            not depend on a global rate.
        clip_fraction: Fraction of the coordinates, in [0, 1], where the name says that something is
            clipped or saturates, and has no fraction of its own.

    Returns:
        The transformation. It takes the extra arguments that a training step has: `value`, `grad`
        and `value_fn` (the loss as a function of the parameters), and hands them on.

    Raises:
        ValueError: No optimizer has this name (with the near ones), the factory needs more than a
            rate, or it or its `init` or `update` refuses what it is given; each has the name.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> tx = sharpjax.named("sgd_clip:0.25", 1.0)
        >>> grads = jnp.array([1.0, -8.0, 2.0, 3.0])
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> [round(float(u), 2) for u in updates]
        [-0.1, 0.3, -0.2, -0.3]
    """
    parts = parse(name)
    fraction = clip_fraction if parts.fraction is None else parts.fraction
    check_in_range("clip_fraction", fraction, 0.0, 1.0)
    module, factory = _find(parts.base)
    rate = _rate(factory)
    if learning_rate is None and rate.default in (rate.empty, None) and not _is_relative(name):
        learning_rate = 1.0
    arguments = {} if learning_rate is None else {rate.name: learning_rate}
    takes = inspect.signature(factory).parameters
    takes_clip = module in _OURS and "clip" in takes
    if "key" in takes:
        arguments["key"] = 0  # optax.noisy_sgd: the same noise every time.
    if parts.saturate:
        arguments["saturate"] = fraction
    if parts.clip and takes_clip:
        arguments["clip"] = fraction
    made = _naming(name, factory)(**arguments)
    before = [coord_clip(fraction)] * (parts.clip and not takes_clip)
    behind = [coord_clip(fraction)] * parts.clip_update
    if before or behind:
        made = optax.chain(*before, made, *behind)
    made = optax.with_extra_args_support(made)
    init, update = _naming(name, made.init), _naming(name, made.update)
    if module is not optax.contrib:
        return optax.GradientTransformationExtraArgs(init, update)

    def contributed(updates, state, params=None, **extra):
        """Some of optax.contrib say `obj_fn` for what the others call `value_fn`."""
        if "value_fn" in extra:
            extra.setdefault("obj_fn", extra["value_fn"])
        return update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, contributed)


def parse(name: str) -> NameParts:
    """What a name says.

    Raises:
        ValueError: `named` makes no optimizer of this name; the near ones are named.
    """
    words, colon, number = name.partition(":")
    rest = words.removesuffix("_clip_update")
    clip_update = rest != words
    before = rest.removesuffix("_clip")
    clip = before != rest
    base = before.removesuffix("_saturate")
    saturate = base != before
    module, factory = _find(base)
    if factory is None:
        near = [n + words.removeprefix(base) + colon + number for n in _near(base)]
        raise ValueError(
            f"{name!r} is no optimizer of sharpjax or optax, "
            + (f"near: {', '.join(near)}" if near else f"known: {', '.join(known()[:8])}, ...")
        )
    takes = inspect.signature(factory).parameters
    if not _rate(factory):
        where = "sharpjax" if module in _OURS else module.__name__
        raise ValueError(
            f"{where}.{base} is no optimizer that needs only a learning rate: "
            f"it takes {', '.join(takes)}"
        )
    if saturate and "saturate" not in takes:
        raise ValueError(f"{name!r}: only lion and sign_momentum saturate, not {base}")
    fraction = None
    if colon:
        if not (saturate or clip or clip_update):
            raise ValueError(f"{name!r} has a fraction but says nothing of clipping: {base}_clip:…")
        try:
            fraction = float(number)
        except ValueError:
            raise ValueError(f"{name!r}: the fraction must be a number, got {number!r}") from None
        check_in_range(f"the fraction of {name!r}", fraction, 0.0, 1.0)
    return NameParts(base, saturate, clip, clip_update, fraction)


def own_rate(name: str) -> float | str | None:
    """The rate of an optimizer when none is given: "relative" for Adafactor's step; None: none."""
    default = _rate(_find(parse(name).base)[1]).default
    if isinstance(default, int | float):
        return float(default)
    return "relative" if _is_relative(name) else None


@functools.cache
def known() -> list[str]:
    """Every NAME that `named` takes, without what may be clipped: sharpjax's own first."""
    found = dict.fromkeys(n for m in _MODULES for n in vars(m))
    return [n for n in found if _rate(_find(n)[1])]


def _is_relative(name: str) -> bool:
    module, factory = _find(parse(name).base)
    return module in _OURS and _rate(factory).default is None


def _near(base: str) -> list[str]:
    """Known names near one that is not: without its module and capitals, or by spelling."""
    plain = base.rpartition(".")[2].lower()
    return [plain] if plain in known() else difflib.get_close_matches(plain, known())


def _find(base: str) -> tuple[Any, Any]:
    """The first module that has a function of this name, and the function."""
    for module in _MODULES:
        found = vars(module).get(base)
        # optax.nadam is a partial of optax.adam.
        of = found.func if isinstance(found, functools.partial) else found
        ours = module not in _OURS or getattr(of, "__module__", None) == module.__name__
        if inspect.isfunction(of) and ours and not base.startswith("_"):
            return module, found
    return None, None


def _rate(factory: Any) -> Any:
    """The rate among a factory's parameters, if that is all that it has to be told, else None."""
    if factory is None or getattr(factory, "__name__", "").startswith("scale_by"):
        return None  # The parts of optimizers are none.
    takes = inspect.signature(factory).parameters
    required = {n for n, p in takes.items() if p.default is p.empty}
    return next((p for n, p in takes.items() if n in _RATES and required <= {n}), None)


def _naming(name: str, function: Callable) -> Callable:
    """The function, with the optimizer's name in whatever it raises."""

    def with_name(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise ValueError(f"{name!r} cannot be used here: {error}") from error

    return with_name
