"""Tables and figures of what explains an update, from a point's records."""

import math
from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure

from experiments import algorithms
from experiments.explanation_rows import (
    BlockDistance,
    BlockRitz,
    BlockSummary,
    Cosine,
    Diagonal,
    Dominant,
    ExactCorrelation,
    FrequencyPart,
    Noise,
    Preconditioned,
    Signal,
)
from experiments.report.recorded import as_result, as_spectrum, by_algorithm
from experiments.report.table import (
    Table,
    interval,
    number,
    percent,
    sign_verdict,
    with_error,
)
from sharpjax import BlockSpectra, GradientNoise, PartStats, plot
from sharpjax.plot import label


def updates(rows: dict[type, list]) -> Table | None:
    """Of each direction: its signal to noise, and its part in the dominant subspace."""
    signals = {r.algorithm: r for r in rows[Signal]}
    whole = {r.algorithm: r for r in rows[Dominant]}
    names = algorithms.in_order([*signals, *whole])
    if not names:
        return None
    lines = []
    for name in names:
        cells = ["–"] * 6
        if name in signals:
            ratio, error = signals[name].signal_to_noise, signals[name].signal_to_noise_se
            cells[0] = f"{number(-ratio)} ± {number(error)}"
        if name in whole:
            r = whole[name]
            values = r.sharpness, r.sharpness_without, r.best_decrease, r.best_decrease_without
            cells[1:] = [percent(r.share), *map(number, values)]
        lines.append((label(name), *cells))
    header = (
        *("", "signal to noise", "in the dominant subspace", "sharpness", "without that part"),
        *("best decrease", "without that part"),
    )
    caption = (
        "Signal to noise of the slope on one example, positive downhill; of B examples √B times as "
        "much."
    )
    if whole:
        count = next(iter(whole.values())).eigenvectors
        caption += (
            f" The dominant subspace: the Hessian’s {count} top eigenvectors. In it: of ‖u‖². Each "
            "direction is of unit length, with that part and without it."
        )
    return Table("Each direction’s noise and its dominant part", header, lines, caption)


def tokens(rows: dict[type, list]) -> Table | None:
    """What each bin of token frequency contributes to slope and sharpness."""
    parts = rows[FrequencyPart]
    if not parts:
        return None
    bins = {r.part: r for r in parts}
    lines = []
    for name, its in by_algorithm(parts).items():
        mine = {r.part: r for r in its}
        slope = sum(r.slope for r in mine.values())
        sharpness = sum(r.sharpness for r in mine.values())
        cells = (
            f"{_share(mine[p].slope, slope)} / {_share(mine[p].sharpness, sharpness)}"
            for p in sorted(bins)
        )
        lines.append((label(name), *cells))
    header = ("", *(f"ranks {bins[p].ranks}" for p in sorted(bins)))
    shares = ", ".join(_share(bins[p].tokens, 1) for p in sorted(bins))
    caption = (
        "Per cent of the slope / of the sharpness, of the targets by how frequent their token is "
        f"in the training text; rank 1 is the most frequent. The bins hold {shares} of its tokens."
    )
    return Table("Which tokens make slope and sharpness", header, lines, caption)


def point(rows: dict[type, list]) -> Table | None:
    """What has one number a point: stability, noise, the conjecture without probes, blocks."""
    lines: list[tuple[str, ...]] = []
    if rows[Preconditioned]:
        top = max(rows[Preconditioned], key=lambda r: r.eigenvalue)
        lines.append(("preconditioned sharpness, Adam’s", with_error(top.eigenvalue, top.residual)))
        if math.isfinite(top.edge):
            lines.append(("the edge of Adam’s stability", number(top.edge)))
            lines.append(("of the edge", _share(top.eigenvalue, top.edge)))
    for r in rows[Noise]:
        lines.append(("noise trΣ", with_error(r.trace, r.trace_se)))
        lines.append(("‖G‖²", with_error(r.squared_norm, r.squared_norm_se)))
        lines.append(("noise scale, examples", with_error(r.noise_scale, r.noise_scale_se)))
    names = {"batch": "training batch’s", "test": "test loss’s"}
    for r in sorted(rows[ExactCorrelation], key=lambda r: r.gradient):
        said = f"{interval(r.correlation, r.low, r.high)}, {sign_verdict(r.low, r.high)}"
        lines.append((f"ρ of |gᵢ| with |Hᵢᵢ|, exact, {names[r.gradient]} gradient", said))
    for r in rows[BlockSummary]:
        said = with_error(r.distance, r.distance_se)
        lines.append((f"mean distance of {r.blocks} blocks’ spectra, 0 to 0.83", said))
    if not lines:
        return None
    caption = (
        "± the standard error; of the preconditioned sharpness, within how much an eigenvalue is. "
        "The preconditioned sharpness is the largest eigenvalue of P^(−½)HP^(−½), P = √v̂ + ε. The "
        "correlation is Spearman’s over all coordinates, from a sample in strata of |gradient| "
        "whose Hessian diagonal is exact, with its 95 % interval."
    )
    return Table("What else decides an update, at this point", ("", "value"), lines, caption)


def _share(value: float, whole: float) -> str:
    return percent(value / whole if whole else math.nan, 0)


