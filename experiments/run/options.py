"""How finely an anatomy's instruments look."""

import dataclasses
import itertools
from typing import Literal, get_args

from sharpjax._checks import check_in_range

Instrument = Literal[
    "lorenz",
    "parts",
    "span",
    "blocks",
    "spectrum",
    "correlations",
    "clipped",
    "noise",
    "frequency",
    "dominant",
    "preconditioned",
    "exact_diagonal",
    "block_spectra",
    "dominant_shares",
]


@dataclasses.dataclass(frozen=True)
class Options:
    """How finely the instruments look."""

    # Which of them look. `dominant_shares` is the cheap part of `dominant`, which has its rows too.
    instruments: tuple[Instrument, ...] = get_args(Instrument)[:-1]
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
    # Top eigenvectors that span the dominant subspace; `lanczos_steps` at most.
    dominant: int = 10
    # Bins of the tokens' frequency in the training text.
    frequency_bins: int = 8
    # Coordinates whose Hessian diagonal is exact, in each stratum of |gradient|; a gradient each.
    exact_coordinates: int = 64
    # Where the strata end: top fractions of the gradient's coordinates; the rest is the last.
    strata: tuple[float, ...] = (1e-4, 1e-3, 0.01, 0.1)
    # Starts of the Lanczos iteration in each block of tensors.
    block_probes: int = 2
    # Hessian products of each.
    block_steps: int = 8

    def __post_init__(self):
        for name, low, high in (
            ("probes", 4, 10**6),
            ("coordinates", 1, 2**30),
            ("lanczos_probes", 1, 10**4),
            ("lanczos_steps", 1, 10**4),
            ("dominant", 1, 10**4),
            ("frequency_bins", 1, 10**4),
            ("exact_coordinates", 3, 2**30),
            ("block_probes", 1, 10**4),
            ("block_steps", 1, 10**4),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"options.{name} must lie in [{low:,}, {high:,}], got {value:,}")
        for name in ("fractions", "clipped_fractions"):
            if not getattr(self, name):
                raise ValueError(f"options.{name} must hold at least one number, got ()")
            for fraction in getattr(self, name):
                check_in_range(f"options.{name}", fraction, 0.0, 1.0)
        for fraction in self.strata:
            check_in_range("options.strata", fraction, 0.0, 1.0)
        bounds = (0.0, *self.strata, 1.0)
        if any(a >= b for a, b in itertools.pairwise(bounds)):
            raise ValueError(f"options.strata must ascend within (0, 1), got {self.strata}")
        if not self.instruments:
            raise ValueError("options.instruments must name at least one, got ()")
        if not self.clipped:
            raise ValueError("options.clipped must name momentum, gradient or both, got ()")
