"""What each command does: its words are checked when it is made, its work is done when called.

What takes long to import is imported by the work: `--help` and a bad value need none of it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import tyro

from experiments.config import TASKS, TRAJECTORIES, Config, Task
from experiments.errors import RefusedError
from experiments.interrupts import at_once
from experiments.run import devices, memory, processes
from experiments.run.options import Options
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
    # Devices as data=4,fsdp=2: batches are split over both axes, parameters and states over fsdp.
    # By default all devices are on data.
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
FINE = Options()
WARMUPS = (0, 100, 300, 1000)


def reproduce(config: Fields, where: Where) -> Command:
    """Both experiments on both tasks, then the report.

    Args:
      config: The study.
      where: Where it runs, and what it leaves.
    """
    return _study(config, where, TASKS, lambda study: study.reproduce(), converging=TASKS)


def sharpness(
    config: Fields, where: Where, task: Task | None = None, trajectory: str | None = None
) -> Command:
    """Experiment 1 alone: all of Tables 3 to 6, or the columns asked for, then the report.

    Args:
      config: The study.
      where: Where it runs, and what it leaves.
      task: What the model learns; both of the paper's tasks if it is left out.
      trajectory: The optimizer whose trajectory is followed, SGD's and Adam's if it is left out;
        any other that `--trajectory-rates` has a rate of.
    """
    names = (task,) if task else TASKS
    followed = TRAJECTORIES if trajectory is None else (trajectory,)
    for name in followed:
        config.rate_along(name)

    def stages(study: "Study") -> None:
        for seed in config.seeds:
            for name in names:
                for along in followed:
                    study.sharpness(name, along, seed)

    return _study(config, where, names, stages)


def ablation(config: Fields, where: Where, warmups: tuple[int, ...] = WARMUPS) -> Command:
    """Experiment 1 from each of several warm-ups, in OUT/warmup-STEPS: what these steps change.

    Args:
      config: The study; its own `warmup_steps` do not count.
      where: Where it runs, and the folder of the runs.
      warmups: Adam steps before the study; 0 is from scratch.
    """
    if not warmups or len({*warmups}) < len(warmups):
        raise ValueError(f"warmups must be different numbers, at least one, got {warmups}")
    return _each(
        sharpness(dataclasses.replace(config, warmup_steps=n), _within(where, f"warmup-{n}"))
        for n in warmups
    )


def controls(config: Fields, where: Where) -> Command:
    """Convergence of clipped SGD at the paper's rate, and of all on the next seed.

    Args:
      config: The study.
      where: Where it runs, and the folder of the runs.
    """
    paper_rate = dataclasses.replace(config, tune=False, algorithms=("sgd_clip",))
    other = dataclasses.replace(config, seed=config.seed + 1)
    return _each(
        [convergence(paper_rate, _within(where, "sgd_clip-table-2"), "mlm")]
        + [convergence(other, _within(where, "another-seed"), task) for task in TASKS]
    )


def convergence(config: Fields, where: Where, task: Task) -> Command:
    """Experiment 2 on one task: one panel of Figure 4, then the report; `--tune` tunes the rates.

    Args:
      config: The study.
      where: Where it runs, and what it leaves.
      task: What the model learns.
    """
    return _study(config, where, (task,), lambda study: study.convergence(task), converging=(task,))


def atlas(
    config: Fields,
    out: APath,
    tasks: tuple[Task, ...] = get_args(Task),
    trajectories: tuple[str, ...] = TRAJECTORIES,
) -> Command:
    """Many optimizers side by side on the same trajectories, then the report.

    Slope, sharpness, cosines and descent at the measured points; the share in the dominant
    subspace and the parts by token frequency at the first point of the first and last epoch.

    Args:
      config: The study; `algorithms` are 32 by default.
      out: Where records, checkpoints and the report go; the same command continues what is there.
      tasks: What the models learn.
      trajectories: The optimizers whose trajectories are followed; see `sharpness`.
    """
    for name, values in (("tasks", tasks), ("trajectories", trajectories)):
        if not values or len({*values}) < len(values):
            raise ValueError(f"{name} must be different names, at least one, got {values}")
    for name in trajectories:
        config.rate_along(name)

    def stages(study: "Study") -> None:
        look = Options(instruments=("frequency", "dominant_shares"))
        for trajectory in trajectories:
            for task in tasks:
                for seed in config.seeds:
                    study.sharpness(task, trajectory, seed)
                for epoch in sorted({min(config.measured_epochs), max(config.measured_epochs)}):
                    study.anatomy(task, trajectory, epoch, None, look)

    return _study(config, Location(out, mesh="data=1"), tasks, stages)


def anatomy(
    config: Fields,
    out: APath,
    task: Task,
    trajectory: str = "adam",
    epoch: int | None = None,
    batch: int | None = None,
    options: Options = FINE,
) -> Command:
    """Where the sharpness sits and what it is made of, at one point, then the report.

    Args:
      config: The study; a task's `checkpoint` may be a pretrained folder.
      out: Where records, checkpoints and the report go; the same command continues what is there.
      task: What the model learns.
      trajectory: The optimizer whose trajectory leads to the point; see `sharpness`.
      epoch: Of the point, from 1; by default the first that is measured.
      batch: Of the epoch, from 1; by default the first that is measured there.
      options: How finely the instruments look.
    """
    config.check_point(epoch, batch)
    config.rate_along(trajectory)
    return _study(
        config,
        Location(out, mesh="data=1"),
        (task,),
        lambda study: study.anatomy(task, trajectory, epoch, batch, options),
    )


def make_plan(
    config: Fields,
    task: Task = "translation",
    model: str = "",
    mesh: str = "data=1",
    device_memory: float = 80.0,
) -> Command:
    """What the study needs on devices that are not here: bytes, operations, traffic.

    Args:
      config: The study; without `--micro-batch-size`, the largest that fits is chosen.
      task: What the model learns.
      model: A published size, as t5-11b, instead of the configuration's model.
      mesh: Devices as data=8,fsdp=32: batches are split over both axes, parameters over fsdp.
      device_memory: GiB of one device.
    """
    if not 0 < device_memory < float("inf"):
        raise ValueError(f"device_memory must be positive and finite, got {device_memory}")
    devices.mesh_sizes(mesh, config.largest_micro_batch)

    def run(watch: Watch) -> None:
        from rich.console import Console

        from experiments.run import plan

        try:
            plan.show(config, task, model, mesh, device_memory, Console())
        except ValueError as error:
            raise RefusedError(str(error)) from error

    return run


def make_report(directory: tyro.conf.Positional[APath]) -> Command:
    """Tables, figures, claims and report.html from a run's records, finished or not.

    Args:
      directory: The directory of the run.
    """
    return lambda watch: _report(directory, watch)


def fill_results(
    documents: tyro.conf.Positional[tuple[APath, ...]],
    main: APath = Path("results/small"),
    ablation: APath = Path("results/ablation"),
) -> Command:
    """Fills the marked numbers, tables and figures of documents from committed records.

    Args:
      documents: Markdown files; what their blocks may hold is in `experiments/report/documents.py`.
      main: The directory of the study's records.
      ablation: The folder with a directory of records for each warm-up.
    """
    if not documents:
        raise ValueError("results needs at least one document")

    def run(watch: Watch) -> None:
        from experiments.report.documents import write

        try:
            changed = write(documents, main, ablation)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        for path, anew in zip(documents, changed, strict=True):
            watch.say(f"{path}: {'filled anew' if anew else 'as it was'}")

    return run


COMMANDS: dict[str, Callable[..., Command]] = {
    "reproduce": reproduce,
    "sharpness": sharpness,
    "convergence": convergence,
    "anatomy": anatomy,
    "ablation": ablation,
    "controls": controls,
    "atlas": atlas,
    "plan": make_plan,
    "report": make_report,
    "results": fill_results,
}
WITHOUT_CONFIG = (make_report, fill_results)


def _within(where: Location, name: str) -> Location:
    return dataclasses.replace(where, out=where.out / name)


def _each(commands: Iterable[Command]) -> Command:
    """One after the other; all are checked when they are made."""
    made = list(commands)

    def run(watch: Watch) -> None:
        for command in made:
            command(watch)

    return run


def _study(
    config: Config,
    where: Location,
    names: Sequence[str],
    stages: Callable[["Study"], Any],
    converging: Sequence[str] = (),
) -> Command:
    """A command that runs stages of a study and reports.

    Args:
      config: The study.
      where: Where it runs.
      names: The tasks whose texts and models it needs.
      stages: What it does once these are there.
      converging: The tasks whose rates it needs.
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
        if processes.is_first():
            _report(where.out, watch)

    return run


def _report(directory: Path, watch: Watch) -> None:
    from rich.console import Console

    from experiments.report.page import write_report
    from experiments.report.recorded import Run

    try:
        with watch.doing(f"report of {directory}"):
            path = write_report(Run(directory), Console())
    except ValueError as error:  # Nothing to report.
        raise RefusedError(str(error)) from error
    watch.say(f"report: {path}")
