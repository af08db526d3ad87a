"""What explains an update, as the study records it: its tables agree with each other."""

import collections
import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax
from experiments import explanation_rows as rows
from experiments import records
from experiments.data.tasks import make_task
from experiments.report import explanation_tables
from experiments.report.recorded import Run
from experiments.run import anatomy, explanations, sharpness, training
from experiments.run.measurements import Point
from experiments.run.options import Options
from experiments.run.progress import Watch
from experiments.run.study import Study
from sharpjax.statistics import exact_rank_correlation
from tests.experiments.tiny import anatomy_section, config

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
    loss_fn = lambda p, batch, key: jnp.mean(batch) * jnp.sum(p["w"] ** 2)  # noqa: E731
    batches = lambda start: iter([np.ones((1, 1), np.float32)] * steps)  # noqa: E731
    toy = training.Training("toy", transformation, loss_fn, batches, steps, select=("sgd", 0.1))
    training.train(toy, params, Watch(), observe=observe)


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
    np.testing.assert_allclose(first, np.abs(g) + 1e-8, rtol=1e-4)  # 1 − 0.999 in float32.
    mean = (0.999 * g.astype(float) ** 2 + h.astype(float) ** 2) / 1.999
    np.testing.assert_allclose(second, np.sqrt(mean) + 1e-8, rtol=1e-4)


def test_each_is_compared_with_two_that_are_made_once():
    draw = np.random.default_rng(0)
    made = collections.Counter()

    class Lazy(dict):
        def __getitem__(self, name):
            made[name] += 1
            return super().__getitem__(name)

    updates = Lazy(
        {name: {"w": jnp.asarray(draw.normal(size=40))} for name in ("lion", "sgd", "adam")}
    )
    adam, grads = dict.get(updates, "adam"), {"w": jnp.asarray(draw.normal(size=40))}
    found = sharpness._resemblance(updates, grads, 0.2)
    top = {n: {*np.argsort(-np.abs(u["w"]))[:8].tolist()} for n, u in dict.items(updates)}
    for other in ("sgd", "adam"):
        for name in updates:
            share = len(top[other] & top[name]) / 8
            assert found[name][f"overlap_{other}"] == pytest.approx(share)
    cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    for name, update in dict.items(updates):
        flat = np.asarray(update["w"], np.float64)
        for column, to in (("cosine_gradient", -grads["w"]), ("cosine_adam", adam["w"])):
            expected = cosine(flat, np.asarray(to, np.float64))
            assert float(found[name][column]) == pytest.approx(expected, abs=1e-5), column
    assert set(made.values()) == {1}
    del updates["adam"]
    # What is not there is not compared with: the column has its default.
    assert {*sharpness._resemblance(updates, grads, 0.2)["lion"]} == {
        "overlap_sgd",
        "cosine_gradient",
    }


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


# Of the quadratic below: its curvatures, and the places of its two tensors.
CURVATURES = np.arange(1.0, 17.0, dtype=np.float32)
KERNEL, EMBEDDING = ("encoder 1", "q"), ("embeddings", "embedding")


def tree(values):
    """Six numbers of a query's kernel, and ten of an embedding."""
    kernel, embedding = jnp.asarray(values[:6]), jnp.asarray(values[6:])
    attention = {"attention": {"q": {"kernel": kernel}}}
    return {"encoder": {"block_0": attention}, "shared": {"embedding": embedding}}


def quadratic(params, batch, key=None):
    flat = jnp.concatenate([x.ravel() for x in jax.tree.leaves(params)])
    return jnp.mean(batch) * jnp.sum(CURVATURES * flat**2) / 2


class Held(dict):
    """Updates, and Adam's state."""

    def state(self, name):
        return self.states[name]


