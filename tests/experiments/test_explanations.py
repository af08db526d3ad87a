"""What explains an update, as the study records it: its tables agree with each other."""

import collections
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax
from experiments import anatomy, explanations, records, sharpness, trajectory
from experiments import explanation_records as rows
from experiments.options import Options
from experiments.study import Study
from experiments.tasks import make_task
from experiments.watch import Watch
from sharpjax.statistics import exact_rank_correlation
from tests.experiments.tiny import config

OPTIONS = Options(
    lanczos_probes=1,
    lanczos_steps=6,
    dominant=4,
    frequency_bins=3,
    exact_coordinates=6,
    strata=(0.01, 0.1),
    block_probes=2,
    block_steps=2,
)


def observed(steps, transformation, params, observe):
    """Trains a quadratic by one of many updates, observed."""
    trajectory.train(
        "toy",
        directory=None,
        params=params,
        transformation=transformation,
        select=("sgd", 0.1),
        loss_fn=lambda p, batch, key: jnp.mean(batch) * jnp.sum(p["w"] ** 2),
        batches=lambda start: iter([np.ones((1, 1), np.float32)] * steps),
        steps=steps,
        watch=Watch(),
        observe=observe,
    )


def test_the_state_is_that_which_made_the_update():
    """Of Adam's first step v̂ = g², of its second (β₂v + g²)/(1 + β₂): |g| and ε beside it."""
    both = sharpjax.pseudo_updates({"sgd": optax.sgd(1.0), "adam": sharpjax.adam(1.0)})
    seen = []

    def observe(step):
        with pytest.raises(KeyError):
            step.updates.state("lion")
        found = sharpjax.preconditioner(step.updates.state("adam"))
        seen.append((np.asarray(step.grads["w"]), np.asarray(found["w"])))

    observed(2, both, {"w": np.array([1.0, -2.0, 0.0], np.float32)}, observe)
    (g, first), (h, second) = seen
    np.testing.assert_allclose(first, np.abs(g) + 1e-8, rtol=1e-6)
    mean = (0.999 * g.astype(float) ** 2 + h.astype(float) ** 2) / 1.999
    np.testing.assert_allclose(second, np.sqrt(mean) + 1e-8, rtol=1e-4)


def test_overlaps_are_of_each_with_two_that_are_made_once():
    draw = np.random.default_rng(0)
    made = collections.Counter()

    class Lazy(dict):
        def __getitem__(self, name):
            made[name] += 1
            return super().__getitem__(name)

    updates = Lazy(
        {name: {"w": jnp.asarray(draw.normal(size=40))} for name in ("lion", "sgd", "adam")}
    )
    found = sharpness._overlaps(updates, 0.2)
    top = {n: {*np.argsort(-np.abs(u["w"]))[:8].tolist()} for n, u in dict.items(updates)}
    for other in ("sgd", "adam"):
        for name in updates:
            assert found[other][name] == pytest.approx(len(top[other] & top[name]) / 8)
    assert set(made.values()) == {1}
    del updates["adam"]
    assert all(map(math.isnan, sharpness._overlaps(updates, 0.2)["adam"].values()))


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"strata": (0.1, 0.1)}, r"options.strata must ascend within \(0, 1\), got \(0.1, 0.1\)"),
        ({"strata": (2.0,)}, r"options.strata must be in \[0.0, 1.0\], got 2.0"),
        ({"exact_coordinates": 2}, r"options.exact_coordinates must .* got 2"),
        ({"dominant": 0}, r"options.dominant must .* got 0"),
    ),
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


