"""RESULTS.md and the README's results: prose by hand, every number in it from the records.

A block's words name a table of BLOCKS with its arguments, `<!-- sharpness translation sgd -->`, or
after slashes one cell of it by the names of its row and column:
`<!-- sharpness translation sgd / Adam / epoch 2 / paper -->`. What is not recorded yet reads so.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import paper, records
from experiments.horizon_rows import Own
from experiments.report import (
    ablation,
    anatomy_tables,
    atlas,
    blocks,
    claims,
    explanation_tables,
    facts,
    padding,
    scale,
    stability,
    table,
    tables,
)
from experiments.report.recorded import Joined, Run
from experiments.report.table import Table, number, plus_minus
from experiments.rows import Convergence, Row, Sharpness, Tuning

_NOT_RUN = "not run yet"
_BLOCK_NOT_RUN = "*Not run yet.*"


class Sources:
    """The records that a document tells of; what is not recorded there is told as not run."""

    def __init__(self, main: Path, ablation: Path, root: Path):
        self.directory, self.ablation, self.root = main, ablation, root
        self.run = functools.cache(self._run)

    def _run(self, folder: str) -> Run | None:
        """The run in a folder beside the study's records; all that a pattern finds, as one."""
        paths = sorted(self.directory.parent.glob(folder))
        found = [Run(path) for path in paths if any(path.glob("*.csv"))]
        return Joined(found) if len(found) > 1 else next(iter(found), None)

    @property
    def main(self) -> Run | None:
        """The study's run."""
        return self.run(self.directory.name)

    @functools.cached_property
    def arms(self) -> list[ablation.Arm]:
        """Those of the ablation."""
        return ablation.arms(self.ablation, self.main)

    @functools.cached_property
    def padding(self) -> list[padding.Arm]:
        """The arms of the padding study, in the folder `padding` beside the study's records."""
        return padding.arms(self.directory.parent / "padding")


def write(paths: Sequence[Path], main: Path, ablation: Path) -> list[bool]:
    """Fills the blocks of documents in place; whether that changed each.

    All are filled before the first is written, and each is written whole or not at all.

    Args:
      paths: Markdown files.
      main: The directory of the study's records.
      ablation: The folder with a directory of records for each warm-up.

    Raises:
      ValueError: a document that is not there; a directory without records; a block that does not
        exist, is not closed, or would lose what it says because its records are not there.
      DamagedError: records that cannot be read.
    """
    if not any(main.glob("*.csv")):
        raise ValueError(f"{main}: no records; is this the directory of a run?")
    if not any(ablation.glob(f"*/{Sharpness.FILE}")):
        raise ValueError(f"{ablation}: no folder in it holds records; is this the ablation's?")
    filled = []
    for path in paths:
        try:
            before = path.read_bytes().decode("utf-8")  # Line ends stay as they are.
            after = fill(before, Sources(main, ablation, path.parent))
            _check_nothing_is_lost(before, after)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ValueError(f"{path}: no such document") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        filled.append((path, before, after))
    for path, before, after in filled:
        if after != before:
            records.write_atomically(path, after)
    return [after != before for _, before, after in filled]


def _check_nothing_is_lost(before: str, after: str) -> None:
    """A number is replaced by a number: never by the words that there is none."""
    empty = ("", _NOT_RUN, _BLOCK_NOT_RUN)
    for (words, old), (_, new) in zip(blocks.contents(before), blocks.contents(after), strict=True):
        if new in empty and old not in empty:
            raise ValueError(f"<!-- {words} -->: its records are not there; nothing is written")


def fill(text: str, sources: Sources) -> str:
    """The document with every block as the records have it."""
    return blocks.fill(text, lambda words, inline: _block(words, inline, sources))


def _block(words: str, inline: bool, sources: Sources) -> str:
    asked, *path = (part.strip() for part in words.split(" / "))
    name, *arguments = asked.split()
    if name not in BLOCKS:
        raise ValueError(f"<!-- {words} -->: no such block; there are {', '.join(BLOCKS)}")
    try:
        made = BLOCKS[name](sources, *arguments)
        if made is None:
            return _NOT_RUN if inline else _BLOCK_NOT_RUN
        if path:
            made = table.cell(made, *path)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"<!-- {words} -->: {error}") from error
    if isinstance(made, Table):
        made = table.markdown(made)
    if inline and "\n" in made:
        raise ValueError(f"<!-- {words} -->: a table must open a line of its own")
    return made


# --- What a block may hold ------------------------------------------------------------------------


def _count(found: list[claims.Claim], *column: str) -> str | None:
    """`104 of 112` (or of as many as are measured), of all or of one column."""
    held, total = claims.orderings(found, *column)
    return f"{held} of {total}" if total else None


