"""What a run has recorded, each table read once, as tables, figures and claims take it."""

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from experiments import algorithms, anatomy_rows, paper, records
from experiments.config import rates_along
from experiments.report import claims
from experiments.rows import TABLES, AtPoint, RitzValue, Row, Sharpness
from sharpjax import Spectrum

COLUMN = AtPoint.KEY[:2]
At = dict[type[Row], list[Any]]  # The rows of a point, by table.


class Run:
    """Everything that a run has written down so far.

    Raises:
      ValueError: the directory holds no records.
    """

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        self._rows: dict[type[Row], list[Any]] = {}
        if not any(self[table] for table in (*TABLES, *anatomy_rows.TABLES)):
            raise ValueError(f"{directory}: no records to report; has a run been made here?")
        self.config = records.read_json(self.directory / "config.json")
        self.provenance = records.read_json(self.directory / "provenance.json")
        # What the configuration compares, and with what a trajectory measures besides.
        self.algorithms = algorithms.in_order(self.config.get("algorithms", paper.ALGORITHMS))
        measured = (row.algorithm for row in self[Sharpness])
        self.measured = algorithms.in_order([*self.algorithms, *measured])

    def __getitem__(self, table: type[Row]) -> list[Any]:
        if table not in self._rows:
            self._rows[table] = records.read(self.directory, table)
        return self._rows[table]

    @functools.cached_property
    def rows(self) -> list[Row]:
        """Of the two experiments."""
        return [row for table in TABLES for row in self[table]]

    @functools.cached_property
    def claims(self) -> list[claims.Claim]:
        """The paper's claims, and how often they held."""
        return claims.evaluate(self.rows)

    @functools.cached_property
    def points(self) -> dict[tuple, At]:
        """The points with any record of an anatomy, as the paper's columns are ordered."""
        found: dict[tuple, At] = {}
        for table in anatomy_rows.TABLES:
            for row in self[table]:
                key = row.key[: len(AtPoint.KEY)]
                found.setdefault(key, {t: [] for t in anatomy_rows.TABLES})[table].append(row)
        columns = paper.ordered({key[:2] for key in found})
        return {key: found[key] for key in sorted(found, key=lambda k: (columns.index(k[:2]), k))}

    def frame(self, table: type[Row]) -> pandas.DataFrame:
        """A table, the paper's algorithms in its order and the others in theirs."""
        return frame(self[table], table)

    def columns(self) -> list[tuple[str, str]]:
        """The (task, trajectory) columns of Tables 3 to 6 that are measured."""
        return paper.ordered({(row.task, row.trajectory) for row in self[Sharpness]})

    def of(self, column: tuple[str, str], table: type[Row] = Sharpness) -> list[Any]:
        """The rows of one column."""
        return [r for r in self[table] if (r.task, r.trajectory) == column]

    def epochs(self, column: tuple[str, str]) -> list[int]:
        return sorted({r.epoch for r in self.of(column)})

    def rate_along(self, trajectory: str) -> float:
        """The rate of the optimizer that trains along a trajectory; nan if it is not recorded."""
        return rates_along(self.config).get(trajectory, math.nan)

    def tasks(self, table: type[Row]) -> list[str]:
        """The tasks that a table has rows of, in the paper's order."""
        present = {row.task for row in self[table]}
        return [task for task in paper.TASKS if task in present]


class Joined(Run):
    """Several runs that differ in their seed and their start alone, told of as one.

    Args:
      runs: At least one; the first has the configuration.
    """

    def __init__(self, runs: Sequence[Run]):
        self._parts = runs
        super().__init__(runs[0].directory)

    def __getitem__(self, table: type[Row]) -> list[Any]:
        if table not in self._rows:
            self._rows[table] = [row for run in self._parts for row in run[table]]
        return self._rows[table]


def frame(rows: list[Any], table: type[Row]) -> pandas.DataFrame:
    """Records as a DataFrame, the paper's algorithms in its order and the others in theirs."""
    made = pandas.DataFrame(map(vars, rows), columns=list(table.__dataclass_fields__))
    if "algorithm" not in made.columns:
        return made
    rank = {name: i for i, name in enumerate(algorithms.in_order(made["algorithm"]))}
    return made.sort_values("algorithm", key=lambda names: names.map(rank), kind="stable")


def by_algorithm(rows: list[Any]) -> dict[str, list[Any]]:
    """The rows of each algorithm, in the tables' order; the span, which is none, last."""
    names = algorithms.in_order(r.algorithm for r in rows)
    names.sort(key=is_span)
    return {a: [r for r in rows if r.algorithm == a] for a in names}


def in_order(rows: list[Any]) -> list[Any]:
    """The rows in the order of `by_algorithm`."""
    return [row for mine in by_algorithm(rows).values() for row in mine]


def is_span(algorithm: str) -> bool:
    """Whether a row's name is of the best step in all directions' span, not of an algorithm."""
    return algorithm == "span"


def as_result(result: type, rows: Any) -> Any:
    """Recorded rows, or a single one, as the library's result whose fields they have."""
    names = result.__dataclass_fields__
    if not isinstance(rows, list):
        return result(**{name: getattr(rows, name) for name in names})
    return result(**{name: np.array([getattr(r, name) for r in rows]) for name in names})


def as_spectrum(rows: list[RitzValue]) -> Spectrum:
    """Recorded Ritz values, of one matrix, as the library's spectrum."""
    shape = max(r.probe for r in rows) + 1, max(r.index for r in rows) + 1
    made = np.zeros((3, *shape))
    for r in rows:
        made[:, r.probe, r.index] = r.eigenvalue, r.weight, r.residual
    return Spectrum(*made, rows[0].parameters)
