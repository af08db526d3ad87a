import dataclasses
import json

import pytest

from experiments import config, presets
from tests.experiments import tiny


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_presets_are_the_papers_shape(preset):
    c = presets.PRESETS[preset]
    assert c.preset == preset and c.batches_per_epoch == 10 and c.measured_batches == 5
    assert (c.sgd_learning_rate, c.adam_learning_rate, c.clip_fraction) == (1e-3, 1e-4, 0.05)
    assert c.test_examples == c.batch_size


def test_the_papers_preset_has_its_numbers():
    c = presets.PRESETS["paper"]
    assert (c.examples, c.batch_size, c.epochs, c.test_examples) == (10240, 1024, 20, 1024)
    assert c.measured_epochs == (2, 5, 10, 20) and c.warmup_steps == 0
    assert c.translation.checkpoint.endswith("t5-small")
    assert c.mlm.checkpoint.endswith("distilroberta-base")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("examples", 0, "examples must be at least 1, got 0"),
        ("batch_size", 24, "batch_size must divide examples, got 24 and 64"),
        ("micro_batch_size", 3, "micro_batch_size must divide batch_size, got 3 and 16"),
        ("test_examples", 72, "test_examples must be at most examples .64., got 72"),
        ("measured_batches", 5, "measured_batches must be at most the 4 batches"),
        ("measured_epochs", (1, 3), r"measured_epochs must lie in \[1, 2\], got \(1, 3\)"),
        ("measured_epochs", (), "measured_epochs must lie in"),
        ("landscape_points", 2, "landscape_points must lie in .3, 1000., got 2"),
        ("chunk", 0, "chunk must be at least 1 or None, got 0"),
        ("warmup_steps", -1, "warmup_steps must not be negative, got -1"),
        ("warmup_examples", 4, "warmup_examples must be at least warmup_batch_size .8., got 4"),
        ("clip_fraction", 1.5, r"clip_fraction must be in \[0.0, 1.0\], got 1.5"),
        ("sgd_learning_rate", -1.0, "sgd_learning_rate must be in .* got -1.0"),
        ("seed", -1, "seed must not be negative, got -1"),
        ("warmup_algorithm", "adamm", "adamm.*adam"),
        ("warmup_learning_rate", None, "warmup_learning_rate must be given: adam has none"),
    ],
)
def test_bad_values_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        tiny.config(**{field: value})


def test_a_tasks_bad_values_are_named():
    base = tiny.config()
    with pytest.raises(ValueError, match=r"mlm.layers must be at least 1, got 0"):
        dataclasses.replace(base, mlm=dataclasses.replace(base.mlm, layers=0))
    with pytest.raises(ValueError, match=r"translation.heads must divide d_model \(16\), got 3"):
        dataclasses.replace(base, translation=dataclasses.replace(base.translation, heads=3))


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("mlm", {"padding": "attended"}, "mlm.padding must be masked: .* got attended"),
        ("mlm", {"padded_length": 20}, "mlm.padded_length must be None: .* got 20"),
        ("translation", {"padded_length": 15}, "translation.padded_length must be at least 16"),
        (
            "translation",
            {"padding": "counted", "target_length": 18, "padded_length": 17},
            "translation.padded_length must be at least 18, .* got 17",
        ),
        ("mlm", {"warmup_corpus": ("a", "")}, "mlm.warmup_corpus must name no empty path"),
        ("mlm", {"warmup_shortest": 0}, "mlm.warmup_shortest must be at least 1, got 0"),
    ],
)
def test_bad_values_of_padding_and_of_the_warm_ups_texts_are_named(task, fields, message):
    base = tiny.config()
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(base, **{task: dataclasses.replace(getattr(base, task), **fields)})


def test_differences_name_the_fields_of_both():
    first = config.as_json(tiny.config())
    assert config.differences(json.loads(json.dumps(first)), first) == []
    other = tiny.config(seed=3)
    other = dataclasses.replace(other, mlm=dataclasses.replace(other.mlm, length=20))
    assert config.differences(first, config.as_json(other)) == [
        "mlm.length 16 (here 20)",
        "seed 0 (here 3)",
    ]


def test_a_run_recorded_before_a_field_existed_had_its_default():
    asked = config.as_json(tiny.config())
    recorded = {k: v for k, v in asked.items() if k != "remat"}
    assert config.differences(config.completed(recorded), asked) == []
    assert config.completed({"remat": True})["remat"]
    later = {"shuffle", "warmup_corpus", "warmup_shortest", "padding", "padded_length"}
    recorded["mlm"] = {k: v for k, v in asked["mlm"].items() if k not in later}
    assert len(recorded["mlm"]) == len(asked["mlm"]) - len(later)
    assert config.differences(config.completed(recorded), asked) == []
