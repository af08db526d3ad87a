"""RESULTS.md and the README's results: prose by hand, every number in it from the records.

A block's words name a table of BLOCKS with its arguments, `<!-- sharpness translation sgd -->`, or
after slashes one cell of it by the names of its row and column:
`<!-- sharpness translation sgd / Adam / epoch 2 / paper -->`. What is not recorded yet reads so.
"""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import anatomy_rows, paper, records
from experiments.report import (
    ablation,
    anatomy_tables,
    blocks,
    claims,
    explanation_tables,
    facts,
    table,
    tables,
)
from experiments.report.recorded import At, Run
from experiments.report.table import Table, number, plus_minus
from experiments.rows import Sharpness, Tuning

_NOT_RUN = "not run yet"
_BLOCK_NOT_RUN = "*Not run yet.*"


class Sources:
    """The records that a document tells of; what is not recorded there is told as not run."""

    def __init__(self, main: Path, ablation: Path, root: Path):
        self.directory, self.ablation, self.root = main, ablation, root

    @functools.cached_property
    def main(self) -> Run | None:
        return Run(self.directory) if any(self.directory.glob("*.csv")) else None

    @functools.cached_property
    def claims(self) -> list[claims.Claim]:
        return claims.evaluate(self.main.rows if self.main else [])

    @functools.cached_property
    def arms(self) -> list[ablation.Arm]:
        return ablation.arms(self.ablation, self.main)

    @property
    def points(self) -> dict[tuple, At]:
        """The points whose anatomy is recorded, each with its rows."""
        return self.main.points if self.main else {}


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


def _held(sources: Sources, *column: str) -> str | None:
    """`104 of 112` (or of as many as are measured), of all or of one column."""
    return _count(sources.claims, column)


def _count(found: list[claims.Claim], column: tuple[str, ...] = ()) -> str | None:
    details = [
        detail.held
        for claim in found
        if claim.is_ordering
        for detail in claim.details
        if not column or (detail.cell["task"], detail.cell["trajectory"]) == column
    ]
    return f"{sum(details)} of {len(details)}" if details else None


def _seed_held(sources: Sources, seed: str) -> str | None:
    """The count of one seed alone, whose ratios are not averaged with others'."""
    rows = [row for row in sources.main.rows if row.seed == int(seed)]
    return _count(claims.evaluate(rows)) if rows else None


def _needs_main(make: Callable) -> Callable:
    def block(sources: Sources, *arguments: str) -> Table | str | None:
        return make(sources, *arguments) if sources.main else None

    return block


def _needs_arms(make: Callable) -> Callable:
    def block(sources: Sources, *arguments: str) -> Table | None:
        return make(sources.arms, *arguments) if sources.arms else None

    return block


def _run(sources: Sources) -> Table:
    hidden = ("Wall time", "Peak memory")  # These are the costs.
    rows = [fact for fact in facts.facts(sources.main) if fact[0] not in hidden]
    return Table("", ("", "recorded"), rows)


def _sharpness(sources: Sources, task: str, trajectory: str) -> Table | None:
    column = _column(task, trajectory)
    if column not in sources.main.columns():
        return None
    return tables.ratio_table(sources.main, column)


def _failures(sources: Sources) -> Table | str | None:
    if not any(claim.total for claim in sources.claims):
        return None
    table = tables.remark_table(sources.claims)
    return table if table.rows else "Every comparison held."


def _convergence(make: Callable[[Run], Table]) -> Callable:
    return lambda sources: make(sources.main) if sources.main.convergence_tasks() else None


def _needs_control(make: Callable) -> Callable:
    """A block of a run beside the study, in the folder `controls` beside its records."""

    def block(sources: Sources, name: str, *arguments: str) -> Table | str | None:
        folder = sources.directory.parent / "controls" / name
        return make(Run(folder), *arguments) if any(folder.glob("*.csv")) else None

    return block


def _tuning(sources: Sources, task: str) -> Table | None:
    tried = any(row.task == task for row in sources.main[Tuning])
    return tables.tuning_table(sources.main, task) if tried else None


def _summary(sources: Sources) -> Table | None:
    """A column of Tables 3 to 6 a row: the orderings, and three ratios beside the paper's."""
    run, shown = sources.main, ("sgd_clip", "adam", "adafactor_clip")
    means, rows, epochs = claims.group(run[Sharpness], tables.CELL, "ratio"), [], set()
    for column in run.columns():
        epoch = run.epochs(column)[-1]
        printed = paper.SHARPNESS_RATIO.get((*column, epoch), {})
        epochs.add(epoch)
        cells = [paper.column_name(column), _held(sources, *column) or "–"]
        for algorithm in shown:
            summary = means.get((*column, epoch, algorithm))
            cells.append(plus_minus(summary))
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


