"""A study in its directory: one configuration, its provenance, warm starts, and its stages."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

import sharpjax
from experiments import algorithms, records
from experiments import config as configuration
from experiments.config import Config
from experiments.data.tasks import Task, make_task
from experiments.errors import DataError, RefusedError
from experiments.rows import Row
from experiments.run import (
    anatomy,
    beside,
    convergence,
    plan,
    pretraining,
    processes,
    sharpness,
    training,
)
from experiments.run.devices import Layout, one_device
from experiments.run.options import Options
from experiments.run.progress import Watch
from experiments.run.training import Checkpoints, Training

# What a directory's records and its warm-ups belong to, by the checksums of its provenance.
BELONGS = {
    "checksum": "texts",
    "warmup_checksum": "texts of the warm-up",
    "tokens_checksum": "tokenizer",
    "checkpoint_checksum": "checkpoint",
}
PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "transformers", "tokenizers")


class Study:
    """Runs stages of one configuration in one directory; each stage continues where it ended."""

    def __init__(self, directory: Path, config: Config, watch: Watch, layout: Layout | None = None):
        self.directory, self.config, self.watch = directory, config, watch
        self.layout = layout or one_device()
        if config.micro_batch_size is None:
            raise RefusedError("micro_batch_size must be given; `with_micro_batch` finds one")
        for name in ("micro_batch_size", *(["warmup_batch_size"] if config.warmup_steps else [])):
            size, devices = getattr(config, name), self.layout.mesh.size
            if size % devices:
                raise RefusedError(f"the mesh's {devices} devices must divide {name}, got {size}")
        self._new = False  # Whether the directory had no configuration before.
        self._tasks: dict[tuple[str, int], Task] = {}
        self._provenance: dict[str, Any] = {"tasks": {}, "wall_seconds": {}}

    @contextlib.contextmanager
    def open(self) -> Iterator["Study"]:
        """Claims the directory for this configuration and for this process.

        Raises:
          RefusedError: another configuration made it, or another process is writing to it.
          DamagedError: its configuration or provenance cannot be read.
          OSError: it cannot be written to.
        """
        with contextlib.ExitStack() as held:
            processes.from_first(lambda: self._claim(held))
            try:
                yield self
            except (DataError, RefusedError):
                if processes.is_first():
                    self._give_back()
                raise

    def _give_back(self) -> None:
        """Leaves a new directory as it was: what is refused must not be in a correction's way."""
        if self._new and not any(self.directory.glob("*.csv")):
            for name in ("config.json", "provenance.json"):
                (self.directory / name).unlink(missing_ok=True)

    def _claim(self, held: contextlib.ExitStack) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = held.enter_context((self.directory / ".lock").open("wb"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(f"{self.directory} is in use by another run") from None
        path = self.directory / "config.json"
        asked = configuration.as_json(self.config)
        if path.exists():
            recorded = configuration.completed(records.read_json(path))
            differing = configuration.differences(recorded, asked)
            if differing:
                raise RefusedError(
                    f"{self.directory} was made with another configuration: {', '.join(differing)}"
                )
        elif any(self.directory.glob("*.csv")):
            raise RefusedError(f"{self.directory} holds records of a run without its config.json")
        else:
            self._new = True
            records.write_json(path, asked)
        path = self.directory / "provenance.json"
        if not path.exists() and any(self.directory.glob("*.csv")):
            raise RefusedError(
                f"{self.directory} holds records of a run without its provenance.json, "
                "which says from what texts they are: put it back"
            )
        self._provenance |= records.read_json(path)
        commit = _commit()
        # A directory may be continued by later code, elsewhere: all that wrote to it, in order.
        before = self._provenance.get("commits", [self._provenance.get("commit", commit)])
        environment = {
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "device": _device(self.layout),
            "mesh": dict(self.layout.mesh.shape),
            "precision": f"measured in float32 at matmul precision highest, "
            f"trained in {self.config.training_dtype} at matmul precision "
            f"{jax.config.jax_default_matmul_precision or 'default'}",
        }
        earlier = {name: self._provenance[name] for name in environment if name in self._provenance}
        environments = self._provenance.get("environments", [earlier] if earlier else [])
        self._provenance |= {
            "sharpjax": sharpjax.__version__,
            "commit": commit,
            "commits": list(dict.fromkeys([*before, commit])),
            **environment,
            "environments": [*(e for e in environments if e != environment), environment],
            "seed": self.config.seed,
        }
        self._write_provenance()

    def _write_provenance(self) -> None:
        if processes.is_first():
            records.write_json(self.directory / "provenance.json", self._provenance)

    @contextlib.contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        """Adds the stage's wall time to the provenance, also when it is interrupted."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = self._provenance["wall_seconds"]
            seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - started, 1)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, of this process.
            key = "peak_memory_mib"
            self._provenance[key] = max(self._provenance.get(key, 0), round(peak / 1024))
            self._write_provenance()

    def task(self, name: str, seed: int) -> Task:
        """The task at a seed; made once a process."""
        if (name, seed) not in self._tasks:
            with (
                self._timed(f"text and model, {name}"),
                self.watch.doing(f"{name}: text and model"),
            ):
                made = make_task(name, self.config, seed)
            self._adopt(made)
        return self._tasks[name, seed]

    def _adopt(self, made: Task) -> None:
        processes.from_first(lambda: self._check_belongs(made))
        self._tasks[made.name, made.seed] = made
        self._provenance["tasks"].setdefault(made.name, {}).update(made.about)
        self._write_provenance()

    @contextlib.contextmanager
    def within(self, folder: str, task: Task) -> Iterator["Study"]:
        """A study of one task that is made already, in a folder of this one's, while it is open."""
        with Study(self.directory / folder, task.config, self.watch, self.layout).open() as study:
            study._adopt(task)
            yield study

    def _check_belongs(self, task: Task) -> None:
        """Raises if what the directory was made from is not what is there now.

        What an earlier version did not record is taken for the same.
        """
        recorded = self._provenance["tasks"].get(task.name, {})
        differing = [
            key for key in BELONGS if key in recorded and recorded[key] != task.about.get(key)
        ]
        if "checksum" in differing and "tokens_checksum" in differing:
            differing.remove("tokens_checksum")  # Other texts are other tokens.
        if differing:
            words = (
                f"{BELONGS[k]} {recorded[k]:.12} (here {task.about.get(k, 'none'):.12})"
                for k in differing
            )
            raise RefusedError(
                f"{self.directory} was made from other files of {task.name}, though under the same "
                f"names: {', '.join(words)}; put them back, or choose another --out"
            )

    def record(self, rows: list[Row]) -> None:
        """Writes rows down; all processes call it, and the first one writes."""
        if processes.is_first():
            records.append(self.directory, rows)

    def recorded(self, table: type[Row], key: tuple) -> list[Any]:
        """The rows that are there already, of these values of their key's first columns."""
        rows = processes.from_first(lambda: records.read(self.directory, table))
        return [row for row in rows if row.key[: len(key)] == key]

    def checkpoints(self, *name: Any, every: int = 1) -> Checkpoints:
        """Those of one trajectory; `every` multiplies the configuration's steps between two."""
        folder = self.directory / "checkpoints" / "-".join(map(str, name))
        return Checkpoints(folder, every * self.config.checkpoint_every)

    def train(self, what: Training, params: Any, **options: Any) -> Any:
        """`training.train` with the study's progress, on its devices."""
        return training.train(what, params, self.watch, layout=self.layout, **options)

    def start(self, task: Task) -> Any:
        """Where every run of a task and seed starts: the model warmed up, once for all of them."""
        if not self.config.warmup_steps:
            return task.initial_params
        rate = self.config.warmup_learning_rate
        with self._timed(f"warm-up, {task.name}"):
            warmup = Training(
                f"{task.name}, warm-up, seed {task.seed}",
                algorithms.build(
                    self.config.warmup_algorithm,
                    self.config.clip_fraction,
                    None if rate is None else repr(rate),
                ),
                task.training_loss_fn,
                task.warmup_batches,
                self.config.warmup_steps,
                dropout_key=task.dropout_key,
            )
            # A warm-up step is short: checkpoints of it are rarer.
            kept = self.checkpoints("warmup", task.name, task.seed, every=10)
            return self.train(warmup, task.initial_params, checkpoints=kept)

    def pretrain(self, name: str) -> Path:
        """The warm-up by itself; the Hugging Face folder that it leaves in the directory."""
        task = self.task(name, self.config.seed)
        start = self.start(task)
        with self._timed(f"pretrained model, {name}"):
            return pretraining.write(self, task, start)

    def sharpness(self, name: str, trajectory: str, seed: int) -> None:
        """One column of Tables 3 to 6 at one seed."""
        task = self.task(name, seed)
        start = self.start(task)
        with self._timed(f"sharpness, {name}, {trajectory} trajectory"):
            sharpness.run(self, task, trajectory, start)

    def convergence(self, name: str, measured: bool = False) -> None:
        """One panel of Figure 4; `measured` with each optimizer's sharpness along its own run."""
        task = self.task(name, self.config.seed)
        start = self.start(task)
        with self._timed(f"convergence, {name}"):
            convergence.run(self, task, start, measured)

    def anatomy(
        self,
        name: str,
        trajectory: str,
        epoch: int | None = None,
        batch: int | None = None,
        options: Options | None = None,
    ) -> None:
        """The anatomy of sharpness at one point of a trajectory.

        Args:
          name: The task.
          trajectory: The optimizer whose trajectory leads to the point.
          epoch: Of the point, from 1; None takes the first that the sharpness experiment measures.
          batch: Of the epoch, from 1; None takes the first that is measured there, so that the
            point's sharpness is also in sharpness.csv. The start itself is epoch 1, batch 1.
          options: How finely the measurements look.

        Raises:
          ValueError: no such epoch or batch.
        """
        self.config.check_point(epoch, batch)
        task = self.task(name, self.config.seed)
        epoch = min(self.config.measured_epochs) if epoch is None else epoch
        batch = task.measured_batches(epoch)[0] if batch is None else batch
        start = self.start(task)
        with self._timed(f"anatomy, {name}, {trajectory} trajectory"):
            at = (task.name, trajectory, task.seed, epoch, batch)
            anatomy.run(self, task, at, start, options or Options())

    def beside(self) -> None:
        """More optimizers, and padding that counts, at one point of translation."""
        task = self.task("translation", self.config.seed)
        start = self.start(task)
        with self._timed("more optimizers and padding"):
            beside.run(self, task, start)

    def reproduce(self) -> None:
        """Both experiments on both tasks; further seeds of the first come last."""
        for seed in self.config.seeds:
            for name in configuration.TASKS:
                for trajectory in configuration.TRAJECTORIES:
                    self.sharpness(name, trajectory, seed)
            if seed == self.config.seed:
                for name in configuration.TASKS:
                    self.convergence(name)


def with_micro_batch(
    config: Config, directory: Path, names: Sequence[str], layout: Layout
) -> Config:
    """The configuration with the micro-batch size that its directory records, or that fits.

    Raises:
      RefusedError: no size fits these tasks on these devices.
    """
    if config.micro_batch_size is not None:
        return config
    path = directory / "config.json"
    recorded = processes.from_first(lambda: records.read_json(path))
    if recorded.get("micro_batch_size"):
        return dataclasses.replace(config, micro_batch_size=recorded["micro_batch_size"])
    try:
        return plan.complete(config, names, layout)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _commit() -> str:
    """The checkout's commit, marked if it has changes; "unknown" outside one."""
    run = lambda *words: subprocess.run(  # noqa: E731
        ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        changed = run("status", "--porcelain", "--untracked-files=no")
        return run("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _device(layout: Layout) -> str:
    devices = layout.mesh.devices.ravel()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"{platform.machine()} CPU, {os.cpu_count()} cores"
    return kind if len(devices) == 1 else f"{len(devices)} × {kind}"
