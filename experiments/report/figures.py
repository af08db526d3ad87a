"""The paper's figures: what a run recorded, handed to `sharpjax.plot`, with titles and captions."""

import functools
import itertools
from collections.abc import Iterable, Iterator

import pandas
from matplotlib.figure import Figure

from experiments import algorithms, paper
from experiments.report import atlas, beside, stability
from experiments.report.figure_files import Drawn, write
from experiments.report.recorded import Run
from experiments.rows import AtPoint, Convergence, Histogram, Landscape, Sharpness
from sharpjax import plot

POINT = list(AtPoint.KEY)
COLUMN = POINT[:2]


def draw_all(run: Run) -> Iterator[Drawn]:
    """Draws every figure that a run's records allow into its folder, in the report's order."""
    tables = (Sharpness, Landscape, Histogram, Convergence)
    sharpness, landscape, histogram, convergence = map(run.frame, tables)
    names = [*sharpness["algorithm"], *convergence["algorithm"], *(at[1] for at in run.points)]
    style = plot.Style(algorithms.in_order(names))
    save = functools.partial(write, run.directory)
    if len(sharpness):
        columns = in_order_of_paper(sharpness)
        printed = published(sharpness)
        seeds = " and seeds" * (sharpness["seed"].nunique() > 1)
        hollow = "; hollow: the paper’s value" * bool(len(printed))
        yield save(
            "sharpness_ratios",
            f"Directional sharpness beside SGD’s{tables_of(columns)}",
            f"Mean of sharpness/|SGD’s sharpness| over the measured batches{seeds}, with their "
            f"standard deviation{hollow}. A triangle on the lower edge is a mean that is zero or "
            "negative.",
            lambda: ratio_figure(sharpness, style),
        )
    for (column, epoch), rows in landscapes(landscape):
        first = rows.iloc[0]
        number = paper.FIGURE.get(column)
        points = sharpness.merge(rows[POINT].drop_duplicates())
        yield save(
            f"landscape_{column[0]}_{column[1]}_epoch{epoch:02d}",
            f"Loss along each direction: {paper.column_name(column)}, epoch {epoch}, "
            f"batch {first['batch']}" + (f" (Figure {number})" if number else ""),
            "Test loss at a distance along each algorithm’s unit direction; lines join the "
            "measured losses by monotone cubics and end where the loss is back at its start, or in "
            "a small bar where that was not seen. Filled: the lowest loss found; hollow: where the "
            "quadratic model (slope, sharpness) has its minimum, a triangle on the lower edge if "
            "that lies below.",
            lambda rows=rows, points=points: landscape_figure(rows, points, style),
        )
    for column in in_order_of_paper(histogram):
        rows = one_point(of_column(histogram, column))
        first = rows.iloc[0]
        number = " (Figure 1)" * (column in paper.TABLE)
        yield save(
            f"histogram_{column[0]}_{column[1]}",
            f"Coordinates of SGD’s momentum and of the updates: {paper.column_name(column)}, "
            f"epoch {first['epoch']}, batch {first['batch']}{number}",
            "How many coordinates have which magnitude, both axes logarithmic. Updates are "
            "divided by their root mean square, since algorithms have their own scales; what is "
            "exactly zero lies left of both axes.",
            lambda rows=rows: plot.histogram(rows, style=style),
        )
    for task in run.tasks(Convergence):
        rows = convergence[convergence["task"] == task]
        number = " (Figure 4)" * any(task == of for of, _ in paper.TABLE)
        seeds = ", mean over seeds" * (rows["seed"].nunique() > 1)
        yield save(
            f"convergence_{task}",
            f"Training loss of the {paper.seven(rows['algorithm'])}algorithms: "
            f"{paper.TASKS[task]}{number}",
            f"Mean training loss of each epoch{seeds}. A cross marks where a run diverged; it "
            "is on the upper edge if the loss had left the picture.",
            lambda rows=rows: convergence_figure(rows, style),
        )
    for figure in (
        *atlas.figures(run, style),
        *stability.figures(run, style),
        *beside.figures(run),
    ):
        yield save(*figure)


