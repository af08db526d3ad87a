"""What padding does to translation's sharpness: tables, a figure and report.md of a padding study.

Each arm is a run from the same start on the same texts; only their padding differs.
"""

import dataclasses
import functools
import math
from pathlib import Path

from matplotlib.figure import Figure

from experiments import paper, records
from experiments.anatomy_rows import Lorenz
from experiments.explanation_rows import PaddingGroup, PaddingPart
from experiments.report import arms as of_arms
from experiments.report import claims, facts, figure_files
from experiments.report.recorded import Run, by_algorithm
from experiments.report.table import Table, number, percent
from experiments.rows import Sharpness, one
from sharpjax import plot
from sharpjax.plot import label

KINDS = ("masked", "attended", "counted")
COLUMN = ("translation", "sgd")


@dataclasses.dataclass(frozen=True)
class Arm:
    """A run with one kind of padding."""

    run: Run
    kind: str  # One of KINDS.
    length: int  # Tokens that sources are padded to.
    source: float  # Share of the source's positions that are padding.
    target: float  # Share of the counted targets that are padding.

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.length} tokens"

    @property
    def visible(self) -> float:
        """Share of padding in what the model sees: of the targets where they count it."""
        return {"masked": 0.0, "attended": self.source, "counted": self.target}[self.kind]

    @functools.cached_property
    def means(self) -> dict[tuple[str, str], claims.Summary]:
        """(column, algorithm) -> summary over measured batches of all epochs and seeds."""
        return claims.means(self.run.of(COLUMN), ("algorithm",))


def arms(folder: Path) -> list[Arm]:
    """The runs in a folder's folders, by kind and share of padding."""
    found = []
    for path in sorted(folder.glob(f"*/{Sharpness.FILE}")):
        run = Run(path.parent)
        about = run.provenance.get("tasks", {}).get("translation", {})
        if "padding" in about:
            length, shares = about["source_length"], ("source_padding", "target_padding")
            found.append(Arm(run, about["padding"], length, *(about[k] for k in shares)))
    return sorted(found, key=lambda arm: (KINDS.index(arm.kind), arm.length))


def ratio_table(found: list[Arm]) -> Table:
    """Shares of padding, loss, SGD's sharpness and the ratios to it, an arm a row."""
    rows = [
        (arm.name, percent(arm.source), percent(arm.target), *of_arms.cells(arm.means))
        for arm in found
    ]
    measured = {r.epoch for r in _rows(found)}
    for epoch in (e for e in paper.EPOCHS if e in measured):
        cells = of_arms.paper_cells(COLUMN[0], paper.SHARPNESS_RATIO[*COLUMN, epoch])
        rows.append((f"the paper, epoch {epoch}", "–", "–", *cells))
    header = ("", "padding of the source", "of the targets that count", *of_arms.HEADER)
    epochs = ", ".join(map(str, sorted(measured)))
    caption = (
        f"SGD trajectory, epoch {epochs}: mean ± standard deviation over the measured batches; "
        "ratios are to SGD’s sharpness. The paper’s: Table 3, and SGD’s sharpness of Figure 2, "
        "whose epoch it does not name."
    )
    return Table("Sharpness by padding", header, rows, caption)


def distance_table(found: list[Arm]) -> Table | None:
    """The share of the distance to the paper's ratios that padding goes from the masked arm."""
    masked = next((arm for arm in found if arm.kind == "masked"), None)
    printed = {e: paper.SHARPNESS_RATIO.get((*COLUMN, e)) for e in {r.epoch for r in _rows(found)}}
    if masked is None or len(printed) != 1 or None in printed.values():
        return None
    (theirs,) = printed.values()
    others = ((arm.name, of_arms.ratios(arm.means)) for arm in found if arm is not masked)
    title = "Share of the distance to the paper"
    return of_arms.distance_table(title, of_arms.ratios(masked.means), others, theirs)


