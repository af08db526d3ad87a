"""Where a state's arrays lie before the first step."""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def on_mesh_of(params: Any, state: Any) -> Any:
    """A state as `init` makes it, each leaf where a step leaves it: the step compiles once.

    A count depends on no parameter, and lies on the default device; after a step with parameters
    on a mesh it lies there, and for that the step's program would be compiled a second time.
    """
    places = [getattr(x, "sharding", None) for x in jax.tree.leaves(params)]
    meshes = {place.mesh for place in places if isinstance(place, NamedSharding)}
    if len(meshes) != 1:
        return state
    mesh = meshes.pop()
    whole = NamedSharding(mesh, PartitionSpec())
    # Over one device nothing is split after a step, unless the arrays' types say so.
    split = mesh.size > 1 or AxisType.Explicit in mesh.axis_types

    def place(x):
        there = split and isinstance(getattr(x, "sharding", None), NamedSharding)
        return x if there or not isinstance(x, jax.Array) else jax.device_put(x, whole)

    return jax.tree.map(place, state)