def _of(find: Callable[[Sources], Any], make: Callable) -> Callable:
    """A block made of what is found in the sources, if anything is."""

    def block(sources: Sources, *arguments: str) -> Table | str | None:
        found = find(sources)
        return make(found, *arguments) if found else None

    return block


_main = functools.partial(_of, lambda sources: sources.main)
_arms = functools.partial(_of, lambda sources: sources.arms)
_padding = functools.partial(_of, lambda sources: sources.padding)
_shared_atlas = functools.partial(_of, lambda sources: sources.run("atlas"))


def _control(make: Callable) -> Callable:
    """A block of a run beside the study, in the folder `controls` beside its records."""

    def block(sources: Sources, name: str, *arguments: str) -> Table | str | None:
        run = sources.run(f"controls/{name}")
        return make(run, *arguments) if run else None

    return block


def _here_or_in(make: Callable, table: type[Row] | None = None) -> Callable:
    """A block of the study, or of the run in a folder beside its records, if the table has rows."""

    def block(sources: Sources, folder: str = "") -> Table | None:
        run = sources.run(folder) if folder else sources.main
        return make(run) if run and (table is None or run[table]) else None

    return block


def _tuning(sources: Sources, task: str, folder: str = "") -> Table | None:
    """The losses of every rate that was tried."""
    return _here_or_in(functools.partial(tables.tuning_table, task=task), Tuning)(sources, folder)


def _scale(make: Callable) -> Callable:
    """A block of a scale study, in `scale/TASK` or `scale/TASK-…` beside the study's records."""

    def block(sources: Sources, folder: str, *arguments: str) -> Table | None:
        found = scale.arms(sources.directory.parent / "scale" / folder)
        return make(found, folder.partition("-")[0], *arguments) if found else None

    return block


def _atlas(sources: Sources, task: str, trajectory: str, folder: str = "atlas") -> Table | None:
    """Many optimizers at the same points of one trajectory."""
    run = sources.run(folder)
    if run is None or (task, trajectory) not in run.columns():
        return None
    return atlas.shared_table(run, task, trajectory)


def _atlas_own(sources: Sources, task: str, folder: str = "atlas/own") -> Table | None:
    """Optimizers each on its own trajectory."""
    run = sources.run(folder)
    return atlas.own_table(run, task) if run and task in run.tasks(Own) else None


def _atlas_ranks(sources: Sources, folder: str = "atlas/own") -> Table | None:
    own = sources.run(folder)
    return atlas.correlation_table(sources.run("atlas"), own) if own else None


def _point(make: Callable) -> Callable:
    """A block of the first point of a column whose anatomy is recorded: the study's, or a run's
    in a folder beside its records.
    """

    def block(sources: Sources, task: str, trajectory: str, folder: str = "") -> Table | None:
        column = (task, trajectory) if folder else _column(task, trajectory)
        points = _points(sources, folder).items()
        here = [rows for point, rows in points if point[:2] == column]
        return make(here[0]) if here else None

    return block


def _points(sources: Sources, folder: str) -> dict[tuple, dict[type, list]]:
    run = sources.run(folder) if folder else sources.main
    return run.points if run else {}


def _anatomy(make: Callable) -> Callable:
    """A block of all points whose anatomy is recorded: the study's, or a run's in a folder."""

    def block(sources: Sources, folder: str = "") -> Table | None:
        return make(_points(sources, folder))

    return block


def _column(task: str, trajectory: str) -> tuple[str, str]:
    if (task, trajectory) not in paper.TABLE:
        raise ValueError(f"no column {task}, {trajectory}")
    return task, trajectory


def _seed_held(run: Run, seed: str) -> str | None:
    """The count of one seed alone, whose ratios are not averaged with others'."""
    rows = [row for row in run.rows if row.seed == int(seed)]
    return _count(claims.evaluate(rows)) if rows else None


def _sharpness(run: Run, task: str, trajectory: str) -> Table | None:
    column = _column(task, trajectory)
    return tables.ratio_table(run, column) if column in run.columns() else None


def _summary(run: Run) -> Table | None:
    """A column of Tables 3 to 6 a row: the orderings, and three ratios beside the paper's."""
    shown, found = ("sgd_clip", "adam", "adafactor_clip"), run.claims
    means, rows, epochs = claims.group(run[Sharpness], claims.CELL, "ratio"), [], set()
    for column in run.columns():
        epoch = run.epochs(column)[-1]
        printed = paper.SHARPNESS_RATIO.get((*column, epoch), {})
        epochs.add(epoch)
        cells = [paper.column_name(column), _count(found, *column) or "–"]
        for algorithm in shown:
            cells.append(plus_minus(means.get((*column, epoch, algorithm))))
            cells.append(number(printed[algorithm]) if algorithm in printed else "–")
        rows.append(tuple(cells))
    names = [name for a in shown for name in (paper.ALGORITHMS[a], "paper")]
    caption = (
        "Orderings of all measured epochs; ratios of directional sharpness to SGD’s in the last "
        f"one ({', '.join(map(str, sorted(epochs)))}), mean ± standard deviation over batches and "
        "seeds; beside them the paper’s."
    )
    if not rows:
        return None
    return Table("Ours and the paper’s", ("", "orderings held", *names), rows, caption)


