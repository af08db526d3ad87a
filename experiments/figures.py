"""The paper's figures, drawn from records alone."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.interpolate import PchipInterpolator

from experiments import algorithms, claims, paper, records
from experiments.look import COLOURS, Drawn, Look, marker_key, write


def draw_all(directory: Path | str) -> list[Drawn]:
    """Draws every figure that the records of `directory` allow, in the report's order."""
    sharpness = records.read(directory, records.Sharpness)
    landscape = records.read(directory, records.Landscape)
    histogram = records.read(directory, records.Histogram)
    convergence = records.read(directory, records.Convergence)
    drawn = []

    def save(name: str, title: str, caption: str, draw: Callable[[], Figure]) -> None:
        drawn.append(Drawn(name, title, caption, *write(directory, name, draw)))

    if sharpness:
        save(
            "sharpness_ratios",
            "Directional sharpness beside SGD’s (Tables 3 to 6)",
            "Mean of sharpness/|SGD’s sharpness| over the measured batches and seeds, with their "
            "standard deviation; hollow: the paper’s value. A triangle on the lower edge is a mean "
            "that is zero or negative.",
            lambda: ratio_figure(sharpness),
        )
    for column in paper.columns(landscape):
        number = paper.FIGURE.get(column)
        for epoch in sorted({r.epoch for r in landscape if (r.task, r.trajectory) == column}):
            rows = [r for r in landscape if (r.task, r.trajectory, r.epoch) == (*column, epoch)]
            rows = [r for r in rows if (r.seed, r.batch) == (rows[0].seed, rows[0].batch)]
            there = _at(rows[0])
            points = {r.algorithm: r for r in sharpness if _at(r) == there}
            save(
                f"landscape_{column[0]}_{column[1]}_epoch{epoch:02d}",
                f"Loss along each direction: {paper.column_name(column)}, epoch {epoch}, "
                f"batch {rows[0].batch}" + (f" (Figure {number})" if number else ""),
                "Test loss at a distance along each algorithm’s unit direction; lines join the "
                "measured losses by monotone cubics. Filled: the lowest loss found; hollow: where "
                "the quadratic model (slope, sharpness) has its minimum, a triangle on the lower "
                "edge if that lies below.",
                lambda rows=rows, points=points: landscape_figure(rows, points),
            )
    for column in paper.columns(histogram):
        rows = [r for r in histogram if (r.task, r.trajectory) == column]
        rows = [r for r in rows if _at(r) == _at(rows[0])]
        save(
            f"histogram_{column[0]}_{column[1]}",
            f"Coordinates of SGD’s momentum and of the updates: {paper.column_name(column)}, "
            f"epoch {rows[0].epoch}, batch {rows[0].batch} (Figure 1)",
            "How many coordinates have which magnitude, both axes logarithmic. Updates are "
            "divided by their root mean square, since algorithms have their own scales; what is "
            "exactly zero lies left of both axes.",
            lambda rows=rows: histogram_figure(rows),
        )
    for task in [t for t in paper.TASKS if any(r.task == t for r in convergence)]:
        rows = [r for r in convergence if r.task == task]
        save(
            f"convergence_{task}",
            f"Training loss of the {paper.seven(r.algorithm for r in rows)}algorithms: "
            f"{paper.TASKS[task]} (Figure 4)",
            "Mean training loss of each epoch, mean over seeds. A cross: the run diverged there, "
            "on the upper edge if its loss had left the picture.",
            lambda rows=rows: convergence_figure(rows),
        )
    return drawn


def ratio_figure(rows: list[records.Sharpness]) -> Figure:
    """Ratios over epochs, a panel for each (task, trajectory), the paper's beside."""
    columns = paper.columns(rows)
    across = min(2, len(columns))
    down = math.ceil(len(columns) / across)
    figure = Figure(figsize=(1 + 4.3 * across, 0.9 + 3.3 * down), layout="constrained")
    summaries = claims.group(rows, ("task", "trajectory", "epoch", "algorithm"), "ratio")
    names = algorithms.in_order(r.algorithm for r in rows)
    look = Look(names)
    for place, column in enumerate(columns, start=1):
        axes = figure.add_subplot(down, across, place)
        epochs = sorted({key[2] for key in summaries if key[:2] == column})
        axes.set_yscale("log")
        for index, algorithm in enumerate(names):
            shift = (index - (len(names) - 1) / 2) * 0.07 * min(1, 7 / len(names))
            style = look.line(algorithm)
            x, y, low, high, below = [], [], [], [], []
            for at, epoch in enumerate(epochs):
                summary = summaries.get((*column, epoch, algorithm))
                printed = paper.SHARPNESS_RATIO.get((*column, epoch), {}).get(algorithm)
                if printed is not None:
                    axes.plot(at + shift + 0.03, printed, **look.hollow(algorithm, "o"), zorder=4)
                if summary is None:
                    continue
                if summary.mean <= 0:
                    below.append(at + shift)
                elif math.isfinite(summary.mean):
                    sd = 0.0 if math.isnan(summary.sd) else summary.sd
                    x.append(at + shift)
                    y.append(summary.mean)
                    low.append(min(sd, 0.999 * summary.mean))
                    high.append(sd)
            if x:
                axes.errorbar(x, y, (low, high), marker="o", ms=4, elinewidth=1, **style)
            edge = axes.get_xaxis_transform()
            axes.plot(below, [0.02] * len(below), **look.hollow(algorithm, "v"), transform=edge)
        axes.set_xticks(range(len(epochs)), [str(e) for e in epochs])
        axes.set_xlim(-0.4, len(epochs) - 0.6)
        bottom = [s.mean for key, s in summaries.items() if key[:2] == column and s.mean > 0]
        printed = [paper.SHARPNESS_RATIO.get((*column, epoch), {}) for epoch in epochs]
        bottom += [cell[a] for cell in printed for a in names if a in cell]
        axes.set_ylim(min(bottom, default=1e-6) / 4, None)
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(paper.column_name(column))
        if (place - 1) // across == down - 1:
            axes.set_xlabel("epoch")
        if (place - 1) % across == 0:
            axes.set_ylabel("sharpness / |SGD’s|")
    extra = [marker_key("o", "the paper’s value", hollow=True)]
    look.legend(figure, names, extra)
    return figure


