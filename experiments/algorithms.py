"""Algorithms as the command line and the records name them: those of `sharpjax.named`."""

import functools
from collections.abc import Iterable

import optax

import sharpjax
from experiments import paper
from sharpjax import named as _by_name
from sharpjax.named import own_rate as _own_rate
from sharpjax.named import parse

RELATIVE = "relative"  # Adafactor's own step: no rate to choose.

ATLAS = (  # What is set side by side beyond the paper's seven: families one after the other.
    *("gradient_descent", "sgd", "sgd_clip", "nesterov"),
    *("normalized_sgd", "normalized_sgd_clip", "sign_sgd", "sign_momentum"),
    *("adam", "adamw", "nadam", "radam", "amsgrad", "adabelief", "yogi", "adan", "ademamix"),
    *("rmsprop", "adagrad", "adafactor", "adafactor_clip"),
    *("lion", "lion_clip", "lion_clip_update", "lion_saturate"),
    *("sophia", "muon", "lamb", "lars", "prodigy", "schedule_free_sgd", "schedule_free_adamw"),
)

OWN = (  # Those of them that train too, each at the rate that is best for it.
    *("sgd", "sgd_clip", "normalized_sgd", "sign_momentum", "adam", "adafactor"),
    *("lion", "sophia", "muon", "schedule_free_adamw"),
)

BESIDE = (  # What a small study looks at beside the paper's seven.
    *("nesterov", "sign_momentum", "adabelief", "lion", "muon", "lamb"),
)


class AlgorithmError(ValueError):
    """A name that makes no optimizer here. One line: which, and why."""


def check(name: str) -> None:
    """Raises AlgorithmError, with the near names, unless `build` knows the name."""
    _naming(parse)(name)


def build(
    name: str, clip_fraction: float, rate: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """The algorithm of a name.

    Args:
      name: One that `check` knows.
      clip_fraction: Of the coordinates, where the name says that something is clipped.
      rate: As the records write it; None is the algorithm's own, or 1 if it has none.

    Returns:
      `sharpjax.named`'s transformation.

    Raises:
      AlgorithmError: optax refuses to make it, or later its `init` or `update` cannot work with the
        parameters and arguments of a training step; the line has the name.
    """
    number = None if rate in (None, RELATIVE) else float(rate)
    made = _naming(_by_name)(name, number, clip_fraction=clip_fraction)
    return optax.GradientTransformationExtraArgs(_naming(made.init), _naming(made.update))


@functools.cache  # So that trajectories share what is compiled for it.
def pseudo_updates(
    names: tuple[str, ...], clip_fraction: float
) -> optax.GradientTransformationExtraArgs:
    """`sharpjax.pseudo_updates` of the algorithms of these names, at their own rates or 1."""
    return sharpjax.pseudo_updates({name: build(name, clip_fraction) for name in names})


def own_rate(name: str) -> str | None:
    """The rate that an algorithm has by itself, as the records write it; None if it has none."""
    rate = _own_rate(name)
    return repr(rate) if isinstance(rate, float) else rate


def in_order(names: Iterable[str]) -> list[str]:
    """Each name once: the paper's in its order, then the others in theirs."""
    names = list(names)
    return [n for n in dict.fromkeys([*paper.ALGORITHMS, *names]) if n in names]


def _naming(function):
    """The function, whose errors are this module's."""

    @functools.wraps(function)
    def named(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise AlgorithmError(f"algorithms: {error}") from error

    return named
