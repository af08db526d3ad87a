"""The warm-up by itself: any optimizer, a folder that a study starts from, and what it says."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from experiments import algorithms, commands
from experiments.data import tasks
from experiments.run.progress import Interrupted, Watch
from experiments.run.study import Study
from tests.experiments import tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")
ADAFACTOR = {"warmup_algorithm": "adafactor", "warmup_learning_rate": None}


def folder(directory, config, name="mlm", watch=None):
    with Study(directory, config, watch or Watch()).open() as study:
        return study.pretrain(name), study.start(study.task(name, config.seed))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_its_folder_is_a_checkpoint_and_resumes_to_the_bit(tmp_path, capfd):
    config = tiny.config(**ADAFACTOR, warmup_steps=4)
    with pytest.raises(Interrupted, match="warm-up, seed 0 stopped after step 3 of 4"):
        folder(tmp_path / "run", config, watch=tiny.Stops(2))
    path, params = folder(tmp_path / "run", config)
    said = capfd.readouterr().err
    assert path == tmp_path / "run" / "mlm"
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "warmed up for 4 steps of adafactor" in card and "first guess" in card
    assert "Trained on 32 rows of embedded (SHA-256 " in card
    assert "nats" in said and f"model: {path}" in said
    _, whole = folder(tmp_path / "whole", config)
    jax.tree.map(np.testing.assert_array_equal, params, whole)
    about = dataclasses.replace(config.mlm, checkpoint=str(path), tokenizer=str(path))
    task = tasks.make_task("mlm", dataclasses.replace(config, mlm=about, warmup_steps=0), 0)
    jax.tree.map(np.testing.assert_array_equal, task.initial_params, params)
    known = tasks.make_task("mlm", config, 0)
    np.testing.assert_array_equal(task.examples["input_ids"], known.examples["input_ids"])


def test_a_translation_is_shown_with_its_reference():
    from experiments.run import pretraining

    task = tasks.make_task("translation", tiny.config(), 0)
    first, *shown = pretraining.abilities(task, task.initial_params)
    assert first.startswith("Loss on 16 texts that it has not seen: ")
    assert len(shown) == 8
    assert shown[0].startswith("- translate English to French: ")
    assert "\n  - reference: " in shown[0] and "\n  - model: " in shown[0]


def test_adam_by_name_is_the_adam_that_recorded_warm_ups_had():
    params = {"w": jax.random.normal(jax.random.key(0), (5, 3))}
    ours, theirs = algorithms.build("adam", 0.05, repr(1e-3)), optax.adam(1e-3)
    states, found = [ours.init(params), theirs.init(params)], [params, params]
    for i in range(4):
        for j, made in enumerate((ours, theirs)):
            grads = jax.tree.map(lambda x, i=i: np.sin((i + 1) * x), found[j])
            updates, states[j] = made.update(grads, states[j], found[j])
            found[j] = optax.apply_updates(found[j], updates)
    np.testing.assert_array_equal(*(x["w"] for x in found))
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_a_pretraining_without_steps_is_refused():
    with pytest.raises(ValueError, match="warmup_steps must be at least 1 for pretrain, got 0"):
        commands.pretrain(tiny.config(warmup_steps=0), commands.Location(commands.Path("x")), "mlm")