def group_table(found: list[Arm], algorithm: str = "sgd") -> Table | None:
    """What each group of coordinates contributes to a direction's sharpness, an arm a column."""
    points, names = _grouped(found, algorithm)
    if not points:
        return None

    def cell(made: dict[str, Group], name: str) -> str:
        if name not in made:
            return "–"
        group = made[name]
        return f"{number(group.sharpness)} ({percent(group.share)}; {percent(group.squared_norm)})"

    rows = [(name, *(cell(made, name) for _, made in points)) for name in names]
    totals = (number(sum(g.sharpness for g in made.values())) for _, made in points)
    rows.append(("together", *totals))
    caption = (
        "Contributions vᵢᵀ(Hv)ᵢ to vᵀHv, nats per squared unit of distance; in parentheses the "
        "share of vᵀHv and the share of ‖v‖². Norms, relative positions and cross-attention are "
        "those of both stacks; encoder and decoder are their other attention and feed-forward "
        "layers."
    )
    title = f"Which coordinates: {label(algorithm)}"
    return Table(title, ("", *(arm.name for arm, _ in points)), rows, caption)


def clipped_table(found: list[Arm]) -> Table | None:
    """How many coordinates of each group clipping saturates, an arm a column."""
    points, names = _grouped(found, "sgd")
    if not points:
        return None
    rows = [
        (
            name,
            f"{max(made[name].coordinates for _, made in points if name in made):,}",
            *(percent(made[name].clipped) if name in made else "–" for _, made in points),
        )
        for name in names
    ]
    caption = "Share of each group’s coordinates whose training gradient is clipped."
    header = ("", "coordinates", *(arm.name for arm, _ in points))
    return Table("What clipping reaches", header, rows, caption)


def rank_table(found: list[Arm]) -> Table | None:
    """The share of a direction's sharpness in the top coordinates of the gradient."""
    fractions = (1e-4, 1e-3, 0.01, 0.05)
    rows = [
        (
            f"{arm.name}: {label(algorithm)}",
            *(percent(row.share) if (row := one(mine, fraction=f)) else "–" for f in fractions),
        )
        for arm in found
        for algorithm, mine in by_algorithm(arm.run[Lorenz]).items()
    ]
    if not rows:
        return None
    header = ("", *(f"top {100 * f:g} %" for f in fractions))
    caption = "Share of vᵀHv in the coordinates of largest training gradient."
    return Table("Which ranks", header, rows, caption)


def part_table(found: list[Arm]) -> Table | None:
    """What the targets of text and of padding contribute where padding is counted."""
    rows = []
    for arm in found:
        for algorithm, mine in by_algorithm(arm.run[PaddingPart]).items():
            text, padding = one(mine, part="text"), one(mine, part="padding")
            if arm.kind != "counted" or algorithm not in ("sgd", "sgd_clip", "adam"):
                continue
            values = (text.slope, padding.slope, text.sharpness, padding.sharpness)
            share = padding.sharpness / (text.sharpness + padding.sharpness)
            name = f"{arm.name}: {label(algorithm)}"
            rows.append((name, *map(number, values), percent(share), percent(padding.targets)))
    if not rows:
        return None
    header = ("", "slope, text", "slope, padding", "sharpness, text", "sharpness, padding")
    header += ("padding’s share", "of the targets")
    caption = "Parts of the test loss; they sum to its slope gᵀv and its sharpness vᵀHv."
    return Table("Which targets", header, rows, caption)


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of coordinates in one direction."""

    sharpness: float  # Its contribution vᵢᵀ(Hv)ᵢ.
    share: float  # Of vᵀHv.
    squared_norm: float
    coordinates: int
    clipped: float


def groups(arm: Arm, algorithm: str) -> dict[str, Group]:
    """The groups of an arm's first point whose anatomy is recorded, by name."""
    rows = [r for r in arm.run[PaddingGroup] if r.algorithm == algorithm]
    first = min((r.key[:5] for r in rows), default=None)
    rows = [r for r in rows if r.key[:5] == first]
    total = math.fsum(r.sharpness for r in rows)
    made = {}
    for name in sorted({r.group for r in rows}, key=_order):
        mine = [r for r in rows if r.group == name]
        own = math.fsum(r.sharpness for r in mine)
        about = mine[0]
        made[name] = Group(own, own / total, about.squared_norm, about.coordinates, about.clipped)
    return made


