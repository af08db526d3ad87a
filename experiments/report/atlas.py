"""Many optimizers side by side: at shared points, and each on its own trajectory at equal loss."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas
import scipy.stats
from matplotlib import ticker
from matplotlib.figure import Figure

from experiments import algorithms, paper
from experiments.algorithms import RELATIVE
from experiments.explanation_rows import Cosine, FrequencyPart
from experiments.horizon_rows import Own
from experiments.report import claims
from experiments.report.recorded import Run
from experiments.report.table import Table, interval, number, percent, plus_minus
from experiments.report.tables import mean, middle
from experiments.rows import AtPoint, Convergence, Search, Sharpness, Tuning
from sharpjax import plot
from sharpjax.plot import label
from sharpjax.tables import at_loss

MANY = 12  # Optimizers measured, from which a run has an atlas.
FEWEST = 4  # Optimizers of which ranks are correlated.
_NEAR = 0.01  # Of slope and of sharpness, within which two optimizers share a mark.


def has_shared(run: Run) -> bool:
    """Whether so many optimizers are measured on shared trajectories."""
    return len({r.algorithm for r in run[Sharpness]}) >= MANY


def columns(run: Run) -> list[tuple[str, str]]:
    """The measured (task, trajectory), one task after the other."""
    order = list(paper.TASKS)
    return sorted(run.columns(), key=lambda c: (order.index(c[0]), c[1] != "sgd"))


# --- On shared trajectories -----------------------------------------------------------------------


def shared_table(run: Run, task: str, trajectory: str | None = None) -> Table:
    """Every number of every optimizer on the trajectories of one task, the sharpest first.

    Args:
      run: Optimizers side by side.
      task: One that it has measured.
      trajectory: Only this one's.
    """
    lines, points = [], []
    for column in columns(run):
        if column[0] != task or trajectory not in (None, column[1]):
            continue
        measured = {t: run.of(column, t) for t in (Sharpness, Search, Cosine, FrequencyPart)}
        found = [_shared_line(name, measured) for name in run.measured]
        found.sort(key=lambda line: -line[0])
        along = paper.TRAJECTORIES.get(column[1], column[1])
        lines += [(name, along, *cells) for _, name, *cells in found]
        searched = _count(measured[Search])
        points.append(f"{along} trajectory, {_points(measured[Sharpness])}, {searched} searched")
    header = (
        *("", "along", "slope", "sharpness", "ratio", "predicted decrease", "best decrease"),
        *("critical step", "cosine, gradient", "cosine, Adam", "dominant"),
        *("frequent tokens: slope", "sharpness"),
    )
    said = [any(line[i] != "n/a" for line in lines) for i in range(len(header))]
    header, *lines = (tuple(itertools.compress(line, said)) for line in (header, *lines))
    caption = (
        f"Means over the measured points ({'; '.join(points)}); of the sharpness with their "
        "standard deviation. Slope is gᵀv and ratio sharpness/|SGD’s|; decreases and the critical "
        "step are of the test loss along the direction, the step in units of distance, its median; "
        "the best decrease and the critical step of the searched points alone. "
        "Cosines: with the negative training gradient, and with Adam’s update. "
    )
    if "dominant" in header:
        caption += "Dominant: share of ‖u‖² in the top eigenvectors of the Hessian. "
    if "frequent tokens: slope" in header:
        caption += "Frequent tokens: what the most frequent half of the targets contributes. "
    caption += (
        "A schedule-free optimizer carries an average of its own: on a shared trajectory, its "
        "direction depends on its rate."
    )
    return Table(f"The atlas: {paper.TASKS[task]}", header, lines, caption)


def _points(rows: list[Any]) -> str:
    """`4 points of seed 0`."""
    seeds, count = sorted({r.seed for r in rows}), _count(rows)
    points = f"{count} point{'s' * (count > 1)}"
    return f"{points} of seed{'s' * (len(seeds) > 1)} {' and '.join(map(str, seeds))}"


def _count(rows: list[Any]) -> int:
    return len(list(_by_point(rows)))


def across_table(run: Run) -> Table:
    """The best decrease along every optimizer's direction, a column of the study a column."""
    names = run.measured
    cells = []
    for column in columns(run):
        rows = run.of(column, Search)
        searched = {r.key for r in rows}
        there = [r for r in run.of(column) if r.key in searched]
        far = [mean(r.best_decrease for r in rows if r.algorithm == n) for n in names]
        sharp = [mean(r.sharpness for r in there if r.algorithm == n) for n in names]
        cells.append([*map(number, far), _cosine(ranks(sharp, far).correlation)])
    header = ("", *(f"{task}, {paper.TRAJECTORIES.get(t, t)}" for task, t in columns(run)))
    left = [*map(label, names), "rank correlation with sharpness"]
    lines = [*zip(left, *cells, strict=True)]
    points = "; ".join(
        f"{name}: {_points(run.of(column, Search))}"
        for name, column in zip(header[1:], columns(run), strict=True)
    )
    caption = (
        "Best decrease of the test loss along each direction, in nats: mean over the "
        f"searched points. {points}. Last row: Spearman’s ρ with the mean sharpness there, over "
        "all optimizers; where it is negative, the flatter would go farther."
    )
    return Table("How far each would go", header, lines, caption)


