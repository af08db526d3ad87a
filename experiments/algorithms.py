"""Algorithms by name: the paper's seven, and any optimizer that a learning rate is enough to make.

NAME is a factory of sharpjax, optax or optax.contrib, the first that has it; its other arguments
keep their defaults. NAME_clip clips the gradient: the numerator only, where sharpjax's own factory
does that, else by `coord_clip` in front. NAME_clip_update clips the update, by `coord_clip` behind;
NAME_clip_clip_update does both.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import optax
import optax.contrib

import sharpjax
from experiments import paper

RELATIVE = "relative"  # Adafactor's own step: no rate to choose.
_MODULES = (sharpjax, optax, optax.contrib)
_RATES = ("learning_rate", "max_learning_rate")
_WORDS = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "lamb": "LAMB",
    "lars": "LARS",
    "lbfgs": "L-BFGS",
}


class AlgorithmError(ValueError):
    """A name that makes no optimizer here. One line: which, and why."""


def check(name: str) -> None:
    """Raises AlgorithmError, with the near names, unless `build` knows the name."""
    base = family(name)
    module, factory = _find(base)
    if _rate(factory):
        return
    if factory:
        raise AlgorithmError(
            f"algorithms: {module.__name__}.{base} is no optimizer that a learning rate is enough "
            f"to make: it takes {', '.join(inspect.signature(factory).parameters)}"
        )
    known = sorted({n for m in _MODULES for n in vars(m) if _rate(_find(n)[1])})
    near = [n + name.removeprefix(base) for n in difflib.get_close_matches(base, known)]
    raise AlgorithmError(
        f"algorithms: {name!r} is no optimizer of sharpjax or optax, "
        + (f"near: {', '.join(near)}" if near else f"the paper's: {', '.join(paper.ALGORITHMS)}")
    )


def build(
    name: str, clip_fraction: float, rate: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """The algorithm of a name.

    Args:
      name: One that `check` knows.
      clip_fraction: Of the coordinates, where the name says that something is clipped.
      rate: As the records write it; None is the algorithm's own, or 1 if it has none: a direction's
        sharpness does not depend on a global rate.

    Returns:
      The transformation. Its extra arguments are those that a training step has: `value`, `grad`
      and `value_fn`, the loss of the batch as a function of the parameters.

    Raises:
      AlgorithmError: optax refuses to make it, or later its `init` or `update` cannot work with the
        parameters and arguments of a training step; the line has the name.
    """
    clips_gradient, clips_update = clipped(name)
    module, factory = _find(family(name))
    rate = rate or own_rate(name) or "1"
    arguments = {} if rate == RELATIVE else {_rate(factory).name: float(rate)}
    clip = sharpjax.coord_clip(clip_fraction)
    in_front = clips_gradient and module is not sharpjax
    if clips_gradient and not in_front:
        arguments["clip"] = clip_fraction
    made = _naming(name, factory)(**arguments)
    if in_front or clips_update:
        made = optax.chain(*[clip] * in_front, made, *[clip] * clips_update)
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


@functools.cache  # So that trajectories share what is compiled for it.
def pseudo_updates(
    names: tuple[str, ...], clip_fraction: float
) -> optax.GradientTransformationExtraArgs:
    """`sharpjax.pseudo_updates` of the algorithms of these names, at their own rates or 1."""
    return sharpjax.pseudo_updates({name: build(name, clip_fraction) for name in names})


def own_rate(name: str) -> str | None:
    """The rate that an algorithm has by itself, as the records write it; None if it has none."""
    module, factory = _find(family(name))
    default = _rate(factory).default
    if isinstance(default, int | float):
        return repr(float(default))
    return RELATIVE if default is None and module is sharpjax else None


def family(name: str) -> str:
    """The name without what is clipped."""
    return name.removesuffix("_clip_update").removesuffix("_clip")


def clipped(name: str) -> tuple[bool, bool]:
    """Whether an algorithm's gradient is clipped, and whether its update is."""
    before = name.removesuffix("_clip_update")
    return before != family(name), before != name


def in_order(names: Iterable[str]) -> list[str]:
    """Each name once: the paper's in its order, then the others in theirs."""
    names = list(names)
    return [n for n in dict.fromkeys([*paper.ALGORITHMS, *names]) if n in names]


def label(name: str) -> str:
    """A name as tables and legends print it."""
    base = family(name)
    words = " ".join(_WORDS.get(word, word) for word in base.split("_"))
    said = paper.ALGORITHMS.get(base, words[:1].upper() + words[1:])
    gradient, update = clipped(name)
    if update:
        return f"{said}, {'gradient and ' * gradient}update clipped"
    return said + ", clipped" * gradient


def _find(base: str) -> tuple[Any, Callable | None]:
    """The first module that has a function of this name, and the function."""
    for module in _MODULES:
        found = vars(module).get(base)
        if inspect.isfunction(found) and not base.startswith("_"):
            return module, found
    return None, None


def _rate(factory: Callable | None) -> inspect.Parameter | None:
    """The rate among a factory's parameters, if that is all that it has to be told."""
    if factory is None or factory.__name__.startswith("scale_by"):  # Parts of an optimizer.
        return None
    takes = inspect.signature(factory).parameters
    required = {n for n, p in takes.items() if p.default is p.empty}
    rates = [p for n, p in takes.items() if n in _RATES and required <= {n}]
    return rates[0] if rates else None


def _naming(name: str, function: Callable) -> Callable:
    """The function, with the algorithm's name in whatever it raises."""

    def named(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise AlgorithmError(f"algorithms: {name!r} cannot be used here: {error}") from error

    return named