@pytest.mark.parametrize("name", ["translation", "mlm", "causal"])
def test_token_counts_are_those_of_the_text_to_be_written(name):
    task = make_task(name, config(), 0)
    found = explanations.token_counts(task)
    count = collections.Counter()
    for i, labels in enumerate(task.examples["labels"]):
        for j, label in enumerate(labels):
            if label >= 0:
                count[int(label)] += 1
            elif name == "mlm" and task.examples["attention_mask"][i, j]:
                count[int(task.examples["input_ids"][i, j])] += 1
    assert len(found) == task.model.config.vocab_size
    assert {int(k): int(found[k]) for k in np.flatnonzero(found)} == dict(count)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The records of a tiny point's new items, in one table each."""
    directory = tmp_path_factory.mktemp("explanations")
    made = config(algorithms=("sgd", "adam"), warmup_steps=0)
    items = anatomy._items
    with pytest.MonkeyPatch.context() as patch:
        own = explanations.__name__
        patch.setattr(
            anatomy,
            "_items",
            lambda *args: [i for i in items(*args) if i.measure.__module__ == own],
        )
        with Study(directory, made, Watch()).open() as study:
            task = study.task("mlm", 0)
            go = lambda: anatomy.run(  # noqa: E731
                *(directory, made, task, "adam", study.start(task), Watch()),
                epoch=1,
                batch=2,
                options=OPTIONS,
            )
            go()
            patch.setattr(anatomy, "_reach", None)
            go()  # All is there: nothing is trained or measured.
    return {table: records.read(directory, table) for table in rows.TABLES}, task, made


def test_every_table_is_there_and_parts_sum_to_the_whole(found):
    tables, task, _ = found
    assert all(tables.values())
    size = sum(x.size for x in jax.tree.leaves(task.initial_params))
    assert sum(r.weight for r in tables[rows.Diagonal]) == pytest.approx(size)
    assert {r.parameters for r in tables[rows.Preconditioned]} == {size}
    of_block = {(r.layer, r.kind): r.parameters for r in tables[rows.BlockRitz]}
    assert sum(of_block.values()) == size
    for whole in tables[rows.Dominant]:
        parts = [r for r in tables[rows.FrequencyPart] if r.algorithm == whole.algorithm]
        assert sum(r.tokens for r in parts) == pytest.approx(1)
        assert sum(r.sharpness for r in parts) == pytest.approx(whole.sharpness, rel=1e-3)
        cosines = [r for r in tables[rows.Cosine] if r.algorithm == whole.algorithm]
        share = sum(r.squared_cosine for r in cosines)
        assert len(cosines) == 4 and 0 < whole.share == pytest.approx(share) <= 1 + 1e-5
        assert whole.best_decrease > 0


def test_numbers_that_follow_from_others(found):
    tables, _, made = found
    edge = 38 / made.adam_learning_rate
    assert {r.edge for r in tables[rows.Preconditioned]} == {pytest.approx(edge)}
    table = tables[rows.Diagonal]
    columns = [np.array([getattr(r, f.name) for r in table]) for f in dataclasses.fields(table[0])]
    by_name = {f.name: c for f, c in zip(dataclasses.fields(table[0]), columns, strict=True)}
    assert set(by_name["stratum"]) == {0, 1, 2} and len(table) == 18
    for row in tables[rows.ExactCorrelation]:
        gradient = by_name["gradient" if row.gradient == "batch" else "test_gradient"]
        rest = by_name["diagonal"], by_name["weight"], by_name["stratum"]
        assert row.correlation == pytest.approx(exact_rank_correlation(gradient, *rest).correlation)
        assert row.low <= row.correlation <= row.high
    least = [np.abs(by_name["gradient"][by_name["stratum"] == s]).min() for s in (0, 1)]
    most = [np.abs(by_name["gradient"][by_name["stratum"] == s]).max() for s in (1, 2)]
    assert least[0] > most[0] and least[1] > most[1]
    (noise,) = tables[rows.Noise]
    if noise.squared_norm > 0:
        assert noise.noise_scale == pytest.approx(noise.trace / noise.squared_norm)
    pairs = {
        ((r.layer, r.kind), (r.other_layer, r.other_kind)): r.distance
        for r in tables[rows.BlockDistance]
    }
    assert all(pairs[a, b] == pytest.approx(pairs[b, a], abs=1e-6) for a, b in pairs)
    (summary,) = tables[rows.BlockSummary]
    mean = np.mean([d for (a, b), d in pairs.items() if a != b])
    assert summary.distance == pytest.approx(mean, rel=1e-4)
    assert summary.blocks**2 == len(pairs)