def _shared_line(name: str, measured: Mapping[type, list[Any]]) -> tuple:
    """(mean sharpness, what it is called, its cells)."""
    mine = {t: [r for r in rows if r.algorithm == name] for t, rows in measured.items()}
    of = lambda table, field: mean(getattr(r, field) for r in mine[table])  # noqa: E731
    sharpness = claims.summarize(r.sharpness for r in mine[Sharpness])
    cells = (
        number(of(Sharpness, "slope")),
        plus_minus(sharpness),
        number(of(Sharpness, "ratio")),
        number(of(Sharpness, "predicted_decrease")),
        number(of(Search, "best_decrease")),
        middle(r.critical_step for r in mine[Search]),
        _cosine(of(Sharpness, "cosine_gradient")),
        _cosine(of(Sharpness, "cosine_adam")),
        percent(mean(_dominant(mine[Cosine]))),
        *(percent(mean(_frequent(mine[FrequencyPart], f))) for f in ("slope", "sharpness")),
    )
    return sharpness.mean, label(name), *cells


def _cosine(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.2f}".replace("-", "−")


def _dominant(rows: list[Cosine]) -> Iterable[float]:
    """The share in the dominant subspace, of each point."""
    for mine in _by_point(rows):
        yield math.fsum(r.squared_cosine for r in mine if not math.isnan(r.squared_cosine))


def _frequent(rows: list[FrequencyPart], field: str) -> Iterable[float]:
    """Of each point, the share from the bins that hold the first half of the text's tokens."""
    for mine in _by_point(rows):
        whole, held, found = math.fsum(getattr(r, field) for r in mine), 0.0, 0.0
        for r in sorted(mine, key=lambda r: r.part):
            if held + r.tokens / 2 > 0.5:
                break
            held, found = held + r.tokens, found + getattr(r, field)
        yield found / whole if whole else math.nan


def _by_point(rows: list[Any]) -> Iterable[list[Any]]:
    return claims.grouped((r.key[: len(AtPoint.KEY)], r) for r in rows).values()


def shared_figure(sharpness: pandas.DataFrame, style: plot.Style | None = None) -> Figure:
    """Mean sharpness against mean slope of one column's rows, a mark an optimizer.

    Of those that coincide, only the first has a mark: see `coincident`.
    """
    means = _mean_marks(sharpness)
    hidden = {name for others in coincident(sharpness).values() for name in others}
    figure = plot.atlas(means[~means.algorithm.isin(hidden)], labels=True, style=style)
    axis = figure.axes[0].xaxis  # Slopes span a decade or two, too few for powers of ten alone.
    axis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("{x:g}")
    return figure


def coincident(sharpness: pandas.DataFrame) -> dict[str, list[str]]:
    """[optimizer] -> those after it whose mean slope and sharpness are within 1 % of its own."""
    found: dict[str, list[str]] = {}
    places: dict[str, tuple[float, float]] = {}
    for row in _mean_marks(sharpness).itertuples():
        here = row.slope, row.sharpness
        for name, there in places.items():
            if np.allclose(here, there, rtol=_NEAR, atol=0):
                found.setdefault(name, []).append(row.algorithm)
                break
        else:
            places[row.algorithm] = here
    return found


def _mean_marks(sharpness: pandas.DataFrame) -> pandas.DataFrame:
    by_name = sharpness.groupby("algorithm", sort=False)
    return by_name[["slope", "sharpness"]].mean().reset_index()


def _said_coincident(sharpness: pandas.DataFrame) -> str:
    found = coincident(sharpness).items()
    said = "; ".join(f"{label(n)} also for {', '.join(map(label, them))}" for n, them in found)
    return f" Marks within 1 % of each other are one: {said}." * bool(said)


# --- Each on its own ------------------------------------------------------------------------------


