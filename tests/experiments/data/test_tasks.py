import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.data import tasks
from experiments.data.corpora import DataError
from experiments.presets import PRESETS
from experiments.run import training
from sharpjax import models
from tests.experiments import tiny


@pytest.fixture(scope="module", params=("translation", "mlm", "causal"))
def task(request):
    return tasks.make_task(request.param, tiny.config(), seed=0)


def equal(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_a_task_is_a_function_of_configuration_and_seed(task):
    again = tasks.make_task(task.name, tiny.config(), seed=0)
    assert equal(again.initial_params, task.initial_params) and equal(again.test, task.test)
    assert all(equal(a, b) for a, b in zip(again.batches(2), task.batches(2), strict=True))
    other = tasks.make_task(task.name, tiny.config(), seed=1)
    assert not equal(other.initial_params, task.initial_params)
    assert not equal(other.test, task.test)
    assert not equal(other.batches(1)[0], task.batches(1)[0])


def test_an_epoch_holds_every_example_once_and_epochs_differ(task):
    rows = lambda batches: np.concatenate(  # noqa: E731
        [np.concatenate([b["input_ids"], np.maximum(b["labels"], 0)], -1) for b in batches]
    ).reshape(64, -1)
    first, second = rows(task.batches(1)), rows(task.batches(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first, 0), np.sort(second, 0))
    assert task.batches(1)[0]["input_ids"].shape == (2, 8, 16)


def test_the_test_subset_is_of_the_training_examples_with_the_same_masks(task):
    known = {row.tobytes() for row in task.examples["labels"]}
    labels = task.test["labels"].reshape(16, -1)
    assert all(row.tobytes() in known for row in labels) and len(labels) == 16


def test_measured_batches_are_drawn_from_the_seed(task):
    assert task.measured_batches(1) == task.measured_batches(1) == sorted(task.measured_batches(1))
    drawn = {tuple(task.measured_batches(epoch)) for epoch in range(20)}
    assert len(drawn) > 1 and all(set(d) <= {1, 2, 3, 4} and len(d) == 2 for d in drawn)


def test_warmup_uses_other_rows_and_resumes_anywhere(task):
    steps = list(task.warmup_batches(0))
    assert len(steps) == 6 and steps[0]["input_ids"].shape == (1, 8, 16)
    assert all(equal(a, b) for a, b in zip(task.warmup_batches(4), steps[4:], strict=True))
    if task.name == "translation":
        known = {row.tobytes() for row in task.examples["labels"]}
        assert not any(row.tobytes() in known for step in steps for row in step["labels"][0])


def test_warmup_masks_are_fresh(task):
    if task.name == "mlm":
        single = dataclasses.replace(task, config=tiny.config(warmup_examples=8))
        rows = {k: v[:8] for k, v in task.warmup_rows.items()}
        first, second, *_ = dataclasses.replace(single, warmup_rows=rows).warmup_batches(0)
        assert (first["labels"] == -100).mean() != (second["labels"] == -100).mean()


def test_loss_is_that_of_a_uniform_guess_at_first(task):
    loss, _ = training.gradient(task.loss_fn, task.initial_params, task.test, None)
    # A random T5 is far from uniform: its tied head sees embeddings of deviation 1.
    assert np.log(320) * 0.95 < loss < np.log(320) * (3 if task.name == "translation" else 1.05)


def test_micro_batches_do_not_change_the_gradient(task):
    batch = task.batches(1)[0]
    whole = {k: v.reshape(1, -1, *v.shape[2:]) for k, v in batch.items()}
    loss, grads = training.gradient(task.loss_fn, task.initial_params, batch, None)
    other_loss, other = training.gradient(task.loss_fn, task.initial_params, whole, None)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-6)
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), grads, other)


def test_the_about_says_what_it_is(task):
    assert task.about["corpus"] == "embedded" and len(task.about["checksum"]) == 64
    assert task.about["start"] == "warmed up for 6 steps"
    assert "from scratch" in tasks._start("", 0)
    assert tasks._start("t5", 0) == "pretrained: t5"


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_too_few_examples_and_empty_texts_are_named(tmp_path):
    def with_corpus(rows):
        base = tiny.config()
        corpus = write_jsonl(tmp_path / "reviews.jsonl", rows)
        return dataclasses.replace(base, mlm=dataclasses.replace(base.mlm, corpus=corpus))

    few = [{"text": f"a film number {i}"} for i in range(70)]
    with pytest.raises(DataError, match=r"reviews.jsonl: 96 rows were asked for, but it has 70"):
        tasks.make_task("mlm", with_corpus(few), 0)
    empty = [{"text": "" if i == 40 else f"a film number {i}"} for i in range(100)]
    with pytest.raises(DataError, match=r"column 'text' has no text in row 40"):
        tasks.make_task("mlm", with_corpus(empty), 0)


def test_the_papers_preset_runs_shrunk_on_pretrained_folders(tmp_path):
    """The paper preset's own code path: pretrained models and tokenizers from local folders."""
    small = tiny.config("paper", warmup_steps=0, warmup_examples=0)
    made = {name: tasks.make_task(name, tiny.config(), 0) for name in ("translation", "mlm")}
    replaced = {}
    for name, task in made.items():
        folder = tmp_path / name
        models.save_pretrained(folder, task.model, task.initial_params)
        task.tokenizer.save_pretrained(folder)
        replaced[name] = dataclasses.replace(
            getattr(small, name), checkpoint=str(folder), tokenizer=str(folder)
        )
    config = dataclasses.replace(small, **replaced)
    assert config.preset == "paper" and PRESETS["paper"].translation.checkpoint
    for name in made:
        task = tasks.make_task(name, config, 0)
        assert equal(task.initial_params, jax.device_get(made[name].initial_params))
        assert task.about["start"].startswith("pretrained: ")
        assert np.isfinite(
            task.loss_fn(task.initial_params, jax.tree.map(lambda x: x[0], task.test))
        )


def test_a_tokenizer_that_does_not_fit_the_checkpoint_is_refused(tmp_path, task):
    models.save_pretrained(tmp_path, task.model, task.initial_params)
    about = dataclasses.replace(
        getattr(tiny.config(), task.name), checkpoint=str(tmp_path), vocab_size=400
    )
    config = dataclasses.replace(tiny.config(), **{task.name: about})
    with pytest.raises(DataError, match="tokens, more than the model's 320"):
        tasks.make_task(task.name, config, 0)
