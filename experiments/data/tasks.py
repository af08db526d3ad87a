"""A task: text, tokenizer and model made into a loss, a starting point and batches."""

import dataclasses
import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config, TaskConfig
from experiments.data import tokenization
from experiments.data.corpora import Corpus, DataError, Kind, load_corpus, load_others
from sharpjax import models
from sharpjax.models.losses import init_params

Batches = dict[str, np.ndarray]
FAMILIES = {
    "translation": (models.T5, models.T5Config),
    "mlm": (models.RobertaForMaskedLM, models.RobertaConfig),
    "causal": (models.GPT2, models.GPT2Config),
}


@dataclasses.dataclass(frozen=True)
class Task:
    """One task at one seed; the arrays are a function of the configuration and the seed alone."""

    name: str
    seed: int
    config: Config
    model: Any  # The Flax module, in the parameters' dtype.
    loss_fn: Callable  # loss_fn(params, batch, key=None), measured in the parameters' dtype.
    training_loss_fn: Callable  # The same in the training dtype.
    initial_params: Any  # Before any warm-up; host arrays.
    examples: Batches  # [examples, …]: masks are drawn already.
    test: Batches  # [micro_batches, micro_batch, …], the fixed random subset.
    warmup_rows: Any  # Encoded rows of other text, not yet masked; None without warm-up.
    tokenizer: Any
    about: dict[str, Any]  # For the provenance: corpus, checksum, tokenizer, model, size.

    def batches(self, epoch: int) -> list[Batches]:
        """The epoch's training batches, each [micro_batches, micro_batch, …]; epoch from 1."""
        order = rng(self.seed, self.name, "order", epoch).permutation(self.config.examples)
        return [
            {k: _split(v[rows], self.config.micro_batch_size) for k, v in self.examples.items()}
            for rows in order.reshape(-1, self.config.batch_size)
        ]

    def training_batches(self, done: int) -> Iterator[Batches]:
        """The training batches from step `done` + 1 on, without end."""
        epoch, skip = divmod(done, self.config.batches_per_epoch)
        while True:
            epoch += 1
            yield from self.batches(epoch)[skip:]
            skip = 0

    @functools.cached_property
    def dropout_key(self) -> jax.Array | None:
        """The key of a run's dropout, if it has any."""
        seed = int(rng(self.seed, self.name, "dropout").integers(2**31))
        return jax.random.key(seed) if self.config.dropout else None

    def measured_batches(self, epoch: int) -> list[int]:
        """The batches of an epoch that are measured, from 1, ascending."""
        draw = rng(self.seed, self.name, "measured", epoch)
        count = self.config.measured_batches
        return sorted(int(b) + 1 for b in draw.permutation(self.config.batches_per_epoch)[:count])

    def warmup_batches(self, start: int) -> Iterator[Batches]:
        """Warm-up batches from step `start` (from 0) on, with fresh masks each."""
        config = self.config
        for step in range(start, config.warmup_steps):
            draw = rng(self.seed, self.name, "warmup", step)
            count = len(self.warmup_rows["input_ids"])
            rows = draw.permutation(count)[: config.warmup_batch_size]
            chosen = {k: v[rows] for k, v in self.warmup_rows.items()}
            if self.name == "mlm":
                chosen = tokenization.mask_tokens(**chosen, tokenizer=self.tokenizer, rng=draw)
            # One micro-batch: a warm-up batch need not be a multiple of the study's.
            yield {k: v[None] for k, v in chosen.items()}


