"""The tables of an anatomy: of one point's rows, or of all points of a column."""

import math
from collections import defaultdict
from collections.abc import Callable

from experiments import paper
from experiments.anatomy_rows import Block, Clipped, Correlation, Decrease, Lorenz, Parts, Ritz
from experiments.report.claims import grouped, summarize
from experiments.report.recorded import as_spectrum, by_algorithm, in_order, is_span
from experiments.report.table import Table, interval, number, percent, plus_minus, sign_verdict
from experiments.rows import one
from sharpjax.plot import label


def context(rows: dict[type, list]) -> Table | None:
    """Each algorithm's sharpness, as a fraction of λ_max, and what it is made of."""
    if not rows[Parts]:
        return None
    largest = residual = math.nan
    if rows[Ritz]:
        largest, residual = as_spectrum(rows[Ritz]).largest
    lines = []
    for algorithm in by_algorithm(rows[Parts]):
        part = one(rows[Parts], algorithm=algorithm)
        top = one(rows[Lorenz], algorithm=algorithm, fraction=0.05)
        blocks = [r for r in rows[Block] if r.algorithm == algorithm]
        own = [r for r in blocks if (r.layer, r.kind) == (r.other_layer, r.other_kind)]
        within = sum(r.sharpness for r in own) / part.sharpness if blocks else math.nan
        values = (
            number(part.sharpness),
            number(part.sharpness_se),
            number(part.sharpness / largest),
            percent(part.gauss_newton / part.sharpness),
            percent(top.share if top else math.nan),
            percent(within),
        )
        lines.append((label(algorithm), *values))
    header = (
        *("", "sharpness", "± standard error", "of λ max", "Gauss–Newton"),
        *("in the top 5 % of the gradient", "within blocks"),
    )
    caption = (
        "Percentages are of vᵀHv: above 100 % or below 0 where the rest has the opposite sign. λ "
        f"max is {number(largest)}; an eigenvalue lies within {number(residual)} of it."
    )
    return Table("Each direction’s sharpness in context", header, lines, caption)


def conjecture(rows: dict[type, list]) -> Table | None:
    """The rank correlations of |gᵢ| with |Hᵢᵢ|, and whether the conjecture held."""
    names = {"batch": "training batch’s gradient", "test": "test loss’s gradient"}
    lines, verdicts = [], []
    for gradient, name in names.items():
        for scope in ("overall", "within tensors"):
            r = one(rows[Correlation], gradient=gradient, scope=scope)
            if r is None:
                continue
            cells = (
                interval(r.unbiased, r.unbiased_low, r.unbiased_high),
                interval(r.correlation, r.low, r.high),
                f"{r.control:.3f}".replace("-", "−"),
                f"{r.reliability:.2f}".replace("-", "−"),
                percent(r.resolved),
            )
            lines.append((f"{name}, {scope}", *cells))
            held = sign_verdict(r.unbiased_low, r.unbiased_high)
            verdicts.append(f"{held} {scope} for the {name}")
    if not lines:
        return None
    header = ("", "ρ with Hᵢᵢ², unbiased", "ρ with |Hᵢᵢ|", "noise alone", "reliability", "resolved")
    count = rows[Correlation][0]
    caption = (
        f"The conjecture (large |gradient| meets large |Hessian diagonal|) {'; '.join(verdicts)}. "
        "It is held where the whole 95 % interval of the first column is positive. ρ is Spearman’s "
        f"rank correlation with |gradient|, from {count.probes} random probes. The probes’ noise "
        "has the size of a Hessian row, so the second column counts only as far as it exceeds the "
        "third; the first is zero on average where the diagonal is zero, and noise pulls it "
        "towards zero. Reliability: of the signed estimate, by halves of the probes. Resolved: "
        "estimates above two of their standard errors (5 % by chance)."
    )
    return Table(
        "Do large gradient coordinates meet large Hessian coordinates?", header, lines, caption
    )


def span(rows: dict[type, list]) -> Table | None:
    """Decreases of the test loss, real and promised."""
    if not rows[Decrease]:
        return None
    lines = []
    for r in in_order(rows[Decrease]):
        name = "best step in the span" if is_span(r.algorithm) else label(r.algorithm)
        values = (r.best_decrease, r.best_step, r.predicted_decrease, r.model_decrease)
        lines.append((name, *map(number, values)))
    header = ("", "best decrease", "its distance", "model’s promise", "loss at the model’s step")
    caption = (
        "Decreases of the test loss in nats. The span’s step is chosen with the test loss’s own "
        "slope and curvature, which no optimizer sees."
    )
    return Table("How far down, alone and together", header, lines, caption)


def clipping(rows: dict[type, list]) -> Table | None:
    """The best clipped fraction of each curve, beside 5 % and none."""
    lines = []
    for quantity in dict.fromkeys(r.quantity for r in rows[Clipped]):
        for scope, words in (("global", "one threshold"), ("tensor", "a threshold a tensor")):
            curve = _curve(rows, quantity, scope)
            if not curve:
                continue
            best = max(curve, key=lambda r: r.best_decrease)
            five, none = one(curve, fraction=0.05), one(curve, fraction=0.0)
            at = lambda r: number(r.best_decrease) if r else "–"  # noqa: E731
            cells = (f"{100 * best.fraction:g} %", at(best), at(five), at(none))
            lines.append((f"{quantity}, {words}", *cells))
    if not lines:
        return None
    header = ("", "best fraction", "its best decrease", "at 5 %", "unclipped")
    caption = "Best decrease of the test loss along SGD’s momentum or the gradient, clipped."
    return Table("How much to clip", header, lines, caption)


