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
Padding = Literal["masked", "attended", "counted"]


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

    # Fields with a default came later: a task recorded without them had this value.

    # Whether the corpus is shuffled, for all seeds alike, before the study's rows are taken.
    shuffle: bool = False
    # Texts for the warm-up and a trained tokenizer, each what `corpus` may be; rows that share a
    # text with the study's are left out. By default the rows behind the study's in `corpus`.
    warmup_corpus: tuple[str, ...] = ()
    # Characters from which a text of it is used; of a pair, the English one's.
    warmup_shortest: int = 1
    # What the study's padding is to a translation model: "masked" hides the source's, "attended"
    # shows it (no attention mask), "counted" also counts the target's in the loss. The warm-up's is
    # masked.
    padding: Padding = "masked"
    # Tokens that the study's sources are padded to, and targets whose padding is counted; None is
    # `length` and `target_length`, at which texts are cut in any case.
    padded_length: int | None = None
    # Factor on the initial token embedding of a T5 that is made.
    embedding_scale: float = 1.0


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
    # Steps of the warm-up, on rows that the study does not use; 0 starts from scratch.
    warmup_steps: int
    # Rows for the warm-up, which follow the study's in the corpus, or are drawn from
    # `warmup_corpus`; None takes all.
    warmup_examples: int | None
    # Examples of a warm-up step.
    warmup_batch_size: int
    # The warm-up optimizer's rate; None is its own, as Adafactor's relative step.
    warmup_learning_rate: float | None
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
    # Steps between checkpoints, or more: they take a twentieth of the time at most.
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
    # The optimizer of the warm-up, by name.
    warmup_algorithm: str = "adam"

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
            _require(value is None or value >= 0, f"{name} must not be negative, got {value}")
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
        rows = self.warmup_examples
        _require(
            not self.warmup_steps or rows is None or rows >= self.warmup_batch_size,
            f"warmup_examples must be at least warmup_batch_size ({self.warmup_batch_size}), "
            f"got {rows}",
        )
        algorithms.check(self.warmup_algorithm)
        _require(
            self.warmup_learning_rate is not None
            or algorithms.own_rate(self.warmup_algorithm) is not None,
            f"warmup_learning_rate must be given: {self.warmup_algorithm} has none of its own",
        )
        check_in_range("clip_fraction", self.clip_fraction, 0.0, 1.0)
        for name in ("warmup_learning_rate", "sgd_learning_rate", "adam_learning_rate"):
            if getattr(self, name) is not None:
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
    named = all(source.strip() for source in made.warmup_corpus)
    _require(named, f"{task}.warmup_corpus must name no empty path, got {made.warmup_corpus}")
    said = f"{task}.padding must be masked: only translation's has other kinds, got {made.padding}"
    _require(task == "translation" or made.padding == "masked", said)
    least = max(made.length, made.target_length if made.padding == "counted" else 0)
    padded = made.padded_length
    said = f"{task}.padded_length must be at least {least}, at which texts are cut, got {padded}"
    _require(padded is None or padded >= least, said)
    said = f"{task}.padded_length must be None: only translation's padding is studied, got {padded}"
    _require(padded is None or task == "translation", said)
    factor, name = made.embedding_scale, f"{task}.embedding_scale"
    _require(0 < factor < math.inf, f"{name} must be positive and finite, got {factor}")
    said = f"{name} must be 1: only a T5 that is made is drawn with another, got {factor}"
    _require(factor == 1 or (task == "translation" and not made.checkpoint), said)
    said = f"{task}.layers must be at most {MOST_LAYERS}, got {made.layers}"
    _require(made.layers <= MOST_LAYERS, said)
    said = f"{task}.heads must divide d_model ({made.d_model}), got {made.heads}"
    _require(made.d_model % made.heads == 0, said)


def as_json(config: Config) -> dict[str, Any]:
    """The configuration as JSON holds it: tuples are lists, and paths are text in any locale."""
    return records.as_text(_plain(dataclasses.asdict(config)))


def completed(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration with the fields that did not exist when it was recorded."""
    tasks = {k: _later(TaskConfig) | v for k, v in recorded.items() if k in get_args(Task)}
    return _later(Config) | recorded | tasks


def _later(table: type) -> dict[str, Any]:
    """The fields that have a default, and these, as JSON holds them."""
    fields = dataclasses.fields(table)
    return _plain({f.name: f.default for f in fields if f.default is not dataclasses.MISSING})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


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