def make_task(name: str, config: Config, seed: int) -> Task:
    """Reads, encodes and masks the text, and makes or loads the model.

    Raises:
      DataError: text, tokenizer or checkpoint that cannot be used, or do not fit each other.
      OSError: a checkpoint that cannot be read.
    """
    about: TaskConfig = getattr(config, name)
    kind = "translation" if name == "translation" else "text"
    study, warmup = load_texts(name, config, kind)

    if about.tokenizer == "trained":
        of = [study, warmup] if warmup and about.warmup_corpus else [study]
        texts = [text for part in of for column in part.columns for text in column]
        style = "roberta" if kind == "text" else "t5"  # Byte level suits a GPT-2 too.
        try:
            tokenizer = tokenization.train_tokenizer(texts, about.vocab_size, style)
        except ValueError as error:
            raise DataError(f"{name}.vocab_size: {error}") from error
        whose = "the study's and the warm-up's" if len(of) > 1 else "the study's"
        tokenizer_name = f"trained on {whose} texts, {len(tokenizer)} tokens"
    else:
        tokenizer = tokenization.load_tokenizer(about.tokenizer)
        tokenizer_name = about.tokenizer

    _check_lengths(name, about, tokenizer)

    def encode(rows) -> Batches:
        if kind == "text":
            encoded = tokenization.encode_text(tokenizer, *rows.columns, about.length)
            if name == "causal":
                encoded["labels"] = models.next_token_labels(*encoded.values())
            return encoded
        return tokenization.encode_translation(
            tokenizer, *rows.columns, about.length, about.target_length
        )

    examples = encode(study)
    encoded: dict[str, Any] = {}
    if name == "translation":
        masked, pad = examples, tokenizer.pad_token_id
        examples = tokenization.pad_translation(masked, about.padding, about.padded_length, pad)
        encoded = about_padding(about, masked, examples)
    encoded |= {"checksum": study.checksum, "tokens_checksum": _checksum(examples, tokenizer)}
    if warmup:
        encoded |= {"warmup_corpus": warmup.name, "warmup_rows": len(warmup)}
        encoded["warmup_checksum"] = warmup.checksum
    warmup_rows = encode(warmup) if warmup and config.warmup_steps else None
    if name == "mlm":
        for text, rows in ((study, examples), (warmup, warmup_rows)):
            if text is not None and rows is not None:
                _check_maskable(text.name, rows, tokenizer, text.first_row)
        # Masks are drawn once, before training.
        draw = rng(seed, name, "masks")
        examples = tokenization.mask_tokens(**examples, tokenizer=tokenizer, rng=draw)
    chosen = rng(seed, name, "test").permutation(config.examples)[: config.test_examples]
    test = {k: _split(v[np.sort(chosen)], config.micro_batch_size) for k, v in examples.items()}

    model, params = initial_model(name, about, seed)
    if len(tokenizer) > model.config.vocab_size:
        raise DataError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, "
            f"more than the model's {model.config.vocab_size}"
        )
    training_loss_fn, loss_fn = make_losses(model, config)
    return Task(
        name=name,
        seed=seed,
        config=config,
        model=model,
        loss_fn=loss_fn,
        training_loss_fn=training_loss_fn,
        initial_params=jax.device_get(params),
        examples=examples,
        test=test,
        warmup_rows=warmup_rows,
        tokenizer=tokenizer,
        about={
            "corpus": study.name,
            **encoded,
            **({"checkpoint_checksum": _checksum(params)} if about.checkpoint else {}),
            "examples": config.examples,
            "tokenizer": tokenizer_name,
            "model": about.checkpoint or f"{type(model).__name__} made from the configuration",
            "parameters": sum(x.size for x in jax.tree.leaves(params)),
            "start": _start(about.checkpoint, config.warmup_steps, config.warmup_algorithm),
        },
    )


def load_texts(name: str, config: Config, kind: Kind) -> tuple[Corpus, Corpus | None]:
    """The rows of a study, and those that a warm-up and its tokenizer have beside them, if any.

    Raises:
      DataError: text that cannot be used, or too few rows.
    """
    about: TaskConfig = getattr(config, name)
    behind = config.warmup_examples if config.warmup_steps and not about.warmup_corpus else 0
    needed = None if about.shuffle or behind is None else config.examples + behind
    corpus = load_corpus(about.corpus, kind, needed)
    if about.shuffle:
        order = rng(0, name, "rows").permutation(len(corpus))
        corpus = corpus.rows(0, len(corpus)).take(order)
    study = corpus.rows(0, config.examples)
    if not about.warmup_corpus and not config.warmup_steps:
        return study, None
    if about.warmup_corpus:
        others = load_others(about.warmup_corpus, kind, study, about.warmup_shortest)
        warmup = others.take(rng(0, name, "warm-up rows").permutation(len(others)))
    else:
        left = range(config.examples, len(corpus))
        warmup = dataclasses.replace(corpus.take(left), first_row=config.examples)
    count = len(warmup) if config.warmup_examples is None else config.warmup_examples
    least = config.warmup_batch_size if config.warmup_steps else 0
    if len(warmup) < max(count, least):
        raise DataError(
            f"{warmup.name}: {max(count, least)} rows were asked for beside the study's, but there "
            f"are {len(warmup)}"
        )
    return study, warmup.rows(0, count) if count else None


def about_padding(about: TaskConfig, masked: Batches, examples: Batches) -> dict[str, Any]:
    """What the provenance says of padding: its kind, and its share of sources and targets."""
    shown = examples["labels"] != tokenization.NOT_COUNTED
    counted = np.sum(masked["labels"] != tokenization.NOT_COUNTED)
    return {
        "padding": about.padding,
        "source_length": examples["input_ids"].shape[1],
        "source_padding": float(1 - masked["attention_mask"].sum() / examples["input_ids"].size),
        "target_length": examples["labels"].shape[1],
        # Of the positions that the loss counts.
        "target_padding": float(1 - counted / np.sum(shown)),
    }


def rng(seed: int, *what: str | int) -> np.random.Generator:
    """An independent stream for each purpose at each seed."""
    return np.random.default_rng([seed, *(zlib.crc32(str(part).encode()) for part in what)])


