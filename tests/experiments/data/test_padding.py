"""What a translation model sees of padding: nothing, the source's, or also the targets'."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.data import tasks
from experiments.data.tokenization import pad_translation
from sharpjax import models
from tests.experiments import tiny

PAD = 0
ROWS = {
    "input_ids": np.array([[5, 6, 1, 0], [7, 8, 9, 1]], np.int32),
    "attention_mask": np.array([[1, 1, 1, 0], [1, 1, 1, 1]], np.int32),
    "labels": np.array([[4, 1, -100], [3, 2, 1]], np.int32),
}


@pytest.fixture(scope="module")
def model():
    made = models.T5(
        models.T5Config(vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    return made, models.init_params(made, jax.random.key(0))


def loss(model, batch):
    return float(models.make_loss(model[0])(model[1], batch))


def test_masked_padding_keeps_the_mask_and_shows_nothing(model):
    wide = pad_translation(ROWS, "masked", 7, PAD)
    np.testing.assert_array_equal(wide["input_ids"][:, 4:], 0)
    np.testing.assert_array_equal(wide["attention_mask"].sum(1), [3, 4])
    np.testing.assert_array_equal(wide["labels"], ROWS["labels"])
    np.testing.assert_allclose(loss(model, wide), loss(model, ROWS), rtol=1e-6)
    other = np.where(wide["attention_mask"], wide["input_ids"], 11)
    np.testing.assert_allclose(
        loss(model, wide | {"input_ids": other}), loss(model, ROWS), rtol=1e-6
    )


def test_attended_padding_is_seen(model):
    made = pad_translation(ROWS, "attended", 7, PAD)
    assert "attention_mask" not in made and made["input_ids"].shape == (2, 7)
    assert abs(loss(model, made) - loss(model, ROWS)) > 1e-4
    other = made["input_ids"].copy()
    other[:, 6] = 11
    assert abs(loss(model, made | {"input_ids": other}) - loss(model, made)) > 1e-4
    # No mask is a mask of ones.
    ones = made | {"attention_mask": np.ones((2, 7), np.int32)}
    np.testing.assert_allclose(loss(model, ones), loss(model, made), rtol=1e-6)


def test_counted_padding_is_in_the_loss_by_numpy(model):
    made = pad_translation(ROWS, "counted", 6, PAD)
    np.testing.assert_array_equal(made["labels"], [[4, 1, 0, 0, 0, 0], [3, 2, 1, 0, 0, 0]])
    assert "attention_mask" not in made and made["labels"].dtype == np.int32
    logits = np.asarray(models.make_logits(model[0])(model[1], made), np.float64)
    normal = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(normal, made["labels"][..., None], -1)
    np.testing.assert_allclose(loss(model, made), -picked.mean(), rtol=1e-5)


def test_a_task_says_its_shares_of_padding():
    base = tiny.config(warmup_steps=0)
    of = lambda **fields: dataclasses.replace(  # noqa: E731
        base, translation=dataclasses.replace(base.translation, **fields)
    )
    masked = tasks.make_task("translation", base, 0)
    made = tasks.make_task("translation", of(padding="counted", padded_length=20), 0)
    assert masked.about["padding"] == "masked" and masked.about["target_padding"] == 0
    assert masked.examples["input_ids"].shape == (64, 16)
    tokens = masked.examples["attention_mask"].sum()
    assert made.about["source_padding"] == pytest.approx(1 - tokens / (64 * 20))
    targets = (masked.examples["labels"] >= 0).sum()
    assert made.about["target_padding"] == pytest.approx(1 - targets / (64 * 20))
    assert (made.about["source_length"], made.about["target_length"]) == (20, 20)
    np.testing.assert_array_equal(made.examples["input_ids"][:, :16], masked.examples["input_ids"])
    assert made.about["checksum"] == masked.about["checksum"]
    assert made.about["tokens_checksum"] != masked.about["tokens_checksum"]
