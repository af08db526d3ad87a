"""Places are read off paths, figures and tables off rows; a whole tiny run resumes item by item."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import anatomy_rows as rows
from experiments import commands, paper, records
from experiments.__main__ import main
from experiments.explanation_rows import PaddingGroup, PaddingPart
from experiments.report import anatomy_figures, anatomy_tables
from experiments.report.recorded import Run
from experiments.run import anatomy, measurements
from experiments.run.options import Options
from experiments.run.progress import Interrupted, Watch
from experiments.run.study import Study
from sharpjax.models.tensor_places import KINDS, place_of
from tests.experiments.tiny import anatomy_section, config

PLACE = ("translation", "adam", 0, 2, 3)


@pytest.mark.parametrize(
    ("path", "place"),
    (
        ("shared/embedding", ("embeddings", "embedding")),
        ("encoder/block_0/attention/q/kernel", ("encoder 1", "q")),
        ("decoder/block_11/cross_attention/o/kernel", ("decoder 12", "cross o")),
        ("decoder/block_1/cross_attention_norm/scale", ("decoder 2", "norm")),
        ("decoder/block_1/feed_forward/wi_0/kernel", ("decoder 2", "feed-forward")),
        ("encoder/relative_attention_bias/embedding", ("encoder", "position")),
        ("encoder/final_norm/scale", ("encoder", "norm")),
        ("embeddings/position/embedding", ("embeddings", "position")),
        ("embeddings/norm/bias", ("embeddings", "norm")),
        ("embeddings/token_type/embedding", ("embeddings", "embedding")),
        ("encoder/block_0/attention/v/bias", ("encoder 1", "v")),
        ("encoder/block_0/attention_norm/bias", ("encoder 1", "norm")),
        ("lm_head/dense/kernel", ("head", "output")),
        ("lm_head/norm/scale", ("head", "norm")),
        ("lm_head/bias", ("head", "output")),
        ("tower/dense/kernel", ("tower", "other")),
    ),
)
def test_places_of_tensors(path, place):
    assert place_of(path) == place
    assert place[1] in KINDS


def synthetic():
    draw = np.random.default_rng(0)
    for i, algorithm in enumerate(paper.ALGORITHMS):
        cell = (*PLACE, algorithm)
        sign = -1 if i == 2 else 1
        for fraction in (0.01, 0.05, 1.0):
            share = fraction**0.5
            yield rows.Lorenz(*cell, fraction, sign * share, 0.1, share, fraction)
        for a in ("q", "norm"):
            for b in ("q", "norm"):
                value = float(draw.normal())
                yield rows.Block(*cell, "encoder 1", a, "encoder 1", b, value, 0.1, 0.5)
        yield rows.Parts(*cell, sign * 0.1 * 3.0**-i, 0.001, 0.05, 0.001, -0.02, 0.001)
        promise = math.nan if sign < 0 else 10.0**i
        yield rows.Decrease(*cell, 0.3, promise, promise, -promise, 0.5, 0.1)
        yield rows.SpanValue(*PLACE, i, 0.1 - 0.03 * i, 0.01, i < 3)
    yield rows.Decrease(*PLACE, "span", math.nan, 1.0, 0.3, 0.2, 1.1, 0.25)
    for gradient in ("batch", "test"):
        for scope in ("overall", "within tensors", "shared/embedding"):
            numbers = (0.5, 0.4, 0.6, 0.45, 0.1, -0.1, 0.3, 0.2, 0.06)
            yield rows.Correlation(*PLACE, gradient, scope, *numbers, coordinates=100, probes=8)
        for x, y in draw.integers(-20, 0, size=(50, 2)) / 4:
            yield rows.Density(*PLACE, gradient, float(x), float(y), 3)
        yield rows.Density(*PLACE, gradient, -math.inf, -1.0, 7)
    for probe in range(2):
        for k, value in enumerate((-0.1, 0.001, 0.02, 3.0)):
            yield rows.Ritz(*PLACE, probe, k, value + 0.001 * probe, 0.25, 1e-6, 1000)
    for scope in ("global", "tensor"):
        for fraction in (0.0, 0.01, 0.05, 1.0):
            numbers = (-0.2, -0.01 if fraction == 1 else 0.3, 0.02, math.nan, 0.3, 0.1 + fraction)
            yield rows.Clipped(*PLACE, "momentum", scope, fraction, *numbers)


def test_points_of_a_column_are_told_together():
    def point(shift):
        """Top shares are √fraction + shift; decreases 0.1 + fraction + shift."""
        found = {table: [] for table in rows.TABLES}
        for r in synthetic():
            if isinstance(r, rows.Lorenz):
                r = dataclasses.replace(r, share=r.share + shift)
            if isinstance(r, rows.Clipped):
                r = dataclasses.replace(r, best_decrease=r.best_decrease + shift)
            found[type(r)].append(r)
        return found

    one, *others = PLACE[:2], PLACE[3], PLACE[4]
    places = {(*one, seed, *others): point(0.1 * seed) for seed in (0, 1)}
    table = anatomy_tables.several(places)
    cells = dict(table.rows)
    mean, sd = 100 * (0.05**0.5 + 0.05), 100 * 0.1 / 2**0.5
    assert cells["SGD: per cent in the top 5 % of the gradient"] == f"{mean:.1f} ± {sd:.1f}"
    assert cells["unclipped: best decrease"] == "0.150 ± 0.071"
    assert cells["5 % clipped: best decrease"] == "0.200 ± 0.071"
    assert (
        cells["best fraction: best decrease"]
        == cells["all clipped: best decrease"]
        == "1.15 ± 0.07"
    )
    ratios = 0.15 / 0.1, 0.25 / 0.2
    expected = f"{np.mean(ratios):.2f} ± {np.std(ratios, ddof=1):.2f}"
    assert cells["5 % clipped, of unclipped"] == expected
    assert "2 points" in table.header[1]
    assert anatomy_tables.several({(*one, 0, *others): point(0.0)}) is None  # One is not several.
    assert anatomy_tables.several({k: {t: [] for t in rows.TABLES} for k in places}) is None


def test_every_figure_and_table_from_rows(tmp_path):
    made = list({(type(r), *(getattr(r, k) for k in r.KEY)): r for r in synthetic()}.values())
    records.append(tmp_path, made)
    text = anatomy_section(tmp_path)
    assert len(list((tmp_path / "figures").glob("anatomy_*_s0_e02b003.png"))) == 8
    assert len(list((tmp_path / "figures").glob("*.svg"))) == 8
    assert text.count("<figure") == 8 and text.count("<table") == 4
    assert "undecided overall for the training batch’s gradient" in text
    assert "100 %" in text and "best step in the span" in text


def test_a_part_of_the_tables_is_enough(tmp_path):
    records.append(tmp_path, [r for r in synthetic() if isinstance(r, rows.Clipped)])
    text = anatomy_section(tmp_path)
    assert text.count("<figure") == 1 and text.count("<table") == 1


def test_rows_come_back_as_written(tmp_path):
    made = [r for r in synthetic() if not isinstance(r, rows.Density)]
    records.append(tmp_path, made)
    for table in rows.TABLES:
        mine = [r for r in made if isinstance(r, table)]
        key = lambda r: tuple(getattr(r, k) for k in r.KEY)  # noqa: E731
        assert repr(records.read(tmp_path, table)) == repr(sorted(mine, key=key))


@pytest.mark.parametrize(
    ("words", "message"),
    (
        (("probes", "3"), "options.probes must lie in [4, 1,000,000], got 3"),
        (("fractions", "0.1", "1.5"), "options.fractions must be in [0.0, 1.0], got 1.5"),
        (("clipped-fractions",), "options.clipped_fractions must hold at least one number, got ()"),
    ),
)
def test_options_that_no_instrument_takes_are_refused(words, message, tmp_path, capsys):
    option, *values = words
    asked = ["anatomy", "--task", "mlm", "--out", str(tmp_path / "run")]
    assert main([*asked, f"--options.{option}", *values]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "run").exists()


def test_loss_of_logits_is_the_mean_over_examples_of_the_mean_over_tokens():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    labels = np.array([[1, -100, 3, -100], [-100] * 4, [4, 0, 2, 2]])
    logs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    each = [
        np.mean([-row[k] for row, k in zip(example, of, strict=True) if k >= 0] or [0])
        for example, of in zip(logs, labels, strict=True)
    ]
    found = measurements.loss_of_logits(logits, {"labels": labels})
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-6)


@pytest.mark.parametrize(("epoch", "asked"), [((), [None]), ((2,), [2]), ((1, 2), [1, 2])])
def test_the_command_looks_at_each_epoch_that_is_named(epoch, asked, monkeypatch):
    seen = []
    study = SimpleNamespace(anatomy=lambda *words: seen.append(words))
    monkeypatch.setattr(
        commands, "study_command", lambda config, where, names, stages, **_: stages(study)
    )
    commands.anatomy(config(), commands.Path("x"), "mlm", "sgd", epoch, 3, Options())
    assert seen == [("mlm", "sgd", at, 3, Options()) for at in asked]


@pytest.mark.slow
def test_a_tiny_run_resumes_item_by_item(tmp_path):
    options = Options(
        fractions=(0.05, 1.0),
        probes=8,
        coordinates=1500,
        lanczos_probes=2,
        lanczos_steps=8,
        clipped_fractions=(0.0, 0.05, 1.0),
        clipped=("momentum",),
        exact_coordinates=3,
        block_steps=2,
    )
    made, watch = config(), Watch()
    seen = []

    def measure(point, algorithm):
        seen.append(algorithm)
        watch.stopping = len(seen) == 2
        return original(point, algorithm)

    with Study(tmp_path, made, watch).open() as study, pytest.MonkeyPatch.context() as patch:
        again = lambda: study.anatomy("translation", "adam", options=options)  # noqa: E731
        original = measurements.lorenz
        patch.setattr(measurements, "lorenz", functools.wraps(original)(measure))
        with pytest.raises(Interrupted):
            again()
        first = records.read(tmp_path, rows.Lorenz)
        assert {r.algorithm for r in first} == {"sgd", "sgd_clip"}
        watch.stopping = False
        again()
        assert sorted(seen) == sorted(paper.ALGORITHMS)  # None of them twice.
        patch.setattr(anatomy, "_reach", None)
        again()  # All is there: nothing is trained or measured.
    found = {table: records.read(tmp_path, table) for table in rows.TABLES}
    of_padding = (PaddingGroup, PaddingPart)  # The padding study's alone.
    assert all(bool(found[table]) != (table in of_padding) for table in found)
    for part in found[rows.Parts]:
        blocks = [r.sharpness for r in found[rows.Block] if r.algorithm == part.algorithm]
        (whole,) = [
            r.sharpness
            for r in found[rows.Lorenz]
            if r.algorithm == part.algorithm and r.fraction == 1
        ]
        scale = np.sum(np.abs(blocks))
        np.testing.assert_allclose(np.sum(blocks), part.sharpness, atol=1e-4 * scale)
        np.testing.assert_allclose(whole, part.sharpness, atol=1e-4 * scale)
        np.testing.assert_allclose(
            part.gauss_newton + part.residual, part.sharpness, atol=1e-4 * scale
        )
    ((place, whole),) = Run(tmp_path).points.items()
    assert len(anatomy_figures.draw(tmp_path, place, whole)) == 14