def frequency_figure(rows: dict[type, list]) -> Figure:
    """Each bin's share of slope and sharpness, a line a direction."""
    parts = sorted(rows[FrequencyPart], key=lambda r: r.part)
    found = {name: as_result(PartStats, its) for name, its in by_algorithm(parts).items()}
    return plot.parts(found, list(dict.fromkeys(r.ranks for r in parts)))


def preconditioned_figure(rows: dict[type, list]) -> Figure:
    """The density of the preconditioned Hessian's eigenvalues, and the edge of stability."""
    edge = rows[Preconditioned][0].edge
    found = as_spectrum(rows[Preconditioned])
    return plot.spectrum(found, edge=edge if math.isfinite(edge) else None)


def noise_figure(rows: dict[type, list]) -> Figure:
    """Each direction's signal to noise; the noise scale."""
    (whole,) = rows[Noise]
    signals = by_algorithm(rows[Signal])
    ratios = {
        field: {name: getattr(row, field) for name, (row,) in signals.items()}
        for field in ("signal_to_noise", "signal_to_noise_se")
    }
    scalars = {f: getattr(whole, f) for f in GradientNoise.__dataclass_fields__ if f not in ratios}
    return plot.noise(GradientNoise(**scalars, **ratios))


def dominant_figure(rows: dict[type, list]) -> Figure:
    """The share of each direction in the span of the top eigenvectors, over their number."""
    cosines = by_algorithm(sorted(rows[Cosine], key=lambda r: r.index))
    return plot.dominant(
        {name: np.array([r.squared_cosine for r in mine]) for name, mine in cosines.items()}
    )


def diagonal_figure(rows: dict[type, list]) -> Figure:
    """|gᵢ| against |Hᵢᵢ|, each sampled coordinate as many as it stands for."""
    columns = ("gradient", "diagonal", "weight")
    gradient, diagonal, weight = (
        np.array([getattr(r, column) for r in rows[Diagonal]]) for column in columns
    )
    said = [
        f"ρ = {interval(r.correlation, r.low, r.high, 2)}"
        for r in rows[ExactCorrelation]
        if r.gradient == "batch"
    ]
    title = "\n".join(["Training batch’s gradient", *said])
    return plot.diagonal(gradient, diagonal, weights=weight, title=title)


def block_figure(rows: dict[type, list]) -> Figure:
    """The density of each block's eigenvalues, a row of shades each."""
    sizes = {(r.layer, r.kind): r.parameters for r in rows[BlockRitz]}
    at = {block: i for i, block in enumerate(sizes)}
    each = [
        as_spectrum([r for r in rows[BlockRitz] if (r.layer, r.kind) == block]) for block in sizes
    ]
    fields = ("eigenvalues", "weights", "residuals")
    table = [np.stack([getattr(found, field) for found in each]) for field in fields]
    distances = np.zeros((len(at), len(at)))
    for r in rows[BlockDistance]:
        distances[at[r.layer, r.kind], at[r.other_layer, r.other_kind]] = r.distance
    (summary,) = rows[BlockSummary]
    mean = np.asarray(summary.distance), np.asarray(summary.distance_se)
    return plot.spectrum(BlockSpectra(tuple(at), tuple(sizes.values()), *table, distances, *mean))


# As `anatomy_figures` has them: the table that must have rows, the kind, title, caption, maker.
FIGURES: tuple[tuple[type, str, str, str, Callable[[dict], Figure]], ...] = (
    (
        FrequencyPart,
        "anatomy_frequency",
        "Which tokens make slope and sharpness",
        "The test loss split by how frequent the target token is in the training text; ranks from "
        "1, the most frequent. Shares of the sum of magnitudes, with their standard errors over "
        "micro-batches.",
        frequency_figure,
    ),
    (
        Preconditioned,
        "anatomy_preconditioned",
        "The Hessian’s spectrum as Adam sees it",
        "Eigenvalues of P^(−½)HP^(−½), P = √v̂ + ε of Adam at this point, as the Hessian’s own "
        "spectrum is drawn. Dashed, where Adam trains: the edge (2 + 2β₁)/((1 − β₁)η), beyond "
        "which it is unstable.",
        preconditioned_figure,
    ),
    (
        Signal,
        "anatomy_noise",
        "How much of each direction’s slope is signal",
        "Gᵀu/√(uᵀΣu) of the test loss’s gradient G and the covariance Σ of one example’s, positive "
        "downhill, with its standard error (jackknife over micro-batches). The noise scale is the "
        "batch at which the whole gradient’s signal and noise are equal.",
        noise_figure,
    ),
    (
        Cosine,
        "anatomy_dominant",
        "How much of each direction lies in the dominant subspace",
        "Share of ‖u‖² in the span of the Hessian’s top eigenvectors, the largest eigenvalue’s "
        "first.",
        dominant_figure,
    ),
    (
        ExactCorrelation,
        "anatomy_exact_diagonal",
        "The conjecture without probes",
        "Coordinates drawn in strata of |gᵢ|, each counted as many times as it stands for, and "
        "their exact |Hᵢᵢ|.",
        diagonal_figure,
    ),
    (
        BlockSummary,
        "anatomy_block_spectra",
        "How blocks of tensors differ",
        "The density of the eigenvalues of each diagonal block of the Hessian; darker is denser.",
        block_figure,
    ),
)