@pytest.fixture(scope="module")
def toy():
    """A point of Σ dᵢxᵢ²/2 whose micro-batches weigh it by 0.5, 1 and 1.5."""
    draw = np.random.default_rng(0)
    x, u = draw.normal(size=(2, 16)).astype(np.float32)
    test = np.repeat(np.array([[0.5], [1.0], [1.5]], np.float32), 2, axis=1)
    grads = tree(CURVATURES * x)
    updates = Held(sgd=tree(-CURVATURES * x), adam=tree(u * np.sign(-x * u)))
    adam = sharpjax.adam(1.0)
    updates.states = {"adam": adam.update(grads, adam.init(grads))[1]}
    task = types.SimpleNamespace(name="mlm", seed=0, loss_fn=quadratic, test=test)
    study = types.SimpleNamespace(adam_learning_rate=0.01, method="auto")
    options = Options(
        lanczos_probes=2,
        lanczos_steps=16,
        dominant=2,
        exact_coordinates=20,
        strata=(0.25,),
        block_probes=2,
        block_steps=8,
    )
    place = ("mlm", "adam", 0, 1, 2)
    return Point(task, study, options, place, tree(x), grads, updates), x


def of(made, table):
    return [r for r in made if type(r) is table]


def test_eigenvalues_are_those_of_curvature_over_preconditioner(toy):
    point, x = toy
    made = explanations.preconditioned(point)
    ends = CURVATURES / np.abs(CURVATURES * x)
    assert len(made) == 2 * 16 and all(r.edge == pytest.approx(3800) for r in made)
    assert max(r.eigenvalue for r in made) == pytest.approx(ends.max(), rel=1e-3)
    along_sgd = dataclasses.replace(point, at=("mlm", "sgd", 0, 1, 2))
    assert all(math.isnan(r.edge) for r in explanations.preconditioned(along_sgd))


def test_the_exact_diagonal_is_the_curvatures(toy):
    point, x = toy
    made = explanations.exact_diagonal(point)
    table = of(made, rows.Diagonal)
    offset = {"encoder/block_0/attention/q/kernel": 0, "shared/embedding": 6}
    at = [offset[r.tensor] + r.coordinate for r in table]
    assert sorted(at) == [*range(16)] and {r.weight for r in table} == {1.0}
    np.testing.assert_allclose([r.diagonal for r in table], CURVATURES[at], rtol=1e-5)
    np.testing.assert_allclose([r.gradient for r in table], (CURVATURES * x)[at], rtol=1e-5)
    np.testing.assert_allclose(  # Deviation of 0.5, 1 and 1.5 over √3.
        [r.diagonal_se for r in table], CURVATURES[at] * 0.5 / 3**0.5, rtol=1e-5
    )
    largest = {r.stratum for r, i in zip(table, at, strict=True) if i in _top(CURVATURES * x, 4)}
    assert largest == {0}
    ranks = [np.argsort(np.argsort(np.abs(values))) for values in (CURVATURES * x, CURVATURES)]
    for row in of(made, rows.ExactCorrelation):
        assert row.correlation == pytest.approx(np.corrcoef(*ranks)[0, 1])


def _top(values, count):
    return {*np.argsort(-np.abs(values))[:count].tolist()}


def test_the_dominant_part_is_that_of_the_two_largest_curvatures(toy):
    point, x = toy
    made = explanations.dominant(point)
    values = [r.eigenvalue for r in of(made, rows.Eigenvector)]
    np.testing.assert_allclose(values, [16, 15], rtol=1e-4)
    for row in of(made, rows.Dominant):
        u = np.concatenate([np.ravel(v) for v in jax.tree.leaves(point.updates[row.algorithm])])
        rest = np.where(np.arange(16) < 14, u, 0)
        assert row.share == pytest.approx(1 - rest @ rest / (u @ u), rel=1e-3)
        for direction, suffix in ((u, ""), (rest, "_without")):
            v = direction / np.linalg.norm(direction)
            sharpness, slope = v @ (CURVATURES * v), v @ (CURVATURES * x)
            assert getattr(row, f"sharpness{suffix}") == pytest.approx(sharpness, rel=1e-3)
            best = getattr(row, f"best_decrease{suffix}")
            assert best == pytest.approx(slope**2 / (2 * sharpness), rel=1e-2)


