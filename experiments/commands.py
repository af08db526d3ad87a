"""What each command does: its words are checked when it is made, its work is done when called.

What takes long to import is imported by the work: `--help` and a bad value need none of it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import tyro

from experiments.algorithms import ATLAS, OWN
from experiments.arms import configured, of_task
from experiments.config import TASKS, TRAJECTORIES, Config, Task
from experiments.errors import RefusedError
from experiments.launch import (
    APath,
    Command,
    Fields,
    Location,
    Where,
    each,
    report_from_first,
    report_on,
    study_command,
    within,
)
from experiments.run import devices
from experiments.run.options import PADDING, Options
from experiments.run.progress import Watch

if TYPE_CHECKING:
    from experiments.run.study import Study

FINE = Options()
WARMUPS = (0, 100, 300, 1000)
ATTENDED, COUNTED = (64, 128), (32, 64)  # Tokens.


def reproduce(config: Fields, where: Where, beside: bool = False) -> Command:
    """Both experiments on both tasks, then the report.

    Args:
      config: The study.
      where: Where it runs, and what it leaves.
      beside: Whether six more optimizers, and padding that is attended and counted, are looked at
        besides, at one point of SGD's trajectory in translation; in OUT/beside.
    """

    def stages(study: "Study") -> None:
        study.reproduce()
        if beside:
            study.beside()

    return study_command(config, where, TASKS, stages, converging=TASKS)


def sharpness(
    config: Fields, where: Where, task: Task | None = None, trajectory: str | None = None
) -> Command:
    """Experiment 1 alone: all of Tables 3 to 6, or the columns asked for, then the report.

    Args:
      config: The study.
      where: Where it runs, and what it leaves.
      task: What the model learns; both of the paper's tasks if it is left out.
      trajectory: The optimizer that trains; SGD and Adam in turn if it is left out. Any other needs
        a rate in `--trajectory-rates`.
    """
    names = (task,) if task else TASKS
    followed = TRAJECTORIES if trajectory is None else (trajectory,)
    return study_command(config, where, names, _columns(config, names, followed))


def _columns(
    config: Config, names: Sequence[Task], trajectories: Sequence[str]
) -> Callable[["Study"], None]:
    """The stages of experiment 1 on each of these tasks along each of these trajectories."""
    for name in trajectories:
        config.rate_along(name)

    def stages(study: "Study") -> None:
        for seed in config.seeds:
            for task in names:
                for along in trajectories:
                    study.sharpness(task, along, seed)

    return stages


def ablation(config: Fields, where: Where, warmups: tuple[int, ...] = WARMUPS) -> Command:
    """Experiment 1 after several lengths of warm-up, each in OUT/warmup-STEPS.

    Args:
      config: The study; its own `warmup_steps` are not used.
      where: Where it runs, and the folder of the runs.
      warmups: Adam steps before the study; 0 is from scratch.
    """
    if not warmups or len({*warmups}) < len(warmups):
        raise ValueError(f"warmups must be different numbers, at least one, got {warmups}")
    return each(
        sharpness(dataclasses.replace(config, warmup_steps=n), within(where, f"warmup-{n}"))
        for n in warmups
    )


def controls(config: Fields, where: Where) -> Command:
    """Two controls of experiment 2: clipped SGD at the paper's rate, and all on the next seed.

    Args:
      config: The study.
      where: Where it runs, and the folder of the runs.
    """
    paper_rate = dataclasses.replace(config, tune=False, algorithms=("sgd_clip",))
    other = dataclasses.replace(config, seed=config.seed + 1)
    return each(
        [convergence(paper_rate, within(where, "sgd_clip-table-2"), "mlm")]
        + [convergence(other, within(where, "another-seed"), task) for task in TASKS]
    )


def pretrain(config: Fields, where: Where, task: Task) -> Command:
    """The warm-up by itself: a Hugging Face folder OUT/TASK, which `--TASK.checkpoint` takes.

    Args:
      config: The study; its first `seed` counts, and what comes before the study's own runs.
      where: Where it runs, and what it leaves.
      task: What the model learns.
    """
    if not config.warmup_steps:
        raise ValueError("warmup_steps must be at least 1 for pretrain, got 0")
    return study_command(config, where, (task,), lambda study: study.pretrain(task), reported=False)


def padding(
    config: Fields,
    where: Where,
    attended: tuple[int, ...] = ATTENDED,
    counted: tuple[int, ...] = COUNTED,
) -> Command:
    """What padding does to translation's sharpness, from one start, a run a kind in OUT.

    Each run measures SGD's trajectory, and at its first measured point which coordinates and which
    targets are sharp. The start is made by `pretrain` in OUT/start; without `warmup_steps`, it is
    the task's `checkpoint`.

    Args:
      config: The study.
      where: Where it runs, and the folder of the runs.
      attended: Tokens that sources are padded to where their padding is attended.
      counted: Tokens that sources and targets are padded to where both paddings count.
    """
    start, about = where.out / "start", config.translation
    commands = []
    if config.warmup_steps:
        about = dataclasses.replace(about, padding="masked", padded_length=None)
        before = dataclasses.replace(config, translation=about)
        commands = [pretrain(before, within(where, "start"), "translation")]
        folder = str(start / "translation")
        about = dataclasses.replace(
            about, checkpoint=folder, tokenizer=folder, warmup_corpus=(), warmup_shortest=1
        )
        config = dataclasses.replace(config, warmup_steps=0)
    arms = [("masked", None), *(("attended", n) for n in attended)]
    arms += [("counted", n) for n in counted]
    for kind, length in arms:
        padded = dataclasses.replace(about, padding=kind, padded_length=length)
        arm = dataclasses.replace(config, translation=padded)
        commands.append(_padding_run(arm, within(where, f"{kind}-{length or about.length}")))
    return each([*commands, functools.partial(report_from_first, where.out)])


def _padding_run(config: Config, where: Location) -> Command:
    look = Options(instruments=("lorenz", *PADDING), directions=("sgd", "sgd_clip", "adam"))

    def stages(study: "Study") -> None:
        for seed in config.seeds:
            study.sharpness("translation", "sgd", seed)
        study.anatomy("translation", "sgd", options=look)

    return study_command(config, where, ("translation",), stages, reported=False)


def scale(
    config: Fields,
    where: Where,
    task: Task = "translation",
    trajectories: tuple[str, ...] = ("sgd",),
    arms: tuple[str, ...] = (),
) -> Command:
    """What size, vocabulary, start and embedding do to sharpness, a run an arm in OUT.

    Args:
      config: The study, which is the arm `base`; each other arm changes one thing of it, and
        t5-small all of its size.
      where: Where it runs, and the folder of the runs.
      task: What the models learn.
      trajectories: The optimizers that train; see `sharpness`.
      arms: Those of `experiments/arms.py` that are run; all that the task has if none is named.
    """
    known = of_task(task)
    if unknown := [arm for arm in arms if arm not in known]:
        there = ", ".join(known)
        raise ValueError(f"arms must be of {there}; got {', '.join(unknown)}")
    stages = _columns(config, (task,), trajectories)
    runs = (
        study_command(
            configured(config, task, arm), within(where, arm), (task,), stages, reported=False
        )
        for arm in dict.fromkeys(arms or known)
    )
    return each([*runs, functools.partial(report_from_first, where.out)])


def convergence(config: Fields, where: Where, task: Task) -> Command:
    """Experiment 2 on one task: one panel of Figure 4, then the report; `--tune` tunes the rates.

    Args:
      config: The study.
      where: Where it runs, and what it leaves.
      task: What the model learns.
    """
    return study_command(
        config, where, (task,), lambda study: study.convergence(task), converging=(task,)
    )


def atlas(
    config: Fields,
    out: APath,
    tasks: tuple[Task, ...] = get_args(Task),
    trajectories: tuple[str, ...] = TRAJECTORIES,
    follow: tuple[Literal["shared", "own"], ...] = ("shared", "own"),
    own: tuple[str, ...] = OWN,
) -> Command:
    """Many optimizers side by side: on shared trajectories, then some each on its own.

    At shared points: slope, sharpness, cosines and descent; at the first of the first and of the
    last measured epoch also the share in the dominant subspace and the parts by token frequency.
    On their own, in OUT/own: a rate searched over the whole horizon, and sharpness along the run.

    Args:
      config: The study; `algorithms` are 32 by default.
      out: Where records, checkpoints and the report go; the same command continues what is there.
      tasks: What the models learn.
      trajectories: The optimizers whose trajectories are shared; see `sharpness`.
      follow: Which of the two is made.
      own: The optimizers that train on their own.
    """
    several = {"tasks": tasks, "trajectories": trajectories, "follow": follow, "own": own}
    for name, values in several.items():
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

    def on_their_own(study: "Study") -> None:
        for task in tasks:
            study.convergence(task, measured=True)

    searched = dataclasses.replace(config, algorithms=own, tune=True, tune_horizon="whole")
    where = Location(out, mesh="data=1")
    commands = {
        "shared": study_command(config, where, tasks, stages),
        "own": study_command(searched, within(where, "own"), tasks, on_their_own, converging=tasks),
    }
    made = [command for name, command in commands.items() if name in follow]
    # The report of the shared trajectories compares with the losses that the others reached.
    return each([*made, make_report(out)] if len(made) > 1 else made)


def anatomy(
    config: Fields,
    out: APath,
    task: Task,
    trajectory: str = "adam",
    epoch: tuple[int, ...] = (),
    batch: int | None = None,
    options: Options = FINE,
) -> Command:
    """Where the sharpness sits and what it is made of, at a point or several, then the report.

    Args:
      config: The study; a task's `checkpoint` may be a pretrained folder.
      out: Where records, checkpoints and the report go; the same command continues what is there.
      task: What the model learns.
      trajectory: The optimizer that trains up to the point; see `sharpness`.
      epoch: Epochs, counted from 1, each with its point; the first measured one by default.
      batch: Batch of each epoch, counted from 1; the first measured one by default.
      options: How finely each quantity is measured.
    """
    epochs = epoch or (None,)
    for at in epochs:
        config.check_point(at, batch)
    config.rate_along(trajectory)
    if unknown := [a for a in options.directions if a not in config.measured(trajectory)]:
        raise ValueError(f"options.directions must be measured there, got {', '.join(unknown)}")
    if task != "translation" and (of := {*PADDING} & {*options.instruments}):
        raise ValueError(f"options.instruments: {', '.join(sorted(of))} need --task translation")

    def stages(study: "Study") -> None:
        for at in epochs:
            study.anatomy(task, trajectory, at, batch, options)

    return study_command(config, Location(out, mesh="data=1"), (task,), stages)


def make_plan(
    config: Fields,
    task: Task = "translation",
    model: str = "",
    mesh: str = "data=1",
    device_memory: float = 80.0,
) -> Command:
    """The memory, operations and traffic of a study on devices that are not here.

    Args:
      config: The study; without `--micro-batch-size`, the largest that fits is chosen.
      task: What the model learns.
      model: A published size, such as t5-11b, instead of the configuration's model.
      mesh: Such as data=8,fsdp=32: batches are split over both axes, parameters over fsdp.
      device_memory: Memory of one device, in GiB.
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
      directory: The directory of the run, or the folder of a padding or a scale study, which has
        report.md.
    """
    return lambda watch: report_on(directory, watch)


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
    "pretrain": pretrain,
    "padding": padding,
    "scale": scale,
    "ablation": ablation,
    "controls": controls,
    "atlas": atlas,
    "plan": make_plan,
    "report": make_report,
    "results": fill_results,
}
WITHOUT_CONFIG = (make_report, fill_results)
# What a command takes instead of its preset's, unless it is given.
DEFAULTS: dict[Callable[..., Command], dict[str, Any]] = {
    make_plan: {"micro_batch_size": None},  # Chooses one.
    atlas: {"algorithms": ATLAS},
}
