"""What size, vocabulary, start and embedding do to sharpness: tables, a figure and report.md.

Each arm is a run of the sharpness experiment whose configuration differs from the first's.
"""

import dataclasses
import functools
from pathlib import Path

from matplotlib.figure import Figure

from experiments import paper
from experiments.arms import ARMS
from experiments.report import arms as of_arms
from experiments.report import claims, figure_files
from experiments.report.padding import cost_table
from experiments.report.recorded import Run
from experiments.report.table import Table, out_of
from experiments.rows import Sharpness
from sharpjax import plot
from sharpjax.plot import label

BASE = "base"
_NAMES = {
    "256x4": "width 256, 4 blocks",
    "512x6": "width 512, 6 blocks",
    "vocabulary": "large vocabulary",
    "embedding": "embedding drawn 10 times larger",
    "scratch": "from scratch",
    "short": "short warm-up",
    "long": "long warm-up",
    "padded": "source padded, attended",
    "together": "vocabulary, embedding and padding",
    "t5-small": "size of t5-small",
    "t5-small-padded": "size of t5-small, padded",
}
_Key = tuple[str, str, str, int, str]


@dataclasses.dataclass(frozen=True)
class Arm:
    """A run of one arm."""

    run: Run
    key: str  # One of ARMS.

    @property
    def name(self) -> str:
        return _NAMES.get(self.key, self.key)

    @functools.cached_property
    def means(self) -> dict[_Key, claims.Summary]:
        """(value, task, trajectory, epoch, algorithm) -> summary over batches and seeds."""
        return claims.means(self.run[Sharpness], claims.CELL)


def arms(folder: Path) -> list[Arm]:
    """The runs of a folder that lie in folders named as the arms are, in their order."""
    return [Arm(Run(folder / key), key) for key in ARMS if (folder / key / Sharpness.FILE).exists()]


def cells(found: list[Arm]) -> list[tuple[str, str, int]]:
    """The (task, trajectory, epoch) that are measured, as the paper's columns are ordered."""
    there = {(r.task, r.trajectory, r.epoch) for arm in found for r in arm.run[Sharpness]}
    columns = paper.ordered({cell[:2] for cell in there})
    return sorted(there, key=lambda cell: (columns.index(cell[:2]), cell[2]))


def ratio_table(found: list[Arm], task: str, trajectory: str, epoch: str | int) -> Table:
    """What each arm is, its loss, SGD's sharpness, the ratios to it and the orderings held."""
    cell = _cell(found, task, trajectory, epoch)
    rows = []
    for arm in found:
        about, made = arm.run.config[task], arm.run.provenance["tasks"][task]
        rows.append(
            (
                arm.name,
                f"{about['d_model']} × {about['layers']}",
                f"{about['vocab_size']:,}",
                f"{made['parameters']:,}",
                f"{arm.run.config['warmup_steps']:,}",
                *of_arms.cells(arm.means, *cell),
                out_of(*claims.orderings(arm.run.claims, *cell)),
            )
        )
    if printed := paper.SHARPNESS_RATIO.get(cell):
        rows.append(("the paper", *[""] * 4, *of_arms.paper_cells(task, printed), "7 of 7"))
    header = ("", "width × blocks", "vocabulary", "parameters", "warm-up steps")
    header += (*of_arms.HEADER, "orderings")
    caption = (
        "Mean ± standard deviation over the measured batches; ratios are to SGD’s sharpness. The "
        "paper’s sharpness is of Figure 2, whose epoch it does not name."
    )
    return Table(f"{_title(cell)}, by arm", header, rows, caption)


def distance_table(found: list[Arm], task: str, trajectory: str, epoch: str | int) -> Table | None:
    """The share of the distance to the paper's ratios that each arm goes; None without a base."""
    cell = _cell(found, task, trajectory, epoch)
    printed, base = paper.SHARPNESS_RATIO.get(cell), next((a for a in found if a.key == BASE), None)
    if not printed or base is None or len(found) < 2:
        return None
    others = ((arm.name, of_arms.ratios(arm.means, *cell)) for arm in found if arm is not base)
    title = f"{_title(cell)}: share of the distance to the paper"
    return of_arms.distance_table(title, of_arms.ratios(base.means, *cell), others, printed)


def figure(found: list[Arm], task: str, trajectory: str, epoch: int) -> Figure:
    """The ratios of every arm beside each other, and the paper's."""
    cell, style = _cell(found, task, trajectory, epoch), plot.Style(paper.ALGORITHMS)
    printed = paper.SHARPNESS_RATIO.get(cell, {})
    names = [arm.name for arm in found] + ["the paper"] * bool(printed)
    made = Figure(figsize=(7.0, 1.6 + 0.36 * len(names)), layout="constrained")
    axis = made.subplots()
    ratios = [of_arms.ratios(arm.means, *cell) for arm in found] + [printed] * bool(printed)
    for algorithm in paper.OTHERS:
        look = style.line(algorithm) | {"marker": "o", "markersize": 5, "lw": 0.8}
        if look["linestyle"] != "-":  # Of clipped ones.
            look["markerfacecolor"] = "white"
        axis.plot([r[algorithm] for r in ratios], range(len(names)), label=label(algorithm), **look)
    axis.set_xscale("log")
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)  # From the top, with room for the outer marks.
    axis.grid(alpha=0.25)
    axis.set_xlabel("sharpness / SGD’s")
    axis.set_title(_title(cell), fontsize=10)
    made.legend(loc="outside lower center", ncols=3, fontsize=8)
    return made


def write_report(folder: Path, found: list[Arm]) -> Path:
    """Writes report.md and its figures into the folder of a scale study; returns report.md."""
    first = found[0].run.config
    pieces: list[str | Table | None] = [
        "# What size, vocabulary, start and embedding do to sharpness",
        f"Each run is warmed up by {first['warmup_algorithm']} in batches of "
        f"{first['warmup_batch_size']}, then trained on {first['examples']:,} texts and measured "
        f"on {first['test_examples']:,} of them.",
    ]
    for task, trajectory, epoch in cells(found):
        here = [a for a in found if ("ratio", task, trajectory, epoch, "sgd") in a.means]
        cell, name = (here, task, trajectory, epoch), f"scale_{task}_{trajectory}_e{epoch:02d}"
        title, draw = _title((task, trajectory, epoch)), functools.partial(figure, *cell)
        drawn = figure_files.write(folder, name, title, "", draw)
        pieces += [drawn.image, ratio_table(*cell), distance_table(*cell)]
    return of_arms.write(folder, [*pieces, cost_table(found)])


def _cell(found: list[Arm], task: str, trajectory: str, epoch: str | int) -> tuple[str, str, int]:
    cell = (task, trajectory, int(epoch))
    if cell not in cells(found):
        raise ValueError(f"no arm has measured {task}, {trajectory}, epoch {epoch}")
    return cell


def _title(cell: tuple[str, str, int]) -> str:
    return f"{paper.column_name(cell[:2])}, epoch {cell[2]}"
