"""The padding study's instruments, held against Hessian products; and its runs."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from experiments import commands
from experiments.run import padding
from sharpjax import models
from tests.experiments import tiny


@pytest.fixture(scope="module")
def point():
    """A T5 of one layer and a batch whose targets are padding in part, as `measurements.Point`."""
    config = models.T5Config(vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    model = models.T5(config)
    params = models.init_params(model, jax.random.key(0))
    ids = np.array([[5, 6, 1, 0], [7, 8, 9, 1]], np.int32)
    labels = np.array([[4, 1, 0], [3, 2, 1]], np.int32)
    test = {"input_ids": np.stack([ids, ids[::-1]]), "labels": np.stack([labels, labels])}
    loss_fn = models.make_loss(model)
    grads = jax.grad(lambda p: loss_fn(p, jax.tree.map(lambda x: x[0], test)))(params)
    updates = {"sgd": jax.tree.map(jnp.negative, grads)}
    return SimpleNamespace(
        task=SimpleNamespace(model=model, loss_fn=loss_fn, test=test),
        config=tiny.config(),
        at=("translation", "sgd", 0, 1, 1),
        params=params,
        grads=grads,
        updates=updates,
    )


def test_groups_sum_to_the_sharpness_and_the_row_is_a_hessian_block(point):
    rows = padding.padding_groups(point, "sgd")
    cells = {(r.group, r.other): r for r in rows}
    names = {r.group for r in rows}
    assert names == {
        *(padding.ROW, padding.OTHER_ROWS, "relative positions", "norms"),
        *("encoder", "decoder", "cross-attention"),
    }
    product = sharpjax.hessian_operator(point.task.loss_fn, point.params, point.task.test)
    norm = np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(point.updates["sgd"])))
    unit = jax.tree.map(lambda x: x / norm, point.updates["sgd"])
    row = jax.tree.map(jnp.zeros_like, unit)
    whole = row | {
        "shared": {
            "embedding": row["shared"]["embedding"].at[0].set(unit["shared"]["embedding"][0])
        }
    }
    dot = lambda a, b: sum(float(jnp.sum(x * y)) for x, y in zip(*map(jax.tree.leaves, (a, b))))  # noqa: B905, E731
    total = dot(unit, product(unit))
    np.testing.assert_allclose(sum(r.sharpness for r in rows), total, rtol=1e-3)
    own = cells[padding.ROW, padding.ROW]
    np.testing.assert_allclose(own.sharpness, dot(whole, product(whole)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        sum(cells[padding.ROW, name].sharpness for name in names),
        dot(whole, product(unit)),
        rtol=1e-3,
        atol=1e-5 * abs(total),
    )
    np.testing.assert_allclose(own.squared_norm, dot(whole, whole), rtol=1e-4)
    assert sum(cells[n, n].squared_norm for n in names) == pytest.approx(1, abs=1e-5)


def test_coordinates_and_clipped_ones_are_counted(point):
    rows = {r.group: r for r in padding.padding_groups(point, "sgd")}
    count = sum(x.size for x in jax.tree.leaves(point.params))
    assert sum(r.coordinates for r in rows.values()) == count
    assert rows[padding.ROW].coordinates == 8 and rows[padding.OTHER_ROWS].coordinates == 8 * 11
    clipped = sum(r.coordinates * r.clipped for r in rows.values())
    # Those beyond the threshold, which itself is a gradient's magnitude of that rank.
    assert clipped == pytest.approx(int(count * point.config.clip_fraction), abs=1)


def test_parts_are_of_text_and_of_padding(point):
    rows = {r.part: r for r in padding.padding_parts(point)}
    # Of each example's three targets, the first has one that is padding; both weigh a half.
    assert rows["padding"].targets == pytest.approx(1 / 6)
    assert rows["text"].targets == pytest.approx(5 / 6)
    found = sharpjax.measure_directions(
        point.task.loss_fn, point.params, point.updates, point.task.test
    )["sgd"]
    for name in ("slope", "sharpness"):
        total = sum(getattr(r, name) for r in rows.values())
        np.testing.assert_allclose(total, getattr(found, name), rtol=1e-4)


def test_the_study_is_a_run_for_each_kind_from_one_start(monkeypatch):
    made = []
    monkeypatch.setattr(
        commands, "study_command", lambda config, where, *_, **__: made.append((where, config))
    )
    where = commands.Location(commands.Path("x"))
    base = tiny.config(warmup_algorithm="adafactor", warmup_learning_rate=None)
    commands.padding(base, where, attended=(24,), counted=(16, 20))
    start, *arms = made
    assert start[0].out.name == "start" and start[1] == base
    assert [a[0].out.name for a in arms] == ["masked-16", "attended-24", "counted-16", "counted-20"]
    for _, config in arms:
        assert config.warmup_steps == 0
        assert (
            config.translation.checkpoint == config.translation.tokenizer == "x/start/translation"
        )
    assert [a[1].translation.padding for a in arms] == ["masked", "attended", *["counted"] * 2]
    made.clear()
    folder = dataclasses.replace(base.translation, checkpoint="t5", tokenizer="t5")
    bare = dataclasses.replace(base, warmup_steps=0, translation=folder)
    commands.padding(bare, where, (24,), ())
    assert [config.translation.checkpoint for _, config in made] == ["t5", "t5"]
    with pytest.raises(
        ValueError, match=r"translation.padded_length must be at least 16, .* got 8"
    ):
        commands.padding(base, where, attended=(8,))
