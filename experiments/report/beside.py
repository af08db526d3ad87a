"""What stands beside the study in its report: more optimizers, and padding that counts."""

import dataclasses
from collections.abc import Callable, Iterable

from matplotlib.figure import Figure

from experiments.report import arms, atlas, claims
from experiments.report.recorded import Run
from experiments.report.table import Table, percent
from experiments.rows import Sharpness
from experiments.run.beside import FOLDER, OPTIMIZERS, PADDED
from sharpjax import plot


def _run(run: Run, name: str) -> Run | None:
    folder = run.directory / FOLDER / name
    return Run(folder) if (folder / Sharpness.FILE).exists() else None


def tables(run: Run) -> list[Table]:
    """The optimizers' numbers, and ratios with padding and without, at one point."""
    found = []
    if more := _run(run, OPTIMIZERS):
        made = atlas.shared_table(more, "translation")
        found.append(dataclasses.replace(made, title="More optimizers at one point"))
    if padded := _run(run, PADDED):
        found.append(_padding(run, padded))
    return found


def _padding(run: Run, padded: Run) -> Table:
    there = {r.key[:5] for r in padded[Sharpness]}
    rows = []
    for name, which in (("masked", run), ("counted", padded)):
        here = [r for r in which[Sharpness] if r.key[:5] in there]
        rows.append((name, *arms.cells(claims.means(here, ("algorithm",)))))
    about = padded.provenance["tasks"]["translation"]
    source, target = (percent(about[f"{of}_padding"]) for of in ("source", "target"))
    caption = (
        "The first measured point of SGD’s trajectory, from one start. Counted: sources and "
        f"targets are padded to {about['source_length']} tokens, the model attends the source’s "
        f"padding ({source} of it), and the loss counts the targets’ ({target} of them). Ratios "
        "are to SGD’s sharpness."
    )
    return Table("What padding does", ("padding", *arms.HEADER), rows, caption)


def figures(run: Run) -> Iterable[tuple[str, str, str, Callable[[], Figure]]]:
    """(name, title, caption, what draws it): slope and sharpness of the optimizers."""
    if more := _run(run, OPTIMIZERS):
        rows = more.frame(Sharpness)
        yield (
            "beside_optimizers",
            "Slope and sharpness of more optimizers: machine translation, SGD trajectory",
            "At the first measured point. Grey lines join directions whose quadratic falls by "
            "equal amounts, slope²/(2·sharpness): further to the lower right goes further.",
            lambda: atlas.shared_figure(rows, plot.Style(rows["algorithm"])),
        )
