"""How finely an anatomy's instruments look."""

import dataclasses
from typing import Literal

from sharpjax._checks import check_in_range


@dataclasses.dataclass(frozen=True)
class Options:
    """How finely the instruments look."""

    # Top fractions of the gradient's coordinates.
    fractions: tuple[float, ...] = (
        *(1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0),
    )
    # Random probes of the Hessian's diagonal.
    probes: int = 128
    # Coordinates whose ranks are compared, drawn from all.
    coordinates: int = 2**16
    # Starts of the Lanczos iteration.
    lanczos_probes: int = 4
    # Hessian products of each.
    lanczos_steps: int = 40
    # Clipped fractions; 0 is the direction itself, 1 its signs.
    clipped_fractions: tuple[float, ...] = (
        *(0.0, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0),
    )
    # What is clipped: SGD's "momentum", the training batch's "gradient".
    clipped: tuple[Literal["momentum", "gradient"], ...] = ("momentum", "gradient")

    def __post_init__(self):
        for name, low, high in (
            ("probes", 4, 10**6),
            ("coordinates", 1, 2**30),
            ("lanczos_probes", 1, 10**4),
            ("lanczos_steps", 1, 10**4),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"options.{name} must lie in [{low:,}, {high:,}], got {value:,}")
        for name in ("fractions", "clipped_fractions"):
            if not getattr(self, name):
                raise ValueError(f"options.{name} must hold at least one number, got ()")
            for fraction in getattr(self, name):
                check_in_range(f"options.{name}", fraction, 0.0, 1.0)
        if not self.clipped:
            raise ValueError("options.clipped must name momentum, gradient or both, got ()")