def _cost_table(runs: list[tuple[str, Run]]) -> Table:
    """The first run's stages, and every run's total."""
    rows, machines = [], {}
    for name, run in runs:
        walls = run.provenance.get("wall_seconds", {})
        for stage, seconds in walls.items() if run is runs[0][1] else ():
            rows.append((f"{name}: {stage}", facts.duration(seconds), ""))
        memory = run.provenance.get("peak_memory_mib")
        shown = f"{memory / 1024:.1f} GiB" if memory else "not recorded"
        rows.append((f"{name}, together", facts.duration(sum(walls.values())), shown))
        machines[run.provenance.get("device", "unknown")] = None
    caption = f"Machine: {'; '.join(machines)}. Wall time is of every attempt together."
    return Table("", ("", "wall time", "peak memory"), rows, caption)


def _figures(sources: Sources, prefix: str) -> str | None:
    """Every committed figure whose name starts so, as Markdown images."""
    found = sorted((sources.directory / "figures").glob(f"{prefix}*.png"))
    images = []
    for path in found:
        target = Path(os.path.relpath(path, sources.root)).as_posix()
        images.append(f"![{path.stem.replace('_', ' ')}]({target})")
    return "\n\n".join(images) or None


def _anatomy_part(make: Callable) -> Callable:
    def block(sources: Sources, task: str, trajectory: str) -> Table | None:
        column = _column(task, trajectory)
        here = (rows for place, rows in sources.points.items() if place[:2] == column)
        return make(next(here, {t: [] for t in anatomy_rows.TABLES}))

    return block


def _column(task: str, trajectory: str) -> tuple[str, str]:
    if (task, trajectory) not in paper.TABLE:
        raise ValueError(f"no column {task}, {trajectory}")
    return task, trajectory


BLOCKS: dict[str, Callable] = {
    "verdict": _needs_main(lambda sources: tables.verdict(sources.claims, sources.main)),
    "held": _held,
    "seed-held": _needs_main(_seed_held),
    "run": _needs_main(_run),
    "summary": _needs_main(_summary),
    "sharpness": _needs_main(_sharpness),
    "mean-sharpness": _needs_main(
        lambda sources: tables.sharpness_table(sources.main) if sources.main.columns() else None
    ),
    "concentration": _needs_main(
        lambda sources: tables.share_table(sources.main) if sources.main.columns() else None
    ),
    "orderings": _needs_main(
        lambda sources: tables.cell_table(sources.claims) if _held(sources) else None
    ),
    "claims": _needs_main(lambda sources: tables.claim_table(sources.claims, sources.main)),
    "failures": _needs_main(_failures),
    "rates": _needs_main(_convergence(tables.rate_table)),
    "final-losses": _needs_main(_convergence(tables.final_table)),
    "tuning": _needs_main(_tuning),
    "control-losses": _needs_control(tables.final_table),
    "control-held": _needs_control(lambda run: _count(claims.evaluate(run.rows))),
    "control-sharpness": _needs_control(
        lambda run, task, trajectory: tables.ratio_table(run, _column(task, trajectory))
    ),
    "control-costs": _needs_control(lambda run: _cost_table([("study", run)])),
    "ablation-needs": _needs_arms(ablation.needs_table),
    "ablation-where": _needs_arms(ablation.where_table),
    "ablation-sharpness": _needs_arms(
        lambda arms, task, trajectory: ablation.column_table(arms, _column(task, trajectory))
    ),
    "ablation-scales": _needs_arms(
        lambda arms, task, trajectory=None, epoch=1: ablation.scale_table(
            arms, task, trajectory, int(epoch)
        )
    ),
    "anatomy": lambda sources: anatomy_tables.summary(sources.points),
    "anatomy-context": _anatomy_part(anatomy_tables.context),
    "anatomy-correlation": _anatomy_part(anatomy_tables.conjecture),
    "anatomy-span": _anatomy_part(anatomy_tables.span),
    "anatomy-clipping": _anatomy_part(anatomy_tables.clipping),
    "anatomy-explanations": _anatomy_part(explanation_tables.point),
    "anatomy-updates": _anatomy_part(explanation_tables.updates),
    "anatomy-tokens": _anatomy_part(explanation_tables.tokens),
    "costs": _costs,
    "figures": _figures,
}
