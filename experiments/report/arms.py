"""What the reports on arms share, each arm a run: ratios beside the paper's, and how far they went.

The means of an arm are `claims.means` of its rows, by (value, *cell, algorithm).
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments import paper, records
from experiments.report import claims
from experiments.report.table import Table, document, number, percent, plus_minus
from sharpjax.plot import label

NEAR = 3.0  # A ratio to the paper's, either way, that leaves no distance to speak of.
HEADER = ("test loss", "SGD’s sharpness", *map(label, paper.OTHERS))

Means = Mapping[tuple, claims.Summary]


def cells(means: Means, *cell: Any) -> tuple[str, ...]:
    """An arm's numbers in a cell, by HEADER."""
    asked = [("loss", "sgd"), ("sharpness", "sgd"), *(("ratio", a) for a in paper.OTHERS)]
    return tuple(plus_minus(means.get((value, *cell, a))) for value, a in asked)


def paper_cells(task: str, printed: Mapping[str, float]) -> tuple[str, ...]:
    """The paper's ratios of a cell, by HEADER; Figure 2's sharpness is of translation."""
    sharpness = number(paper.MEAN_SHARPNESS["sgd"]) if task == "translation" else "–"
    return "–", sharpness, *(number(printed[a]) for a in paper.OTHERS)


def ratios(means: Means, *cell: Any) -> dict[str, float]:
    """Algorithm -> its mean ratio to SGD's sharpness; nan unless it is recorded and positive."""
    return {a: claims.positive(means.get(("ratio", *cell, a))) for a in paper.OTHERS}


def distance_table(
    title: str,
    first: Mapping[str, float],
    others: Iterable[tuple[str, Mapping[str, float]]],
    printed: Mapping[str, float],
) -> Table:
    """How far each of the other arms, by its name and its `ratios`, has gone to the paper's."""

    def cell(ours: Mapping[str, float], algorithm: str) -> str:
        start, end, theirs = first[algorithm], ours[algorithm], printed[algorithm]
        if not (start > 0 and end > 0) or abs(math.log(theirs / start)) <= math.log(NEAR):
            return "–"
        return percent(math.log(end / start) / math.log(theirs / start))

    rows = [(name, *(cell(ours, a) for a in paper.OTHERS)) for name, ours in others]
    caption = (
        "log(ratio/first’s)/log(paper’s/first’s), where the first is the row that is left out: "
        "100 % is the paper’s ratio, and what is below 0 % goes away from it. –: the first’s ratio "
        f"is within a factor of {NEAR:g} of the paper’s, or one is not positive."
    )
    return Table(title, ("", *map(label, paper.OTHERS)), rows, caption)


def write(folder: Path, pieces: Iterable[str | Table | None]) -> Path:
    """Writes report.md into the folder of the arms; returns it."""
    path = folder / "report.md"
    records.write_atomically(path, document(pieces))
    return path