def level_of(rows: list[Own], reached: Mapping[str, float]) -> float:
    """The least test loss that every optimizer comes down to whose run has a final loss.

    Args:
      rows: Of one task and seed.
      reached: Algorithm -> its final loss, inf if it diverged; nan is the level if all did.
    """
    ended = [name for name, loss in reached.items() if math.isfinite(loss)]
    least = [min((r.loss for r in rows if r.algorithm == name), default=math.nan) for name in ended]
    return max((loss for loss in least if not math.isnan(loss)), default=math.nan)


def at_level(rows: list[Own], level: float) -> pandas.DataFrame:
    """`Comparison.at_loss` of records: a row an optimizer, of one task and seed."""
    points: Any = [SimpleNamespace(directions={r.algorithm: r}, step=r.step) for r in rows]
    return at_loss(points, algorithms.in_order(r.algorithm for r in rows), level)


def own_table(run: Run, task: str) -> Table:
    """Each optimizer's rate, the loss it reaches, and its numbers where all have one loss."""
    seed, rows = _of_first_seed(run, task)
    reached = _reached(run, task, seed)
    level = level_of(rows, reached)
    rates = {r.algorithm: r.learning_rate for r in rows}
    found = at_level(rows, level).set_index("algorithm")
    lines = []
    for name in sorted(found.index, key=lambda name: reached.get(name, math.inf)):
        row = found.loc[name]
        values = [row[f] for f in ("step", "slope", "sharpness", "predicted_decrease")]
        values.append(row["update_norm"] / row["newton_step"])
        final = reached.get(name, math.nan)
        said = "diverged" if math.isinf(final) else number(final, 4)
        lines.append((label(name), rates[name], said, *map(number, values)))
    header = (
        *("", "rate", "final training loss", "step there", "slope", "sharpness"),
        *("predicted decrease", "step ratio"),
    )
    unsearched = _unsearched(run, rows)
    known = "; a relative rate is Adafactor’s own and was not searched" if unsearched else ""
    caption = (
        f"Each at the rate of least final loss, the best first{known}. Seed {seed}. Numbers are of "
        f"its update where its own trajectory comes down to a test loss of {number(level, 4)}, the "
        "least that all reach which do not diverge, interpolated between measurements. The step "
        "ratio is ‖u‖/Newton step of the update as it is applied: 1 is the quadratic’s minimum, "
        "beyond 2 it rises."
    )
    return Table(f"Each on its own trajectory: {paper.TASKS[task]}", header, lines, caption)


def _unsearched(run: Run, rows: list[Own]) -> set[str]:
    """Those at a relative rate beside which no other was tried."""
    tried = {(r.task, r.seed, r.algorithm) for r in run[Tuning] if r.learning_rate != RELATIVE}
    own_step = (r for r in rows if r.learning_rate == RELATIVE)
    return {r.algorithm for r in own_step if (r.task, r.seed, r.algorithm) not in tried}


def own_figure(rows: pandas.DataFrame, style: plot.Style | None = None) -> Figure:
    """Sharpness of each optimizer over its own test loss."""
    figure = plot.sharpness(rows, value="sharpness", x="loss", style=style)
    figure.axes[0].set_xlabel("test loss")
    return figure


# --- Do the sharp ones end higher? ----------------------------------------------------------------


class Ranks(NamedTuple):
    """Spearman's correlation of a few pairs, with its interval."""

    correlation: float
    low: float  # 95 %: tanh(artanh ρ ± 1.96·√(1.06/(n − 3))).
    high: float
    count: int


def ranks(a: Iterable[float], b: Iterable[float]) -> Ranks:
    """Spearman's ρ with the interval of Fieller, Hartley and Pearson (1957).

    Pairs with a NaN are left out; infinite values rank last. NaN with fewer than FEWEST pairs, or
    where nothing varies.
    """
    pairs = np.array([(x, y) for x, y in zip(a, b, strict=True) if not math.isnan(x + y)])
    count = len(pairs)
    varied = count >= FEWEST and all(len({*column}) > 1 for column in pairs.T)
    if not varied:
        return Ranks(math.nan, math.nan, math.nan, count)
    rho = float(scipy.stats.spearmanr(*pairs.T).statistic)
    with np.errstate(divide="ignore"):
        z, spread = np.arctanh(np.clip(rho, -1, 1)), 1.96 * math.sqrt(1.06 / (count - 3))
    return Ranks(rho, float(np.tanh(z - spread)), float(np.tanh(z + spread)), count)


