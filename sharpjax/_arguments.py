"""What a loss is called with: extra arguments, and micro-batches as users have them."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpjax._checks import check_scalar

# What a loss raises where it needs the value of a traced number.
_NEEDS_VALUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerArrayConversionError,
)


@dataclasses.dataclass(frozen=True)
class _Rest:
    """The structure of extra arguments, and for each leaf a static value, or that it is traced."""

    structure: Any
    leaves: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class Static:
    """A value that is no array. Equal to another of the same value; if unhashable, to itself."""

    value: Any

    def __eq__(self, other):
        if not isinstance(other, Static) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or (self._hashable() and self.value == other.value)

    def __hash__(self):
        return hash((type(self.value), self.value)) if self._hashable() else id(self.value)

    def _hashable(self) -> bool:
        try:
            hash(self.value)
        except TypeError:
            return False
        return True


def widen(tree: Any) -> Any:
    """Every leaf in float32 or wider."""
    return jax.tree.map(
        lambda x: jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32)), tree
    )


def bind_arguments(loss_fn, has_aux, params, batches, args) -> tuple[list, _Rest]:
    """The traced leaves of `args`, and the rest; checks the loss with them.

    Numbers are traced, unless the loss needs their values, for a branch or a shape.
    """

    def checked(numbers_static):
        traced, rest = split(args, numbers_static)
        leaves, structure = jax.tree.flatten((params, batches, traced))
        _check_loss(Static(loss_fn), has_aux, rest, structure, tuple(map(jax.typeof, leaves)))
        return traced, rest

    try:
        return checked(numbers_static=False)
    except _NEEDS_VALUE:
        if not any(map(_is_number, jax.tree.leaves(args))):
            raise
        return checked(numbers_static=True)


@functools.lru_cache(maxsize=128)
def _check_loss(loss_fn, has_aux, rest, structure, types) -> None:
    """Raises unless the loss is a scalar; traces it, and remembers those that passed."""

    def loss(params, batches, traced):
        first = jax.tree.map(lambda x: jax.lax.index_in_dim(x, 0, keepdims=False), batches)
        before = () if batches is None else (first,)
        # Checked here: of the auxiliary, which may be anything, nothing is returned.
        check_scalar(loss_fn.value(widen(params), *before, *join(traced, rest)), has_aux)

    jax.eval_shape(loss, *structure.unflatten(types))


def split(args, numbers_static) -> tuple[list, _Rest]:
    """The leaves of a tree that are traced, and the rest, which is hashable; see `join`."""
    leaves, structure = jax.tree.flatten(args)
    leaves = [_as_array(x) for x in leaves]
    is_traced = [_is_array(x) or (_is_number(x) and not numbers_static) for x in leaves]
    kept = tuple(None if traced else Static(x) for x, traced in zip(leaves, is_traced, strict=True))
    return [x for x, t in zip(leaves, is_traced, strict=True) if t], _Rest(structure, kept)


def join(traced, rest: _Rest) -> Any:
    remaining = iter(traced)
    leaves = [next(remaining) if x is None else x.value for x in rest.leaves]
    return rest.structure.unflatten(leaves)


def _is_number(x) -> bool:
    return isinstance(x, int | float | complex) and not isinstance(x, bool)


def _is_array(x) -> bool:
    return isinstance(x, jax.Array | np.generic) or (
        isinstance(x, np.ndarray) and x.dtype.kind not in "OUSV"
    )


def _as_array(x: Any) -> Any:
    """Another library's tensor as a NumPy array; all else as it is."""
    foreign = hasattr(x, "__array__") and not isinstance(x, jax.Array | np.ndarray | np.generic)
    if not foreign:
        return x
    detach = getattr(x, "detach", None)
    return np.asarray(x if detach is None else detach().cpu())


# Batches ------------------------------------------------------------------------------------------


def as_batches(batches: Any) -> list[Any]:
    """The ways to read `batches`, each a pytree of arrays that agree on the first axis.

    A list may be one pytree, or as many batches. The loss decides: it fails on the other. A list of
    bare arrays is tried as the former first, any other as the latter.
    """
    batches = plain(batches)
    leaves = jax.tree_util.tree_leaves_with_path(batches)
    if not leaves:
        raise ValueError(f"batches must hold at least one array, got {batches!r}")
    for path, leaf in leaves:
        if not hasattr(leaf, "shape"):
            raise TypeError(
                f"batches{jax.tree_util.keystr(path)} must be an array, got {type(leaf).__name__}"
            )
    wrong = _first_axes(leaves)
    if isinstance(batches, list):
        bare = jax.tree_util.all_leaves(batches)
        try:
            stacked = [_stack(batches)]
        except ValueError:
            if wrong and not bare:
                raise
            stacked = []
        whole = [] if wrong else [batches]
        if stacked or whole:
            return [*whole, *stacked] if bare else [*stacked, *whole]
    if wrong:
        raise ValueError(wrong)
    return [batches]


def _first_axes(leaves) -> str | None:
    """What is wrong with the leaves' first axes."""
    sizes = {jax.tree_util.keystr(path): jnp.shape(leaf)[:1] for path, leaf in leaves}
    if len(set(sizes.values())) > 1 or () in sizes.values() or (0,) in sizes.values():
        return (
            "batches must have leaves [micro_batches ≥ 1, …] that agree on the first axis, "
            f"got first axes {sizes}"
        )
    return None


def plain(tree):
    """Mappings and tensors of other libraries as dicts and NumPy arrays."""

    def convert(x):
        if isinstance(x, Mapping):
            return {
                k: np.asarray(_as_array(v)) if isinstance(v, list) else plain(v)
                for k, v in x.items()
            }
        return _as_array(x)

    return jax.tree.map(convert, tree)


def _stack(batches: list) -> Any:
    first = batches[0]
    shapes = lambda tree: jax.tree.map(np.shape, tree)  # noqa: E731
    for i, batch in enumerate(batches):
        if jax.tree.structure(batch) != jax.tree.structure(first):
            raise ValueError(
                f"batches[{i}] is a {jax.tree.structure(batch)}, "
                f"but batches[0] is a {jax.tree.structure(first)}"
            )
        if shapes(batch) != shapes(first):
            raise ValueError(
                f"batches[{i}] has shapes {shapes(batch)}, but batches[0] has {shapes(first)}: "
                "micro-batches must be of one size; leave a smaller last one out"
            )
    xp = jnp if any(isinstance(x, jax.Array) for x in jax.tree.leaves(batches)) else np
    return jax.tree.map(lambda *xs: xp.stack(xs), *batches)
