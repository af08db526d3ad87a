"""What every configuration is checked for: its fields' types, its sizes and its activations."""

import dataclasses
import numbers
import types
import typing
from typing import Any, Literal

from sharpjax.models.layers import ACTIVATIONS


def check_fields(config: Any, *, sizes: tuple[str, ...], activations: tuple[str, ...] = ()) -> None:
    """Check a configuration's fields, so that a bad one is named where it is given.

    Args:
        config: A dataclass whose annotations say each field's type.
        sizes: Names of the fields that must be positive (or None, where that is allowed).
        activations: Names of the fields that name an activation.

    Raises:
        ValueError: If a field has a value of another type, a size is not positive, or an
            activation is unknown. The message names the field and the value.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not _is_of_type(value, hints[field.name]):
            raise ValueError(f"{field.name} is {value!r}, not {_words(hints[field.name])}")
    for name in sizes:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, which is not positive")
    for name in activations:
        check_activation(name, getattr(config, name))


def check_activation(field: str, value: str, name: str | None = None) -> None:
    """ValueError if `field`, whose value is `value`, names (in its part `name`) no activation."""
    if (value if name is None else name) not in ACTIVATIONS:
        known = ", ".join(sorted(ACTIVATIONS))
        raise ValueError(f"{field} is {value!r}, an unknown activation; known are {known}")


def _is_of_type(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_is_of_type(value, part) for part in hint.__args__)
    if typing.get_origin(hint) is Literal:
        return value in hint.__args__
    if typing.get_origin(hint) is tuple:  # Of any length, as all of them are here.
        return isinstance(value, tuple) and all(_is_of_type(v, hint.__args__[0]) for v in value)
    if hint in (int, float):
        number = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, hint.__args__))
    return hint.__name__ if isinstance(hint, type) else str(hint).replace(" | ", " or ")