def correlation_table(shared: Run | None, own: Run) -> Table | None:
    """How sharpness and predicted decrease rank with the loss reached.

    Args:
      shared: The run on shared trajectories, if there is one.
      own: The run of each optimizer on its own, which has the losses.
    """
    lines: list[tuple] = []
    quantities = _QUANTITIES if shared else _QUANTITIES[:-1]
    correlated = functools.partial(_correlated, quantities)
    for task in own.tasks(Own):
        seed, rows = _of_first_seed(own, task)
        reached = _reached(own, task, seed)
        name = paper.TASKS[task]
        level = level_of(rows, reached)
        at = number(level, 4)
        found = at_level(rows, level).set_index("algorithm").to_dict("index")
        lines.append(correlated(f"{name}, each on its own", at, reached, found))
        unsearched = _unsearched(own, rows)
        searched = {name: loss for name, loss in reached.items() if name not in unsearched}
        if len(reached) > len(searched) >= FEWEST:
            place = f"{name}, each on its own at a searched rate"
            lines.append(correlated(place, at, searched, found))
        for column in columns(shared) if shared else ():
            if column[0] == task:
                means = _means([*shared.of(column), *shared.of(column, Search)], reached)
                lines.append(correlated(paper.column_name(column), "–", reached, means))
    if not lines:
        return None
    caption = (
        "Spearman’s ρ with the mean training loss of the last epoch, each optimizer at the rate of "
        "its own run, with its 95 % interval. Positive: the sharper end higher, as the paper’s "
        "claim would have it; of the predicted decrease the claim is negative. Each on its own: "
        "where its trajectory comes down to the test loss given."
    )
    if _unsearched(own, own[Own]):
        caption += " Adafactor’s relative rate is not searched."
    if shared:
        caption += " The best decrease is the real one along the direction, at the searched points."
    header = ("", "test loss", "optimizers", *(f"ρ of {q.replace('_', ' ')}" for q in quantities))
    return Table("Do the sharp ones end higher?", header, lines, caption)


_QUANTITIES = ("sharpness", "predicted_decrease", "best_decrease")


def _means(rows: list[Any], names: Iterable[str]) -> dict[str, dict[str, float]]:
    """[algorithm][quantity] over all points, of those that are measured there."""
    found = {name: [r for r in rows if r.algorithm == name] for name in names}
    return {
        name: {q: mean(getattr(r, q) for r in mine if hasattr(r, q)) for q in _QUANTITIES}
        for name, mine in found.items()
        if mine
    }


def _correlated(
    quantities: Iterable[str], place: str, level: str, reached: dict, found: Mapping[Any, Any]
) -> tuple:
    names = [name for name in reached if name in found]
    cells = []
    for quantity in quantities:
        values = [found[n].get(quantity, math.nan) for n in names]
        got = ranks(values, [reached[n] for n in names])
        said = interval(got.correlation, got.low, got.high, 2)
        cells.append((said if math.isfinite(got.correlation) else "n/a", got.count))
    return place, level, str(max(count for _, count in cells)), *(said for said, _ in cells)


def _reached(run: Run, task: str, seed: int) -> dict[str, float]:
    losses = claims.final_losses(run[Convergence])
    return {a: loss for (t, s, a), loss in losses.items() if (t, s) == (task, seed)}


def _of_first_seed(run: Run, task: str) -> tuple[int, list[Own]]:
    rows = [r for r in run[Own] if r.task == task]
    seed = min(r.seed for r in rows)
    return seed, [r for r in rows if r.seed == seed]


Draw = Callable[[], Figure]


def figures(run: Run, style: plot.Style) -> Iterable[tuple[str, str, str, Draw]]:
    """(name, title, caption, what draws it) of every figure of an atlas."""
    if has_shared(run):
        sharpness = run.frame(Sharpness)
        for task, trajectory in columns(run):
            rows = sharpness[(sharpness.task == task) & (sharpness.trajectory == trajectory)]
            yield (
                f"atlas_{task}_{trajectory}",
                f"Slope and sharpness: {paper.column_name((task, trajectory))}",
                "Mean over the measured points. Grey lines join directions whose quadratic falls "
                "by equal amounts, slope²/(2·sharpness): further to the lower right goes further. "
                "A triangle on the lower edge is a mean that is zero or negative."
                + _said_coincident(rows),
                lambda rows=rows: shared_figure(rows, style),
            )
    own = run.frame(Own)
    for task in run.tasks(Own):
        rows = own[own.task == task]
        yield (
            f"own_{task}",
            f"Sharpness on each optimizer’s own trajectory: {paper.TASKS[task]}",
            "vᵀHv of its own update over its test loss, which falls to the left, twice an epoch, "
            "each at the rate of least final loss.",
            lambda rows=rows: own_figure(rows, style),
        )
