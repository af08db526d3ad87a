"""What a study is: every number that its records depend on."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from experiments import algorithms, paper, records
from sharpjax._checks import check_in_range

MOST_LAYERS = 1000  # A model's program is written out layer by layer.
MOST_POINTS = 1000  # Each point of a landscape is a pass over the test subset.
TASKS = ("translation", "mlm")
TRAJECTORIES = ("sgd", "adam")
Task = Literal["translation", "mlm", "causal"]  # The paper's two, and one more.


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """One task: its text, its tokenizer and its model."""

    # "embedded", a parquet or JSONL file (or its folder), or a Hugging Face hub id.
    corpus: str
    # "trained" on the study's texts, or a local folder or hub id of a pretrained tokenizer.
    tokenizer: str
    # A local folder or hub id of a pretrained model; "" makes one from the five fields below.
    checkpoint: str
    # Tokens of a source sentence with its prompt, or of a text; longer ones are cut.
    length: int
    # Tokens of a target sentence; not used by masked language modelling.
    target_length: int
    # Vocabulary of a trained tokenizer and of a model that is made.
    vocab_size: int
    # Width of the model; its heads have d_model/heads.
    d_model: int
    # Width of the feed-forward layers.
    d_ff: int
    # Blocks of the encoder, and of a T5's decoder.
    layers: int
    # Attention heads.
    heads: int


@dataclasses.dataclass(frozen=True)
class Config:
    """A study: both experiments on both tasks."""

    # The settings from which all other fields take their defaults.
    preset: Literal["demo", "small", "paper"]
    # English to French with a T5.
    translation: TaskConfig
    # Masked language modelling with a RoBERTa.
    mlm: TaskConfig
    # Causal language modelling with a GPT-2; `reproduce` leaves it out.
    causal: TaskConfig
    # Training examples: the first of the corpus.
    examples: int
    # Examples of a training step; it divides `examples`.
    batch_size: int
    # Examples that are in memory at once; it divides `batch_size` and `test_examples`. None
    # chooses the largest that fits the devices; the record has the number that was chosen.
    micro_batch_size: int | None
    # Epochs of the convergence runs and of a trajectory, which ends at its last measurement.
    epochs: int
    # Epochs in which sharpness is measured, from 1.
    measured_epochs: tuple[int, ...]
    # Batches measured in each of them, drawn from the seed.
    measured_batches: int
    # Training examples, drawn once, on which the test loss is measured.
    test_examples: int
    # Adam steps of the warm-up, on rows that the study does not use; 0 starts from scratch.
    warmup_steps: int
    # Rows for the warm-up, which follow the study's in the corpus.
    warmup_examples: int
    # Examples of a warm-up step.
    warmup_batch_size: int
    # Adam's rate in the warm-up.
    warmup_learning_rate: float
    # Rate of the SGD trajectory (momentum 0.9).
    sgd_learning_rate: float
    # Rate of the Adam trajectory.
    adam_learning_rate: float
    # Fraction of the coordinates that the clipped algorithms clip.
    clip_fraction: float
    # Whether training steps use the model's dropout; measurements never do.
    dropout: bool
    # Number format of the training steps; parameters and measurements are float32.
    training_dtype: Literal["float32", "bfloat16"]
    # How vᵀHv is computed; see sharpjax.directional_taylor.
    method: Literal["adjoint", "forward", "reverse"]
    # Directions that are measured together; None measures one after the other.
    chunk: int | None
    # Points of a landscape's grid.
    landscape_points: int
    # Search each algorithm's rate for the convergence runs, instead of taking the paper's Table 2.
    tune: bool
    # Steps of each run of that search.
    tune_steps: int
    # Steps between checkpoints.
    checkpoint_every: int
    # Seed for initialisation, data order, masks, test subset and measured batches.
    seed: int
    # Seeds of the sharpness experiment: seed, seed + 1, …
    replicates: int

    # Fields with a default came later: a run recorded without them had this value.

    # Whether blocks are recomputed in the backward pass instead of being kept, in training and in
    # measurements by method="reverse".
    remat: bool = False
    # What is compared: the paper's by their names, or any optimizer of sharpjax, optax or
    # optax.contrib whose only required argument is a learning rate; NAME_clip clips its gradient,
    # NAME_clip_update its update. Commas may separate them. Along a trajectory, SGD (the reference
    # for all ratios) and the trajectory's own optimizer are always measured too.
    algorithms: tuple[str, ...] = tuple(paper.ALGORITHMS)
    # At which points float64 is measured too: none, the first with a landscape on each trajectory,
    # or all.
    precision_check: Literal["none", "first", "all"] = "first"

    # Rates of trajectories other than SGD's and Adam's, such as muon=0.02.
    trajectory_rates: tuple[str, ...] = ()

    # What the search of a rate looks at: the first `tune_steps` steps, or the whole run, by the
    # mean loss of its last epoch, with one refinement around the best rate.
    tune_horizon: Literal["steps", "whole"] = "steps"

    def __post_init__(self):
        for words in self.trajectory_rates:
            name, equals, rate = words.partition("=")
            algorithms.check(name)
            if not equals or not re.fullmatch(r"\d*\.?\d+(e[-+]?\d+)?", rate):
                raise ValueError(f"trajectory_rates must be written as muon=0.02, got {words!r}")
        names = dict.fromkeys(n for word in self.algorithms for n in word.split(",") if n)
        object.__setattr__(self, "algorithms", tuple(names))
        if not names:
            raise ValueError("algorithms must name at least one")
        for name in names:
            algorithms.check(name)
        counts = "examples batch_size micro_batch_size epochs measured_batches test_examples"
        counts += " warmup_batch_size tune_steps checkpoint_every replicates"
        for name in counts.split():
            value = getattr(self, name)
            _require(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        for name in ("warmup_steps", "warmup_examples", "seed"):
            value = getattr(self, name)
            _require(value >= 0, f"{name} must not be negative, got {value}")
        for whole, part in (
            ("examples", "batch_size"),
            ("batch_size", "micro_batch_size"),
            ("test_examples", "micro_batch_size"),
        ):
            all_of, size = getattr(self, whole), getattr(self, part)
            said = f"{part} must divide {whole}, got {size} and {all_of}"
            _require(size is None or all_of % size == 0, said)
        _require(
            self.test_examples <= self.examples,
            f"test_examples must be at most examples ({self.examples}), got {self.test_examples}",
        )
        _require(
            self.measured_batches <= self.batches_per_epoch,
            f"measured_batches must be at most the {self.batches_per_epoch} batches of an epoch, "
            f"got {self.measured_batches}",
        )
        _require(
            bool(self.measured_epochs) and all(1 <= e <= self.epochs for e in self.measured_epochs),
            f"measured_epochs must lie in [1, {self.epochs}], got {self.measured_epochs}",
        )
        _require(
            3 <= self.landscape_points <= MOST_POINTS,
            f"landscape_points must lie in [3, {MOST_POINTS}], got {self.landscape_points}",
        )
        _require(
            self.chunk is None or self.chunk >= 1,
            f"chunk must be at least 1 or None, got {self.chunk}",
        )
        _require(
            not self.warmup_steps or self.warmup_examples >= self.warmup_batch_size,
            f"warmup_examples must be at least warmup_batch_size ({self.warmup_batch_size}), "
            f"got {self.warmup_examples}",
        )
        check_in_range("clip_fraction", self.clip_fraction, 0.0, 1.0)
        for name in ("warmup_learning_rate", "sgd_learning_rate", "adam_learning_rate"):
            check_in_range(name, getattr(self, name), 0.0, float("inf"), open_high=True)
        for task in get_args(Task):
            _check_task(task, getattr(self, task))

    @property
    def batches_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.examples // self.batch_size

    @property
    def seeds(self) -> range:
        """The seeds of the sharpness experiment."""
        return range(self.seed, self.seed + self.replicates)

    @property
    def largest_micro_batch(self) -> int:
        """The largest size that divides the batch and the test subset."""
        return math.gcd(self.batch_size, self.test_examples)

    def check_point(self, epoch: int | None, batch: int | None) -> None:
        """Raises a ValueError unless the study has such an epoch and such a batch; None is any."""
        for name, value, most in (
            ("epoch", epoch, self.epochs),
            ("batch", batch, self.batches_per_epoch),
        ):
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"{name} must lie in [1, {most}], got {value}")

    def rate_along(self, trajectory: str) -> float:
        """The learning rate of the optimizer that trains along a trajectory.

        Raises:
          ValueError: there is none, or no such optimizer.
        """
        algorithms.check(trajectory)
        rates = rates_along(vars(self))
        if trajectory not in rates:
            raise ValueError(
                f"trajectory_rates must have {trajectory}=RATE for its trajectory, got "
                f"{', '.join(self.trajectory_rates) or 'none'}"
            )
        return rates[trajectory]

    def measured(self, trajectory: str) -> tuple[str, ...]:
        """The algorithms that are measured along a trajectory."""
        always = (name for name in ("sgd", trajectory) if name not in self.algorithms)
        return (*dict.fromkeys(always), *self.algorithms)


def rates_along(fields: Mapping[str, Any]) -> dict[str, float]:
    """Trajectory -> its learning rate, of a configuration's fields, as far as these are there."""
    own = ((name, fields.get(f"{name}_learning_rate")) for name in TRAJECTORIES)
    others = (words.split("=") for words in fields.get("trajectory_rates", ()))
    return {name: float(rate) for name, rate in (*own, *others) if rate is not None}


