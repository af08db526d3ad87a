"""Where a study runs, and the command that runs stages of it and reports."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.config import Config
from experiments.errors import RefusedError
from experiments.interrupts import at_once
from experiments.run import devices, memory, processes
from experiments.run.progress import Watch

if TYPE_CHECKING:
    from experiments.run.study import Study

Command = Callable[[Watch], None]


def _one_path(words: list[str]) -> Path:
    if not words[0]:
        raise ValueError("a path must not be empty; this directory is .")
    return Path(words[0])


# A path that says something: an empty one would be this directory.
_PATH = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="PATH",
    instance_from_str=_one_path,
    is_instance=lambda value: isinstance(value, Path),
    str_from_instance=lambda path: [str(path)],
)
APath = Annotated[Path, _PATH]


@dataclasses.dataclass(frozen=True)
class Location:
    """Where a study runs; its records do not depend on it, up to rounding."""

    # Where records, checkpoints and the report go; the same command continues what is there.
    out: APath
    # The mesh of devices, such as data=4,fsdp=2: batches are split over both axes, parameters and
    # optimizer states over fsdp. By default all devices are on data.
    mesh: str = ""
    # Several processes: "auto" on Slurm, TPU pods, GKE or Open MPI, else ADDRESS:PORT,COUNT,INDEX.
    distributed: str = ""

    def __post_init__(self):
        if self.mesh:
            devices.mesh_sizes(self.mesh)
        if self.distributed:
            processes.check_cluster(self.distributed)


# The fields, without a prefix on the command line.
Fields = Annotated[Config, tyro.conf.arg(name="")]
Where = Annotated[Location, tyro.conf.arg(name="")]


def within(where: Location, name: str) -> Location:
    return dataclasses.replace(where, out=where.out / name)


def each(commands: Iterable[Command]) -> Command:
    """One after the other; all are checked when they are made."""
    made = list(commands)

    def run(watch: Watch) -> None:
        for command in made:
            command(watch)

    return run


def study_command(
    config: Config,
    where: Location,
    names: Sequence[str],
    stages: Callable[["Study"], Any],
    converging: Sequence[str] = (),
    reported: bool = True,
) -> Command:
    """A command that runs stages of a study and reports.

    Args:
      config: The study.
      where: Where it runs.
      names: The tasks whose texts and models it needs.
      stages: What it does once these are there.
      converging: The tasks whose rates it needs.
      reported: Whether it leaves records of which a report is made.
    """
    memory.check_memory(config, names)

    def run(watch: Watch) -> None:
        with at_once():
            from experiments.run.convergence import rates
            from experiments.run.study import Study, with_micro_batch

        try:
            if where.distributed:
                processes.initialize(where.distributed)
            over = devices.make_layout(where.mesh)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        for name in converging:
            rates(config, name)
        # Outside `listening`: what has no steps is stopped at once.
        with watch.doing("micro-batch that fits"):
            complete = with_micro_batch(config, where.out, names, over)
        with watch.listening(), Study(where.out, complete, watch, over).open() as study:
            for name in names:  # What cannot be used is better known now than after hours.
                study.task(name, config.seed)
            stages(study)
        if reported:
            report_from_first(where.out, watch)

    return run


def report_from_first(directory: Path, watch: Watch) -> None:
    """`report_on` in the process that writes."""
    if processes.is_first():
        report_on(directory, watch)


def report_on(directory: Path, watch: Watch) -> None:
    from rich.console import Console

    from experiments.report import padding, scale
    from experiments.report.page import write_report
    from experiments.report.recorded import Run

    try:
        with watch.doing(f"report of {directory}"):
            for kind in (scale, padding):
                if arms := kind.arms(directory):
                    path = kind.write_report(directory, arms)
                    break
            else:
                path = write_report(Run(directory), Console())
    except ValueError as error:  # Nothing to report.
        raise RefusedError(str(error)) from error
    watch.say(f"report: {path}")
