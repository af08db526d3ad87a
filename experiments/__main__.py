"""The command line: `python -m experiments --help`."""

import contextlib
import dataclasses
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console

from experiments import plan, processes, report, results
from experiments.algorithms import AlgorithmError
from experiments.config import PRESETS, TASKS, TRAJECTORIES, Config, Task, Trajectory
from experiments.convergence import rates
from experiments.corpora import DataError
from experiments.instruments import Options
from experiments.layout import make_layout
from experiments.study import RefusedError, Study, with_micro_batch
from experiments.watch import Interrupted, Watch


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a study runs; its records do not depend on it, up to rounding."""

    # Where records, checkpoints and the report go; the same command continues what is there.
    out: Path
    # Devices as data=4,fsdp=2: batches are split over both axes, parameters and states over fsdp.
    # By default all devices are on data.
    mesh: str = ""
    # Several processes: "auto" on Slurm, TPU pods, GKE or Open MPI, else ADDRESS:PORT,COUNT,INDEX.
    distributed: str = ""


# The fields, without a prefix on the command line.
Fields = Annotated[Config, tyro.conf.arg(name="")]
Where = Annotated[Place, tyro.conf.arg(name="")]
Command = Callable[[Watch], None]
FINE = Options()


def reproduce(config: Fields, place: Where) -> Command:
    """Both experiments on both tasks, then the report.

    Args:
      config: The study.
      place: Where it runs, and what it leaves.
    """
    for task in TASKS:
        rates(config, task)  # Better now than after the first experiment.
    return _study(config, place, TASKS, lambda study: study.reproduce())


def sharpness(
    config: Fields, place: Where, task: Task | None = None, trajectory: Trajectory | None = None
) -> Command:
    """Experiment 1 alone: all of Tables 3 to 6, or the columns asked for, then the report.

    Args:
      config: The study.
      place: Where it runs, and what it leaves.
      task: What the model learns; both of the paper's tasks if it is left out.
      trajectory: The optimizer whose trajectory is followed; both if it is left out.
    """
    names = (task,) if task else TASKS

    def stages(study: Study) -> None:
        for seed in config.seeds:
            for name in names:
                for along in (trajectory,) if trajectory else TRAJECTORIES:
                    study.sharpness(name, along, seed)

    return _study(config, place, names, stages)


def convergence(config: Fields, place: Where, task: Task) -> Command:
    """Experiment 2 on one task: one panel of Figure 4, then the report; `--tune` tunes the rates.

    Args:
      config: The study.
      place: Where it runs, and what it leaves.
      task: What the model learns.
    """
    rates(config, task)
    return _study(config, place, (task,), lambda study: study.convergence(task))


def anatomy(
    config: Fields,
    out: Path,
    task: Task,
    trajectory: Trajectory = "adam",
    epoch: int | None = None,
    batch: int | None = None,
    options: Options = FINE,
) -> Command:
    """Where the sharpness sits and what it is made of, at one point, then the report.

    Args:
      config: The study; a task's `checkpoint` may be a pretrained folder.
      out: Where records, checkpoints and the report go; the same command continues what is there.
      task: What the model learns.
      trajectory: The optimizer whose trajectory leads to the point.
      epoch: Of the point, from 1; by default the first that is measured.
      batch: Of the epoch, from 1; by default the first that is measured there.
      options: How finely the instruments look.
    """
    return _study(
        config,
        Place(out, mesh="data=1"),
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

    def run(watch: Watch) -> None:
        try:
            plan.show(config, task, model, mesh, device_memory, Console())
        except ValueError as error:
            raise RefusedError(str(error)) from error

    return run


def make_report(directory: tyro.conf.Positional[Path]) -> Command:
    """Tables, figures, claims and report.html from a run's records, finished or not.

    Args:
      directory: The directory of the run.
    """
    return lambda watch: _report(directory, watch)


def fill_results(
    documents: tyro.conf.Positional[tuple[Path, ...]],
    main: Path = Path("results/small"),
    ablation: Path = Path("results/ablation"),
) -> Command:
    """Fills the marked numbers, tables and figures of documents from committed records.

    Args:
      documents: Markdown files; what their blocks may hold is in `experiments/results.py`.
      main: The directory of the study's records.
      ablation: The folder with a directory of records for each warm-up.
    """

    def run(watch: Watch) -> None:
        try:
            changed = results.write(documents, main, ablation)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        for path, anew in zip(documents, changed, strict=True):
            watch.say(f"{path}: {'filled anew' if anew else 'as it was'}")

    return run


COMMANDS = {
    "reproduce": reproduce,
    "sharpness": sharpness,
    "convergence": convergence,
    "anatomy": anatomy,
    "plan": make_plan,
    "report": make_report,
    "results": fill_results,
}
WITHOUT_CONFIG = (make_report, fill_results)


def _study(
    config: Config, place: Place, names: Sequence[str], stages: Callable[[Study], None]
) -> Command:
    def run(watch: Watch) -> None:
        try:
            if place.distributed:
                processes.initialize(place.distributed)
            layout = make_layout(place.mesh)
        except ValueError as error:
            raise RefusedError(str(error)) from error
        # Only here: what has no steps is stopped at once.
        complete = with_micro_batch(config, place.out, names, layout)
        with watch.listening(), Study(place.out, complete, watch, layout).open() as study:
            stages(study)
        if processes.is_first():
            _report(place.out, watch)

    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 is success, 2 a bad value, 1 a failure, 130 an interruption."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _parse(arguments)
    except ValueError as error:
        return _fail(error, 2)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", Path.home() / ".cache" / "sharpjax")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    watch = Watch()
    try:
        command(watch)
    except Interrupted as stop:
        print(f"{stop}; the same command continues.", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("stopped at once; the same command continues.", file=sys.stderr)
        return 130
    except (AlgorithmError, DataError, RefusedError) as error:
        return _fail(error, 2)
    except OSError as error:
        return _fail(error, 1)
    return 0


def _parse(arguments: list[str]) -> Command:
    """The command with its configuration; SystemExit 0 after `--help`, ValueError if it is bad."""
    preset = _option(arguments, "--preset") or "demo"
    if preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    name = next((a for a in arguments if not a.startswith("-")), None)
    if name not in COMMANDS and not {"-h", "--help"} & set(arguments):
        raise ValueError(f"the command must be one of {', '.join(COMMANDS)}, got {name!r}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                {
                    name: _with_defaults(command, PRESETS[preset])
                    for name, command in COMMANDS.items()
                },
                prog="python -m experiments",
                description="The study of “Toward Understanding Why Adam Converges Faster Than "
                "SGD for Transformers”, on Flax T5 and RoBERTa.",
                args=arguments,
            )
    except SystemExit as exit:
        if not exit.code:
            raise
        raise ValueError(_one_line(said.getvalue())) from None


def _with_defaults(command: Callable, config: Config) -> Callable:
    if command in WITHOUT_CONFIG:
        return command
    if command is make_plan:  # Chooses a micro-batch unless one is given.
        config = dataclasses.replace(config, micro_batch_size=None)
    return functools.partial(command, config=config)


def _option(arguments: list[str], name: str) -> str | None:
    for i, argument in enumerate(arguments):
        if argument == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


def _one_line(box: str) -> str:
    """The first message of tyro's framed error; that of a dataclass of ours as it was raised."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box).strip()
    below_title = [line.strip("│ \t") for line in text.splitlines()[1:]]
    ruled = re.split(r"\n[─-]+\n", "\n" + "\n".join(below_title))  # Rules also where no frame is.
    found = " ".join(next((part for part in ruled if part.strip()), text).split())
    return re.sub(r"^Error parsing __tyro\S*: ", "", found)


def _report(directory: Path, watch: Watch) -> None:
    try:
        path = report.write_report(directory)
    except ValueError as error:  # Nothing to report, or records that are not ours.
        raise RefusedError(str(error)) from error
    report.print_tables(directory, Console())
    watch.say(f"report: {path}")


def _fail(error: Exception, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