def _require(holds: bool, said: str) -> None:
    if not holds:
        raise ValueError(said)


def _check_task(task: str, made: TaskConfig) -> None:
    for field in dataclasses.fields(made):
        value, name = getattr(made, field.name), f"{task}.{field.name}"
        _require(field.type is not int or value >= 1, f"{name} must be at least 1, got {value}")
    for name in ("corpus", "tokenizer"):
        _require(bool(getattr(made, name).strip()), f"{task}.{name} must not be empty")
    said = f"{task}.layers must be at most {MOST_LAYERS}, got {made.layers}"
    _require(made.layers <= MOST_LAYERS, said)
    said = f"{task}.heads must divide d_model ({made.d_model}), got {made.heads}"
    _require(made.d_model % made.heads == 0, said)


def as_json(config: Config) -> dict[str, Any]:
    """The configuration as JSON holds it: tuples are lists, and paths are text in any locale."""
    return records.as_text(_plain(dataclasses.asdict(config)))


def completed(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration with the fields that did not exist when it was recorded."""
    later = {
        f.name: f.default
        for f in dataclasses.fields(Config)
        if f.default is not dataclasses.MISSING
    }
    return _plain(later) | recorded


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def differences(recorded: dict[str, Any], asked: dict[str, Any], prefix: str = "") -> list[str]:
    """`field recorded (here asked)` for each field in which two JSON configurations differ."""
    found = []
    for name in sorted({*recorded, *asked}):
        ours, theirs = asked.get(name), recorded.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            found += differences(theirs, ours, f"{prefix}{name}.")
        elif ours != theirs:
            found.append(f"{prefix}{name} {theirs!r} (here {ours!r})")
    return found