def landscape_figure(rows: list[records.Landscape], points: dict[str, records.Sharpness]) -> Figure:
    """Loss against distance: without Adafactor on a linear axis, all on a logarithmic one."""
    figure = Figure(figsize=(9.6, 4.3), layout="constrained")
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if math.isfinite(row.loss):
            curves.setdefault(row.algorithm, []).append((row.step, row.loss))
    curves = {a: sorted(curves[a]) for a in algorithms.in_order(curves)}
    look = Look(curves)
    start = next((loss for curve in curves.values() for step, loss in curve if step == 0), math.nan)
    plain = {a: c for a, c in curves.items() if not a.startswith("adafactor")}
    for place, (shown, title) in enumerate(
        (
            (plain, "without Adafactor" if len(plain) < len(curves) else "linear step"),
            (curves, f"all {paper.seven(curves)}".strip() + ", logarithmic step"),
        ),
        start=1,
    ):
        axes = figure.add_subplot(1, 2, place)
        logarithmic = place == 2
        if not shown:
            axes.set_axis_off()
            continue
        minima = {
            a: (p.newton_step, p.loss - p.predicted_decrease)
            for a, p in points.items()
            if a in shown and 0 < p.newton_step < math.inf and math.isfinite(p.predicted_decrease)
        }
        lowest = min(loss for curve in shown.values() for _, loss in curve)
        depth = (start - lowest) or 1e-3
        deepest = min([lowest, *(loss for _, loss in minima.values())])
        bottom = max(deepest, lowest - 0.6 * depth) - 0.1 * depth
        top = start + 0.25 * depth
        steps = _steps(shown, [step for step, _ in minima.values()], logarithmic)
        axes.axhline(start, color="#999999", linewidth=0.8, zorder=1)
        for algorithm, curve in shown.items():
            if len(curve) > 1:
                seen = steps[steps <= curve[-1][0]]
                loss = PchipInterpolator(*zip(*curve, strict=True))(seen)
                axes.plot(seen, loss, **look.line(algorithm))
            step, loss = min(curve, key=lambda at: at[1])
            if step > 0 or not logarithmic:
                axes.plot(step, loss, "o", ms=5, color=look.colour(algorithm), zorder=4)
        for algorithm, (step, loss) in minima.items():
            marker = "D" if loss > bottom else "v"
            at = max(loss, bottom + 0.02 * (top - bottom))
            axes.plot(step, at, **look.hollow(algorithm, marker), zorder=5)
        axes.set_ylim(bottom, top)
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xlim(steps[0], steps[-1])
        axes.set_title(title)
        axes.set_xlabel("step along the unit direction")
        if place == 1:
            axes.set_ylabel("test loss")
    extra = [
        marker_key("o", "lowest loss found"),
        marker_key("D", "quadratic model’s minimum", hollow=True),
    ]
    look.legend(figure, curves, extra)
    return figure


