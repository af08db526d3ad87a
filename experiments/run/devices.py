"""Where arrays lie: one mesh with axes `data` and `fsdp`.

Batches are split over both axes, parameters and optimizer states over `fsdp`: each process hands
over the same host arrays and keeps its own part. Everything else follows from these inputs, since
the axes are of type Auto: XLA's partitioner splits gradients, updates, thresholds and curvature.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh, and the places of arrays on it. Hashable: jitted functions take it as static."""

    mesh: Mesh

    def of(self, shape: tuple[int, ...]) -> NamedSharding:
        """Of a parameter or a state: a matrix is split along its longest axis that `fsdp` divides.

        Vectors and scalars lie whole on every device: splitting them saves nothing.
        """
        ways = self.mesh.shape["fsdp"]
        axes = [i for i, size in enumerate(shape) if size % ways == 0]
        if ways == 1 or len(shape) < 2 or not axes:
            return self.whole
        longest = max(axes, key=lambda i: shape[i])
        return NamedSharding(
            self.mesh, PartitionSpec(*("fsdp" if i == longest else None for i in range(len(shape))))
        )

    @functools.cached_property
    def whole(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @functools.cached_property
    def batch(self) -> NamedSharding:
        """Of batches [micro_batches, micro_batch, …]: examples over all devices."""
        return NamedSharding(self.mesh, PartitionSpec(None, AXES))

    def place(self, tree: Any) -> Any:
        """Host arrays, equal in every process, as parameters or states on the mesh (copies)."""
        return jax.tree.map(lambda x: _spread(x, self.of(np.shape(x))), tree)

    def place_batch(self, batch: Any) -> Any:
        """Host batches [micro_batches, micro_batch, …], equal in every process, on the mesh.

        The number of devices must divide the micro-batch.
        """
        return jax.tree.map(lambda x: _spread(x, self.batch), batch)

    def constrain(self, tree: Any) -> Any:
        """Inside a jitted function: arrays shaped like parameters lie where `of` says."""
        if self.mesh.size == 1:
            return tree
        keep = lambda x: jax.lax.with_sharding_constraint(x, self.of(x.shape))  # noqa: E731
        return jax.tree.map(keep, tree)

    def gather(self, tree: Any) -> Any:
        """Host copies of the whole arrays, in every process."""
        return jax.device_get(self._replicate(tree) if self.mesh.size > 1 else tree)

    @functools.cached_property
    def _replicate(self):
        return jax.jit(lambda tree: tree, out_shardings=self.whole)  # Once: trees come again.


def mesh_sizes(mesh: str, batch: int | None = None) -> dict[str, int]:
    """Devices by axis of a mesh written as `data=4,fsdp=2`; an axis that is left out has one.

    Args:
      mesh: What is written.
      batch: If given, examples that all devices together must divide.

    Raises:
      ValueError: a mesh that cannot be read, or that does not divide the batch.
    """
    named: list[str] = []
    sizes = dict.fromkeys(AXES, 1)
    for part in mesh.split(","):
        name, _, size = part.strip().partition("=")
        if name not in AXES or not re.fullmatch("[1-9][0-9]{0,9}", size):
            raise ValueError(f"mesh must be written as data=4,fsdp=2, got {mesh!r}")
        if name in named:
            raise ValueError(f"mesh names {name} twice, got {mesh!r}")
        named.append(name)
        sizes[name] = int(size)
    devices = sizes["data"] * sizes["fsdp"]
    if batch is not None and batch % devices:
        raise ValueError(f"the mesh's {devices} devices must divide a batch of {batch}")
    return sizes


def make_layout(mesh: str = "", devices: Any = None) -> Layout:
    """The layout of a mesh as `mesh_sizes` reads it; without one, all devices are on `data`.

    Raises:
      ValueError: a mesh that cannot be read, or of more or fewer devices than there are.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(mesh or f"data={len(devices)}")
    wanted = sizes["data"] * sizes["fsdp"]
    # A smaller mesh is fine in one process; among several, each must have its part.
    if wanted > len(devices) or (wanted < len(devices) and jax.process_count() > 1):
        raise ValueError(f"mesh {mesh!r} has {wanted} devices, but there are {len(devices)}")
    grid = np.array(devices[:wanted]).reshape(sizes["data"], sizes["fsdp"])
    return Layout(Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2))


@functools.cache
def one_device() -> Layout:
    """The first device of this process alone."""
    return make_layout("data=1", jax.local_devices()[:1])


def _spread(x: Any, sharding: NamedSharding) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