def test_noise_is_that_of_the_micro_batches_weights(toy):
    point, x = toy
    made = explanations.noise(point)
    (noise,) = of(made, rows.Noise)
    g = CURVATURES * x
    trace = 2 * 0.25 * g @ g  # Micro-batches of two; the weights' variance is 1/4.
    assert noise.trace == pytest.approx(trace, rel=1e-4)
    assert noise.squared_norm == pytest.approx(g @ g - trace / 6, rel=1e-4)
    for row in of(made, rows.Signal):  # Every gradient has one direction.
        assert row.signal_to_noise == pytest.approx(-1 / (0.25 * 2) ** 0.5, rel=1e-4)


def test_blocks_have_their_own_curvatures(toy):
    made = explanations.block_spectra(toy[0])
    for label, size, most in ((KERNEL, 6, 6.0), (EMBEDDING, 10, 16.0)):
        mine = [r for r in of(made, rows.BlockRitz) if (r.layer, r.kind) == label]
        assert {r.parameters for r in mine} == {size} and len(mine) == 2 * 8
        # Of ten curvatures eight products find the largest nearly.
        assert max(r.eigenvalue for r in mine) == pytest.approx(most, rel=1e-2)
    (summary,) = of(made, rows.BlockSummary)
    between = [r.distance for r in of(made, rows.BlockDistance)]
    assert summary.blocks == 2 and len(between) == 4
    assert sorted(between)[:2] == [0, 0]
    assert summary.distance == pytest.approx(sorted(between)[-1]) and summary.distance > 0.3


def test_the_report_has_every_table_and_figure(toy, tmp_path):
    point, _ = toy
    made = explanations.preconditioned(point) + explanations.exact_diagonal(point)
    made += explanations.dominant(point) + explanations.noise(point)
    made += explanations.block_spectra(point)
    for part, (ranks, tokens) in enumerate((("1", 0.4), ("2–9", 0.6))):
        for name, sign in (("sgd", 1), ("adam", -1)):
            cell = (*point.at, name, part, ranks, tokens)
            made.append(rows.FrequencyPart(*cell, -1.0 - part, 0.1, 3.0 + sign * part, 0.2))
    records.append(tmp_path, made)
    (here,) = Run(tmp_path).points.values()
    for table in rows.TABLES:
        key = lambda r: tuple(getattr(r, k) for k in r.KEY)  # noqa: E731
        assert repr(here[table]) == repr(sorted(of(made, table), key=key))
    text = anatomy_section(tmp_path)
    assert text.count("<svg") == 6 and text.count('class="words"') == 3
    assert text.count("<figure") == 8 and text.count("<table") == 4  # Two charts and their table.
    assert len(list((tmp_path / "figures").glob("*.png"))) == 6
    words = dict(explanation_tables.point(here).rows)
    top = max(r.eigenvalue for r in here[rows.Preconditioned])
    assert words["of the edge"] == f"{100 * top / 3800:.0f} %"
    ((_, first, second), other) = explanation_tables.tokens(here).rows
    assert (first, second) == ("33 % / 43 %", "67 % / 57 %")  # −1 and −2; 3 and 4.
    assert other[1:] == ("33 % / 60 %", "67 % / 40 %")  # −1 and −2; 3 and 2.
    sgd = explanation_tables.updates(here).rows[0]
    assert sgd[1].startswith("1.41 ± ") and sgd[2].endswith(" %")


def test_the_report_of_a_point_without_them_says_nothing():
    nothing = {table: [] for table in rows.TABLES}
    for make in (explanation_tables.point, explanation_tables.updates, explanation_tables.tokens):
        assert make(nothing) is None


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
            go = lambda: study.anatomy("mlm", "adam", 1, 2, OPTIONS)  # noqa: E731
            go()
            patch.setattr(anatomy, "_reach", None)
            go()  # All is there: nothing is trained or measured.
    return {table: records.read(directory, table) for table in rows.TABLES}, task, made


@pytest.mark.slow
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
        assert len(cosines) == 4 and 0 < whole.share < 1
        assert whole.share == pytest.approx(share)
        assert whole.best_decrease > 0


@pytest.mark.slow
def test_numbers_that_follow_from_others(found):
    tables, _, made = found
    edge = 38 / made.adam_learning_rate
    assert all(r.edge == pytest.approx(edge) for r in tables[rows.Preconditioned])
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
