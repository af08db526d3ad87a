"""What a traced program holds."""

from typing import Any

import jax


def has_primitive(jaxpr: Any, names: tuple[str, ...]) -> bool:
    """Whether a program has one of the primitives, its loops, branches and calls included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in names:
            return True
        for inner in jax.tree.leaves(list(eqn.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns") and has_primitive(inner, names):
                return True
    return False
