"""How far the ratios of a study's arms have gone from the first arm's to the paper's."""

import math
from collections.abc import Callable, Iterable, Mapping

from experiments import paper
from experiments.report.table import Table, percent
from sharpjax.plot import label

NEAR = 3.0  # A ratio to the paper's, either way, that leaves no distance to speak of.

Ratio = Callable[[str], float]  # Of an algorithm; NaN unless it is recorded and positive.


def share(first: float, ours: float, printed: float) -> float:
    """How far a ratio has gone from `first` to the paper's, by logarithms: 1 is all of the way.

    NaN if a ratio is not positive, or if `first` is within a factor of NEAR of the paper's.
    """
    if not (first > 0 and ours > 0) or abs(math.log(printed / first)) <= math.log(NEAR):
        return math.nan
    return math.log(ours / first) / math.log(printed / first)


def distance_table(
    title: str, first: Ratio, others: Iterable[tuple[str, Ratio]], printed: Mapping[str, float]
) -> Table:
    """A row for each of the other arms, by its name."""

    def cell(ratio: Ratio, algorithm: str) -> str:
        gone = share(first(algorithm), ratio(algorithm), printed[algorithm])
        return "–" if math.isnan(gone) else percent(gone)

    rows = [(name, *(cell(ratio, a) for a in paper.OTHERS)) for name, ratio in others]
    caption = (
        "log(ratio/first’s)/log(paper’s/first’s), where the first is the row that is left out: "
        "100 % is the paper’s ratio, and what is below 0 % goes away from it. –: the first’s ratio "
        f"is within a factor of {NEAR:g} of the paper’s, or one is not positive."
    )
    return Table(title, ("", *map(label, paper.OTHERS)), rows, caption)