def _grouped(
    found: list[Arm], algorithm: str
) -> tuple[list[tuple[Arm, dict[str, Group]]], list[str]]:
    """The arms that have groups, with these, and the names of all groups."""
    points = [(arm, made) for arm in found if (made := groups(arm, algorithm))]
    return points, list(dict.fromkeys(name for _, made in points for name in made))


_ORDER = ("padding’s row", "other rows", "relative positions", "norms", "encoder", "decoder")


def _order(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER)), name


def figure(found: list[Arm]) -> Figure:
    """SGD's sharpness, and the ratios to it, against the share of padding that a model sees."""
    masked = [arm for arm in found if arm.kind == "masked"]
    shown = [k for k in ("attended", "counted") if any(arm.kind == k for arm in found)]
    style = plot.Style(paper.ALGORITHMS)
    made = Figure(figsize=(3.8 * max(len(shown), 1), 5.6), layout="constrained")
    axes = made.subplots(2, max(len(shown), 1), sharex="col", sharey="row", squeeze=False)
    for (top, bottom), kind in zip(axes.T, shown or ["masked"], strict=True):
        line = masked + [arm for arm in found if arm.kind == kind and kind != "masked"]
        line.sort(key=lambda arm: arm.visible)
        shares = [100 * arm.visible for arm in line]
        for axis, column, algorithms in (
            (top, "sharpness", ("sgd",)),
            (bottom, "ratio", paper.OTHERS),
        ):
            for algorithm in algorithms:
                values = [claims.positive(arm.means.get((column, algorithm))) for arm in line]
                look = style.line(algorithm) | {"marker": "o", "markersize": 4}
                axis.plot(shares, values, label=label(algorithm), **look)
            axis.set_yscale("log")
            axis.grid(alpha=0.25)
        told = f"Figure 2 of the paper: {number(paper.MEAN_SHARPNESS['sgd'])}"
        top.axhline(paper.MEAN_SHARPNESS["sgd"], color="#888888", ls=":", lw=1.2, label=told)
        of = {"attended": "source attended", "counted": "source attended, targets counted"}
        top.set_title(of.get(kind, kind), fontsize=10)
        seen = "targets" if kind == "counted" else "source"
        bottom.set_xlabel(f"padding, % of the {seen}")
    axes[0, 0].set_ylabel("SGD’s sharpness")
    axes[1, 0].set_ylabel("sharpness / SGD’s")
    axes[0, 0].legend(fontsize=8)
    # Beside the panels: lines cross all of one.
    made.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return made


def _rows(found: list[Arm]) -> list[Sharpness]:
    return [r for arm in found for r in arm.run[Sharpness]]


def tables(found: list[Arm]) -> list[Table | None]:
    """All tables that the arms' records allow, in the report's order."""
    return [
        ratio_table(found),
        distance_table(found),
        *(group_table(found, a) for a in ("sgd", "sgd_clip", "adam")),
        clipped_table(found),
        rank_table(found),
        part_table(found),
        cost_table(found),
    ]


def write_report(folder: Path, found: list[Arm]) -> Path:
    """Writes report.md and its figure into the folder of a padding study; returns report.md."""
    title = "Sharpness against the share of padding"
    drawn = figure_files.write(folder, "padding", title, "", lambda: figure(found))
    first = found[0].run
    own = records.read_json(folder / "start" / "provenance.json")  # None of a given checkpoint.
    about = own.get("tasks", first.provenance["tasks"])["translation"]
    start = facts.public(about["start"])
    if own:
        start += f", drawn from {about['warmup_rows']:,} rows of other text"
    ratios, *others = tables(found)
    pieces = [
        "# What padding does to translation’s sharpness",
        f"Runs from one start ({start}), on the same {first.config['examples']:,} texts; "
        f"measured on {first.config['test_examples']:,} of them. Sources of masked and attended "
        "runs hold the same text; where padding is counted, targets are padded to the source’s "
        "length, and the loss counts all of them.",
        ratios,
        drawn.image,
        *others,
    ]
    return of_arms.write(folder, pieces)


def cost_table(found: list[Arm]) -> Table:
    """The wall time of each arm."""
    return facts.cost_table("What it cost", [(arm.name, arm.run) for arm in found])
