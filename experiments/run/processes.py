"""Several processes of one run: who writes, and how all come to the same decisions.

Every process runs the same program on its own devices, so each decision that rests on something
that only one of them sees (records on its disk, a signal) has to be shared. With one process
nothing here costs anything.
"""

import pickle
import re
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


def initialize(cluster: str) -> None:
    """Joins the processes of a run: "auto" on Slurm, TPU pods, GKE or Open MPI.

    Elsewhere ADDRESS:PORT,COUNT,INDEX, the address being process 0's. On CPU, collectives go
    through Gloo.

    Raises:
      ValueError: neither of the two forms, or a cluster that JAX does not recognise.
    """
    check_cluster(cluster)
    if jax.distributed.is_initialized():  # By the command before.
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take SIGTERM away from `Watch`, which asks all processes to stop.
    jax.config.update("jax_enable_preemption_service", False)
    # A lost process ends the others: they would wait for it in the next collective.
    seconds = {"heartbeat_timeout_seconds": 30}
    if cluster == "auto":
        jax.distributed.initialize(**seconds)
        return
    address, *numbers = cluster.split(",")
    jax.distributed.initialize(address, int(numbers[0]), int(numbers[1]), **seconds)


def check_cluster(cluster: str) -> None:
    """Raises a ValueError unless it is "auto" or ADDRESS:PORT,COUNT,INDEX with INDEX < COUNT."""
    if cluster == "auto":
        return
    found = re.fullmatch(r"[^,\s]+:(\d{1,5}),(\d{1,6}),(\d{1,6})", cluster)
    if not found or not 0 < int(found[1]) < 2**16:
        raise ValueError(f"distributed must be auto or ADDRESS:PORT,COUNT,INDEX, got {cluster!r}")
    if not int(found[3]) < int(found[2]):
        raise ValueError(
            f"distributed: INDEX must lie in [0, COUNT), got {found[3]} and {found[2]}"
        )


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns, or raises, in the first process; all must call this together."""
    if jax.process_count() == 1:
        return make()
    outcome: tuple[bool, object] = (True, None)
    if is_first():
        try:
            outcome = (True, make())
        except Exception as error:
            outcome = (False, error)
    said = np.frombuffer(pickle.dumps(outcome), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(said.size)))
    buffer = np.zeros(size, np.uint8)
    if is_first():
        buffer[:] = said
    succeeded, value = pickle.loads(multihost_utils.broadcast_one_to_all(buffer).tobytes())
    if not succeeded:
        raise value
    return value


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process; all must call this together."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).any())