def ratio_figure(sharpness: pandas.DataFrame, style: plot.Style | None = None) -> Figure:
    """Ratios over epochs, a panel for each (task, trajectory), the paper's beside."""
    order = [of_column(sharpness, column) for column in in_order_of_paper(sharpness)]
    return plot.sharpness(
        pandas.concat(order),
        value="ratio",
        x="epoch",
        panels=COLUMN,
        title=lambda column: "\n".join(paper.column_name(column).split(", ")),
        reference=published(sharpness),
        reference_label="the paper’s value",
        style=style,
    )


def landscape_figure(
    landscape: pandas.DataFrame, points: pandas.DataFrame, style: plot.Style | None = None
) -> Figure:
    """Loss against distance: without Adafactor on a linear axis, all on a logarithmic one."""
    names = algorithms.in_order(landscape["algorithm"])
    shown = [name for name in names if not name.startswith("adafactor")]
    every = "all " + paper.seven(names) if len(shown) < len(names) else ""
    return plot.landscape(
        landscape.rename(columns={"step": "distance"}),
        points,
        linear=shown,
        titles=(
            "without Adafactor" if len(shown) < len(names) else "linear distance",
            ", ".join(filter(None, (every.strip(), "logarithmic distance"))),
        ),
        style=style,
    )


def convergence_figure(rows: pandas.DataFrame, style: plot.Style | None = None) -> Figure:
    """Training loss of each epoch; a cross where a run diverged."""
    lost = rows.assign(loss=rows["loss"].where(~rows["diverged"]))
    return plot.convergence(lost, x="epoch", smooth=1, style=style)


def in_order_of_paper(rows: pandas.DataFrame) -> list[tuple[str, str]]:
    """The (task, trajectory) columns that occur, in the order of Tables 3 to 6."""
    return paper.ordered(rows[COLUMN].itertuples(index=False, name=None))


def of_column(rows: pandas.DataFrame, column: tuple[str, str]) -> pandas.DataFrame:
    """The rows of one (task, trajectory)."""
    return rows[(rows["task"] == column[0]) & (rows["trajectory"] == column[1])]


def landscapes(rows: pandas.DataFrame) -> Iterable[tuple[tuple, pandas.DataFrame]]:
    """((task, trajectory), epoch) and the rows of its first recorded point."""
    for column in in_order_of_paper(rows):
        for epoch, mine in of_column(rows, column).groupby("epoch"):
            yield (column, epoch), one_point(mine)


def one_point(rows: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of the earliest point among them."""
    return rows.merge(rows[POINT].drop_duplicates().sort_values(POINT).head(1))


def published(sharpness: pandas.DataFrame) -> pandas.DataFrame:
    """The paper's ratios of what was measured, as rows of the same columns."""
    columns = [*COLUMN, "epoch", "algorithm"]
    rows = [
        (*cell, algorithm, ratio)
        for cell, ratios in paper.SHARPNESS_RATIO.items()
        for algorithm, ratio in ratios.items()
    ]
    printed = pandas.DataFrame(rows, columns=[*columns, "ratio"])
    return printed.merge(sharpness[columns].drop_duplicates())


def tables_of(columns: Iterable[tuple[str, str]]) -> str:
    """Which of the paper's tables these columns are, in parentheses; nothing if none."""
    found = sorted(paper.TABLE[column] for column in columns if column in paper.TABLE)
    if not found:
        return ""
    if len(found) == 1:
        return f" (Table {found[0]})"
    if len(found) > 2 and all(b == a + 1 for a, b in itertools.pairwise(found)):
        return f" (Tables {found[0]} to {found[-1]})"
    return f" (Tables {', '.join(map(str, found[:-1]))} and {found[-1]})"