def make_model(name: str, about: TaskConfig) -> Any:
    """The Flax module of a task whose model is made from the configuration."""
    size = {  # By the names of each family's config.json.
        "translation": {
            "d_model": about.d_model,
            "d_kv": about.d_model // about.heads,
            "d_ff": about.d_ff,
            "num_layers": about.layers,
            "num_heads": about.heads,
        },
        "mlm": {
            "hidden_size": about.d_model,
            "num_hidden_layers": about.layers,
            "num_attention_heads": about.heads,
            "intermediate_size": about.d_ff,
            "max_position_embeddings": about.length + 2,
        },
        "causal": {
            "n_positions": about.length,
            "n_embd": about.d_model,
            "n_layer": about.layers,
            "n_head": about.heads,
            "n_inner": about.d_ff,
        },
    }[name]
    module, configuration = FAMILIES[name]
    return module(configuration(vocab_size=about.vocab_size, **size))


def make_losses(model: Any, config: Config) -> tuple[Callable, Callable]:
    """(training loss, measured loss), each `(params, batch, key=None)` -> scalar."""
    training = model.clone(dtype=jnp.dtype(config.training_dtype), remat=config.remat)
    # Forward modes keep nothing for a way back, and would compute a block's insides more often.
    remat = config.remat and config.method == "reverse"
    measured = model.clone(remat=remat)
    return (
        models.make_loss(training, remat=config.remat),
        models.make_loss(measured, remat=remat),
    )


def initial_model(name: str, about: TaskConfig, seed: int) -> tuple[Any, Any]:
    """The Flax module of a task and its parameters at a seed, before any warm-up.

    Raises:
      DataError: a checkpoint that cannot be used, or of another family than the task's.
      OSError: a checkpoint that cannot be read.
    """
    if about.checkpoint:
        model, params = _load_pretrained(name, about.checkpoint)
        family = FAMILIES[name][0]
        if not isinstance(model, family):
            raise DataError(
                f"{name}.checkpoint: {about.checkpoint} holds a {type(model).__name__}, "
                f"the task needs a {family.__name__}"
            )
        return model, params
    model = make_model(name, about)
    key = jax.random.key(int(rng(seed, name, "initial").integers(2**31)))
    params = init_params(model, key)
    if about.embedding_scale != 1:
        table = params["shared"]["embedding"] * about.embedding_scale
        params = params | {"shared": {"embedding": table}}
    return model, params


def _load_pretrained(name: str, checkpoint: str) -> tuple[Any, Any]:
    try:
        return models.load_pretrained(checkpoint)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f"{name}.checkpoint: {error}") from error
        raise
    except Exception as error:  # A configuration makes Flax and JAX fail in any way.
        known = checkpoint in str(error)
        what = str(error) if known else f"{checkpoint}/config.json makes no model ({error})"
        raise DataError(f"{name}.checkpoint: {what}") from error


def _check_lengths(name: str, about: TaskConfig, tokenizer: Any) -> None:
    """Raises a DataError if a length leaves no room for one token of the text."""
    special = tokenizer.num_special_tokens_to_add()
    least = {"length": special + 1}
    if name == "translation":
        prompt = len(tokenizer(tokenization.PROMPT)["input_ids"])  # Its end-of-text token included.
        least = {"length": prompt + 1, "target_length": special + 1}
    elif name == "causal":  # Something must be next.
        least = {"length": max(special + 1, 2)}
    for field, size in least.items():
        if getattr(about, field) < size:
            raise DataError(
                f"{name}.{field} must be at least {size} with this tokenizer, "
                f"got {getattr(about, field)}"
            )


def _check_maskable(corpus: str, rows: Batches, tokenizer: Any, first: int) -> None:
    """Raises a DataError for a row without a token to mask, before a warm-up comes upon it."""
    try:
        empty = tokenization.rows_without_text(**rows, tokenizer=tokenizer)
    except ValueError as error:
        raise DataError(f"mlm.tokenizer: {error}") from error
    if len(empty):
        raise DataError(
            f"{corpus}: row {first + empty[0]} has no token to mask "
            f"({len(empty)} of {len(rows['input_ids'])} rows)"
        )


def _checksum(tree: Any, tokenizer: Any = None) -> str:
    """SHA-256 of arrays, and of what masks are drawn from: 64 hex digits."""
    digest = hashlib.sha256()
    if tokenizer is not None:
        digest.update(json.dumps([len(tokenizer), sorted(tokenizer.all_special_ids)]).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.data)
    return digest.hexdigest()


def _start(checkpoint: str, warmup_steps: int, algorithm: str = "adam") -> str:
    origin = f"pretrained: {checkpoint}" if checkpoint else "from scratch"
    if not warmup_steps:
        return origin
    by = "" if algorithm == "adam" else f" of {algorithm}"
    warmed = f"warmed up for {warmup_steps} steps{by}"
    return f"{origin}, {warmed}" if checkpoint else warmed


def _split(x: np.ndarray, micro_batch: int) -> np.ndarray:
    return x.reshape(-1, micro_batch, *x.shape[1:])