def histogram_figure(rows: list[records.Histogram]) -> Figure:
    """|SGD's momentum| as in Figure 1, and every algorithm's |update| as lines."""
    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    momentum = [r for r in rows if r.quantity == "momentum"]
    gradient = [r for r in rows if r.quantity == "gradient"]
    axes = figure.add_subplot(1, 2, 1)
    if momentum:
        finite = [r for r in momentum if math.isfinite(r.lower) and r.count]
        total = sum(r.count for r in momentum)
        width = finite[0].upper - finite[0].lower if finite else 1.0
        if finite:  # A last bin without an end is drawn as wide as the others.
            axes.bar(
                [r.lower for r in finite],
                [r.count for r in finite],
                width,
                align="edge",
                color=COLOURS["sgd"],
                edgecolor=COLOURS["sgd"],
                linewidth=0.4,
            )
        least = [r for r in momentum if not math.isfinite(r.lower)]
        if least:
            share = 100 * sum(r.count for r in least) / total
            text = f"{share:.3g} % zero or\nbelow $10^{{{max(r.upper for r in least):g}}}$"
            axes.text(0.03, 0.95, text, transform=axes.transAxes, va="top", fontsize=9)
    if gradient:
        axes.plot(*_outline(gradient), color="#333333", linewidth=1.1)
    _powers(axes, "magnitude", "coordinates")
    axes.set_title("SGD’s momentum (bars) and the gradient (line)")
    axes = figure.add_subplot(1, 2, 2)
    updates = algorithms.in_order(r.algorithm for r in rows if r.quantity == "update")
    look = Look(updates)
    for algorithm in updates:
        mine = [r for r in rows if r.quantity == "update" and r.algorithm == algorithm]
        x, y = _outline(mine)
        scale = _log_rms(mine)
        axes.plot([value - scale for value in x], y, **look.line(algorithm) | {"linewidth": 1.2})
    _powers(axes, "|update| / its root mean square", "")
    axes.set_title("every algorithm’s update")
    look.legend(figure, updates or ["sgd"], [])
    return figure


def convergence_figure(rows: list[records.Convergence]) -> Figure:
    """Training loss of each epoch; a cross where a run diverged."""
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    by_epoch = claims.group([r for r in rows if not r.diverged], ("algorithm", "epoch"), "loss")
    curves = {
        algorithm: sorted(
            (epoch, s.mean)
            for (a, epoch), s in by_epoch.items()
            if a == algorithm and math.isfinite(s.mean)
        )
        for algorithm in algorithms.in_order(r.algorithm for r in rows)
    }
    look = Look(curves)
    # A run that explodes before it diverges would flatten all the others: it leaves at the top.
    top = 1.05 * max((curve[0][1] for curve in curves.values() if curve), default=1.0)
    ends = []
    for algorithm, curve in curves.items():
        lost = [r.epoch for r in rows if r.algorithm == algorithm and r.diverged]
        if curve:
            # A hollow dot is seen on the line of an unclipped form that runs the same way.
            face = {"mfc": "white"} if algorithm != algorithms.family(algorithm) else {}
            style = face | look.line(algorithm)
            axes.plot(*zip(*curve, strict=True), marker="o", ms=3.5, **style)
        if lost:
            epoch, loss = curve[-1] if curve else (min(lost), math.inf)
            axes.plot(epoch, min(loss, 0.99 * top), "x", ms=9, mew=2, color=look.colour(algorithm))
        if curve or lost:
            ends.append((curve[-1][1] if curve else math.inf, algorithm))
    if any(loss > top for curve in curves.values() for _, loss in curve):
        axes.set_ylim(max(0.0, axes.get_ylim()[0]), top)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    order = [algorithm for _, algorithm in sorted(ends, reverse=True)]
    look.legend(figure, order, [], beside=True)
    return figure


def _at(row: records.Cell) -> tuple:
    return row.task, row.trajectory, row.seed, row.epoch, row.batch


def _steps(curves: dict, newton: list[float], logarithmic: bool) -> np.ndarray:
    """An axis with every algorithm's best step; the search for it may have tried far larger ones.

    The quadratic models' steps stay on it as long as that does not squeeze the curves.
    """
    best = [min(curve, key=lambda at: at[1])[0] for curve in curves.values()]
    best = [s for s in best if s > 0] or [s for c in curves.values() for s, _ in c if s > 0] or [1]
    if logarithmic:
        return np.geomspace(min(best) / 10, 4 * max(best), 400)
    far = max([1.6 * max(best), *(1.1 * step for step in newton)])
    return np.linspace(0, min(far, 2.5 * max(best)), 400)


def _outline(rows: list[records.Histogram]) -> tuple[list[float], list[float]]:
    """Middles and counts of the bins, with the empty ones, that are not recorded, beside gaps."""
    finite = [r for r in rows if math.isfinite(r.lower) and math.isfinite(r.upper) and r.count]
    x, y, end = [], [], math.inf
    for r in sorted(finite, key=lambda r: r.lower):
        half = (r.upper - r.lower) / 2
        if r.lower > end + half:
            x += [end + half, r.lower - half]
            y += [0, 0]
        x.append(r.lower + half)
        y.append(r.count)
        end = r.upper
    return x, y


def _log_rms(rows: list[records.Histogram]) -> float:
    """log10 of the root mean square of the binned magnitudes."""
    x, y = _outline(rows)
    total = sum(r.count for r in rows)
    return math.log10(sum(c * 100**v for v, c in zip(x, y, strict=True)) / total) / 2 if x else 0.0


def _powers(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.6)  # One coordinate shows; none falls off.
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