def _costs(sources: Sources) -> Table | None:
    """Wall time of every stage of the main run, and of each arm of the ablation."""
    runs = [("study", sources.main)] if sources.main else []
    folders = [path.parent for path in sources.ablation.glob(f"*/{Sharpness.FILE}")]
    arms = sorted(map(Run, folders), key=lambda run: run.config["warmup_steps"])
    runs += [(f"ablation, {run.config['warmup_steps']:,} steps", run) for run in arms]
    return _cost_table(runs) if runs else None


def _run_costs(sources: Sources, *folders: str) -> Table | None:
    """What the runs in folders beside the study's records cost, each on its machine."""
    found = [(folder, run) for folder in folders if (run := sources.run(folder))]
    return facts.machine_table(found) if found else None


def _cost_table(runs: list[tuple[str, Run]]) -> Table:
    """The first run's stages, and every run's total."""
    made = facts.cost_table("", [(f"{name}, together", run) for name, run in runs])
    name, first = runs[0]
    stages = [
        (f"{name}: {stage}", facts.duration(seconds), "")
        for stage, seconds in facts.wall_seconds(first).items()
    ]
    return dataclasses.replace(made, rows=[*stages, *made.rows])


def _figures(sources: Sources, prefix: str) -> str | None:
    """Every committed figure whose name starts so, as Markdown images."""
    found = sorted((sources.directory / "figures").glob(f"{prefix}*.png"))
    images = []
    for path in found:
        target = Path(os.path.relpath(path, sources.root)).as_posix()
        images.append(f"![{path.stem.replace('_', ' ')}]({target})")
    return "\n\n".join(images) or None


BLOCKS: dict[str, Callable] = {
    "verdict": _main(tables.verdict),
    "held": _main(lambda run, *column: _count(run.claims, *column)),
    "seed-held": _main(_seed_held),
    "summary": _main(_summary),
    "sharpness": _main(_sharpness),
    "claims": _here_or_in(tables.claim_table),
    "rates": _here_or_in(tables.rate_table, Convergence),
    "final-losses": _here_or_in(tables.final_table, Convergence),
    "tuning": _tuning,
    "control-held": _control(lambda run: _count(run.claims)),
    "control-sharpness": _control(_sharpness),
    "control-costs": _control(lambda run: _cost_table([("study", run)])),
    "ablation-needs": _arms(ablation.needs_table),
    "ablation-where": _arms(ablation.where_table),
    "ablation-sharpness": _arms(
        lambda arms, *column: ablation.column_table(arms, _column(*column))
    ),
    "ablation-scales": _arms(
        lambda arms, task, trajectory=None, epoch=1: ablation.scale_table(
            arms, task, trajectory, int(epoch)
        )
    ),
    "padding": _padding(padding.ratio_table),
    "padding-distance": _padding(padding.distance_table),
    "padding-groups": _padding(padding.group_table),
    "padding-clipped": _padding(padding.clipped_table),
    "padding-ranks": _padding(padding.rank_table),
    "padding-parts": _padding(padding.part_table),
    "padding-costs": _padding(padding.cost_table),
    "scale": _scale(scale.ratio_table),
    "scale-distance": _scale(scale.distance_table),
    "scale-costs": _scale(lambda found, task: padding.cost_table(found)),
    "atlas": _atlas,
    "atlas-across": _shared_atlas(atlas.across_table),
    "atlas-held": _shared_atlas(lambda run: _count(run.claims)),
    "atlas-own": _atlas_own,
    "atlas-ranks": _atlas_ranks,
    "stability": _here_or_in(stability.table),
    "anatomy": _anatomy(anatomy_tables.summary),
    "anatomy-several": _anatomy(anatomy_tables.several),
    "anatomy-context": _point(anatomy_tables.context),
    "anatomy-correlation": _point(anatomy_tables.conjecture),
    "anatomy-span": _point(anatomy_tables.span),
    "anatomy-clipping": _point(anatomy_tables.clipping),
    "anatomy-explanations": _point(explanation_tables.point),
    "anatomy-updates": _point(explanation_tables.updates),
    "anatomy-tokens": _point(explanation_tables.tokens),
    "costs": _costs,
    "run-costs": _run_costs,
    "figures": _figures,
}
