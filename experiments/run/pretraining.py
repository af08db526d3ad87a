"""A warmed-up model as a Hugging Face folder, with a card that says what it can do."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import paper, records
from experiments.data.tasks import Task
from experiments.run import processes, training
from sharpjax import models
from sharpjax.models.decoding import greedy_decode

if TYPE_CHECKING:
    from experiments.run.study import Study

SHOWN = 8  # Examples of the card, of the first micro-batch of the test subset.


def write(study: "Study", task: Task, params: Any) -> Path:
    """Writes model, tokenizer and card into the study's directory, and says what the card says.

    The examples are the study's, which the warm-up has not seen.

    Args:
      study: Its directory gets the folder, and its watch is told.
      task: What the model learned.
      params: The warmed-up parameters.

    Returns:
      The folder: `transformers` loads it, and so does a task's `checkpoint`.
    """
    folder = study.directory / task.name
    with study.watch.doing("what the model can do"):
        said = abilities(task, params)
    if processes.is_first():
        task.tokenizer.save_pretrained(folder)
        models.save_pretrained(folder, task.model, params)
        card = [f"# {paper.TASKS[task.name]}: {task.about['start']}", trained_on(task), *said]
        records.write_atomically(folder / "README.md", "\n\n".join(card) + "\n")
    for line in (*said, f"model: {folder}"):
        study.watch.say(line)
    return folder


def trained_on(task: Task) -> str:
    """The texts of the warm-up, and those that it left to the study."""
    about = task.about
    text = f"{about['warmup_rows']:,} rows of {about['warmup_corpus']}"
    return (
        f"Trained on {text} (SHA-256 {about['warmup_checksum']}), none of them among the study's "
        f"{about['examples']:,} rows of {about['corpus']} (SHA-256 {about['checksum']})."
    )


def abilities(task: Task, params: Any) -> list[str]:
    """What the model does with the test subset: loss, tokens that it guesses right, examples."""
    loss = training.mean_loss(task.loss_fn, params, task.test, None)
    logits = jax.jit(models.make_logits(task.model))
    guesses = [
        np.asarray(jnp.argmax(logits(params, {k: v[i] for k, v in task.test.items()}), -1))
        for i in range(len(task.test["labels"]))
    ]
    labels = task.test["labels"]
    counted = labels != -100
    right = np.mean(np.stack(guesses)[counted] == labels[counted])
    said = [
        f"Loss on {labels.shape[0] * labels.shape[1]:,} texts that it has not seen: "
        f"{float(loss):.2f} nats; {100 * right:.1f} % of the counted tokens are its first guess."
    ]
    first = {k: v[0][:SHOWN] for k, v in task.test.items()}
    if task.name == "translation":
        return said + translations(task, params, first)
    return said + guessed(task, first, guesses[0][:SHOWN])


def translations(task: Task, params: Any, batch: dict[str, np.ndarray]) -> list[str]:
    """Each source with its reference and what the model makes of it, greedily."""
    pad = task.tokenizer.pad_token_id
    ids = batch["input_ids"]
    made = greedy_decode(
        task.model, params, ids, (ids != pad).astype(np.int32), batch["labels"].shape[1]
    )
    references = np.where(batch["labels"] == -100, pad, batch["labels"])
    text = lambda rows: task.tokenizer.batch_decode(rows, skip_special_tokens=True)  # noqa: E731
    rows = zip(text(ids), text(references), text(np.asarray(made)), strict=True)
    return [
        f"- {source}\n  - reference: {right}\n  - model: {ours}" for source, right, ours in rows
    ]


def guessed(task: Task, batch: dict[str, np.ndarray], guesses: np.ndarray) -> list[str]:
    """Each text's counted tokens with the first guesses: `{right → guess}`, or `{right}`."""
    said = []
    for labels, made in zip(batch["labels"], guesses, strict=True):
        words = [
            (task.tokenizer.decode([right]).strip(), task.tokenizer.decode([guess]).strip())
            for right, guess in zip(labels, made, strict=True)
            if right != -100
        ]
        said.append("- " + " ".join(f"{{{a}}}" if a == b else f"{{{a} → {b}}}" for a, b in words))
    return said