def _curve(rows: dict[type, list], quantity: str, scope: str) -> list[Clipped]:
    return [r for r in rows[Clipped] if (r.quantity, r.scope) == (quantity, scope)]


def summary(places: dict[tuple, dict[type, list]]) -> Table | None:
    """What the paper's three claims rest on: a point a column, cells of the tables above."""
    lines = []
    for said, (make, row, column) in _SUMMARY.items():
        made = [make(rows) for rows in places.values()]
        lines.append((said, *(_cell(table, row, column) for table in made)))
    names = (f"{paper.column_name(p[:2])}, epoch {p[3]}, batch {p[4]}" for p in places)
    caption = (
        "Shares are of vᵀHv along each algorithm’s direction; the correlation is Spearman’s of the "
        "training batch’s |gradient| with the squared Hessian diagonal, with its 95 % interval; "
        "decreases are of the test loss in nats."
    )
    return Table("The anatomy in short", ("", *names), lines, caption) if places else None


_SUMMARY = {
    **{
        f"{name}: {what}": (context, name, column)
        for what, column in (
            ("sharpness as a fraction of λ max", "of λ max"),
            ("share in the top 5 % of the gradient", "in the top 5 % of the gradient"),
            ("share within blocks", "within blocks"),
            ("Gauss–Newton share", "Gauss–Newton"),
        )
        for name in ("SGD", "SGD, clipped", "Adam")
    },
    **{
        f"rank correlation, {scope}": (
            conjecture,
            f"training batch’s gradient, {scope}",
            "ρ with Hᵢᵢ², unbiased",
        )
        for scope in ("overall", "within tensors")
    },
    **{
        f"clipping SGD’s momentum: {column}": (clipping, "momentum, one threshold", column)
        for column in ("best fraction", "its best decrease", "at 5 %", "unclipped")
    },
    **{
        f"best decrease: {row}": (span, row, "best decrease")
        for row in ("SGD", "Adam", "best step in the span")
    },
}


def several(places: dict[tuple, dict[type, list]]) -> Table | None:
    """Top coordinates and clipping over the points of each column that has more than one."""
    columns = grouped((place[:2], rows) for place, rows in places.items())
    columns = {column: points for column, points in columns.items() if len(points) > 1}
    found = {
        said: [
            [v for rows in points if math.isfinite(v := of(rows))] for points in columns.values()
        ]
        for said, of in _SEVERAL.items()
    }
    lines = [
        (said, *(plus_minus(summarize(values)) if values else "–" for values in cells))
        for said, cells in found.items()
        if any(cells)
    ]
    if not lines:
        return None
    names = (f"{paper.column_name(c)}, {len(p)} points" for c, p in columns.items())
    caption = (
        "Mean ± standard deviation over points of any epoch, batch and seed. Shares are of vᵀHv, "
        "in per cent; decreases are the best of the test loss along SGD’s momentum, in nats, with "
        "one threshold for all tensors; ratios are taken point by point."
    )
    return Table("Top coordinates and clipping, over several points", ("", *names), lines, caption)


def _in_the_top(algorithm: str) -> Callable[[dict[type, list]], float]:
    def share(rows: dict[type, list]) -> float:
        row = one(rows[Lorenz], algorithm=algorithm, fraction=0.05)
        return 100 * row.share if row else math.nan

    return share


def _decreases(rows: dict[type, list]) -> dict[float, float]:
    """The best decrease along SGD's momentum, by the fraction clipped; nan where none is known."""
    curve = _curve(rows, "momentum", "global")
    return defaultdict(lambda: math.nan, ((r.fraction, r.best_decrease) for r in curve))


def _best(rows: dict[type, list]) -> float:
    return max(_decreases(rows).values(), default=math.nan)


_SEVERAL: dict[str, Callable[[dict[type, list]], float]] = {
    **{
        f"{label(name)}: per cent in the top 5 % of the gradient": _in_the_top(name)
        for name in paper.ALGORITHMS
    },
    "unclipped: best decrease": lambda rows: _decreases(rows)[0.0],
    "5 % clipped: best decrease": lambda rows: _decreases(rows)[0.05],
    "all clipped: best decrease": lambda rows: _decreases(rows)[1.0],
    "best fraction: best decrease": _best,
    "5 % clipped, of unclipped": lambda rows: _decreases(rows)[0.05] / _decreases(rows)[0.0],
    "best fraction, of 5 % clipped": lambda rows: _best(rows) / _decreases(rows)[0.05],
}


def _cell(table: Table | None, row: str, column: str) -> str:
    lines = [line for line in table.rows if line[0] == row] if table else []
    return lines[0][table.header.index(column)] if lines else "–"
