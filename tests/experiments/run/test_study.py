"""The whole study, shrunk: every stage, its records, and what survives an interruption."""

import dataclasses
import errno
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest

from experiments import paper, records
from experiments.__main__ import main
from experiments.rows import (
    TABLES,
    Convergence,
    Histogram,
    Landscape,
    Precision,
    Scales,
    Search,
    Sharpness,
    Tuning,
)
from experiments.run import convergence, training
from experiments.run.progress import Interrupted, Watch
from experiments.run.study import RefusedError, Study
from tests.experiments import tiny

ROOT = Path(__file__).parents[3]
# Orbax and JAX warn of their own affairs; ours stay errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
CSV = [table.FILE for table in TABLES if table is not Tuning]
ALGORITHMS = list(paper.ALGORITHMS)


@pytest.fixture(scope="module", autouse=True)
def compilation_cache():
    """Compiled programs are kept in the checkout, and not for the tests of other files."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax")
    yield
    del os.environ["JAX_COMPILATION_CACHE_DIR"]
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of both experiments, on both tasks, in which nothing is compiled twice."""
    out = tmp_path_factory.mktemp("study") / "run"
    with pytest.MonkeyPatch.context() as patch:
        # Two tasks; a warm-up's batch and a training step's. That measurements trace once is tested
        # where they are.
        traced = chex.assert_max_traces(training.gradient.__wrapped__, n=4)
        compiled = jax.jit(traced, static_argnames=("loss_fn", "layout"))
        patch.setattr(training, "gradient", compiled)
        assert main(["reproduce", "--out", str(out), *tiny.arguments()]) == 0
    return out


def contents(directory, names=CSV):
    return {name: (Path(directory) / name).read_bytes() for name in names}


def test_every_file_of_the_contract_is_there(finished):
    names = {path.name for path in finished.iterdir()}
    assert {*CSV, "config.json", "provenance.json", "claims.json", "report.html"} <= names
    assert {"figures", "checkpoints"} <= names
    assert list(finished.glob("figures/*.png")) and list(finished.glob("figures/*.svg"))
    about = json.loads((finished / "provenance.json").read_text())
    assert about["seed"] == 0 and about["device"] and about["versions"]["jax"] == jax.__version__
    assert about["tasks"]["mlm"]["corpus"] == "embedded"
    assert about["tasks"]["translation"]["start"] == "warmed up for 6 steps"
    assert all(seconds >= 0 for seconds in about["wall_seconds"].values())


def test_sharpness_has_every_cell_and_its_arithmetic(finished):
    rows = records.read(finished, Sharpness)
    assert len(rows) == 2 * 2 * 2 * 2 * 7  # Tasks, trajectories, epochs, batches, algorithms.
    cells = {}
    for row in rows:
        cells.setdefault((row.task, row.trajectory, row.epoch, row.batch), {})[row.algorithm] = row
    for cell in cells.values():
        assert cell.keys() == set(ALGORITHMS)
        reference = abs(cell["sgd"].sharpness)
        for row in cell.values():
            assert row.ratio == pytest.approx(row.sharpness / reference, rel=1e-6)
            assert row.loss == cell["sgd"].loss and row.threshold == cell["sgd"].threshold > 0
            assert row.sharpness_se > 0 and row.update_norm > 0 and 0.05 < row.top_share <= 1
            if row.sharpness > 0:
                assert row.newton_step == pytest.approx(-row.slope / row.sharpness, rel=1e-5)
                ratio = row.update_norm / row.newton_step
                assert row.step_ratio == pytest.approx(ratio, rel=1e-5)
            assert row.slope_se > 0 and 0 <= row.overlap_sgd <= 1 and 0 <= row.overlap_adam <= 1
        assert cell["sgd"].overlap_sgd == pytest.approx(1)
        assert cell["adam"].overlap_adam == pytest.approx(1)
        assert cell["sgd"].overlap_adam == pytest.approx(cell["adam"].overlap_sgd)
        assert cell["sgd"].overlap_adam < 1
        # Clipping takes norm from the top coordinates.
        assert cell["sgd_clip"].top_share < cell["sgd"].top_share


def test_landscapes_start_at_the_measured_loss(finished):
    sharpness = {
        (r.task, r.trajectory, r.epoch, r.batch, r.algorithm): r
        for r in records.read(finished, Sharpness)
    }
    curves = {}
    for row in records.read(finished, Landscape):
        key = (row.task, row.trajectory, row.epoch, row.batch, row.algorithm)
        curves.setdefault(key, []).append((row.step, row.loss))
    assert len(curves) == 2 * 2 * 2 * 7  # One batch of each epoch.
    for key, curve in curves.items():
        assert curve[0][0] == 0 and curve[0][1] == pytest.approx(sharpness[key].loss, rel=1e-5)
        assert [step for step, _ in curve] == sorted(step for step, _ in curve)
    searches = records.read(finished, Search)
    assert len(searches) == len(curves)
    for row in searches:
        curve = curves[row.task, row.trajectory, row.epoch, row.batch, row.algorithm]
        assert row.status == "minimum" and 0 < row.best_step < row.critical_step
        assert row.best_decrease == curve[0][1] - min(loss for _, loss in curve)


def test_histograms_count_every_coordinate(finished):
    totals = {}
    for row in records.read(finished, Histogram):
        key = (row.task, row.trajectory, row.epoch, row.algorithm, row.quantity)
        totals[key] = totals.get(key, 0) + row.count
    about = json.loads((finished / "provenance.json").read_text())["tasks"]
    assert {(key[3], key[4]) for key in totals} == {
        ("sgd", "gradient"),
        ("sgd", "momentum"),
        *((algorithm, "update") for algorithm in ALGORITHMS),
    }
    assert all(n == about[task]["parameters"] for (task, *_), n in totals.items())


def test_float32_stands_near_float64(finished):
    rows = records.read(finished, Precision)
    assert len(rows) == 2 * 2 * 7
    assert all(row.relative_error < 1e-2 for row in rows)


def test_scales_cover_the_model_at_the_start_and_at_each_landscape(finished):
    points = {}
    for row in records.read(finished, Scales):
        points.setdefault((row.task, row.trajectory, row.epoch, row.batch), []).append(row)
    about = json.loads((finished / "provenance.json").read_text())["tasks"]
    landscapes = {
        (r.task, r.trajectory, r.epoch, r.batch) for r in records.read(finished, Landscape)
    }
    starts = {(task, along, 1, 1) for task in about for along in ("sgd", "adam")}
    assert points.keys() == landscapes | starts
    for (task, *_), rows in points.items():
        assert sum(row.parameters for row in rows) == about[task]["parameters"]
        assert sum(row.gradient_share for row in rows) == pytest.approx(1)
        assert {"embedding", "attention", "feed-forward", "norm"} <= {row.kind for row in rows}
        squares = {row.kind: row.parameters * row.gradient_rms**2 for row in rows}
        for row in rows:
            share = squares[row.kind] / sum(squares.values())
            assert row.gradient_share == pytest.approx(share) and row.parameter_rms > 0
    for task in about:  # Both trajectories start at one point.
        scales = [
            [dataclasses.astuple(r)[2:] for r in points[task, a, 1, 1]] for a in ("sgd", "adam")
        ]
        assert scales[0] == scales[1]


def test_convergence_starts_every_algorithm_at_one_point(finished):
    rows = records.read(finished, Convergence)
    assert len(rows) == 2 * 7 * 8
    for task in ("translation", "mlm"):
        first = {row.loss for row in rows if row.task == task and row.step == 1}
        assert len(first) == 1
        own = {row.algorithm: row.learning_rate for row in rows if row.task == task}
        assert own == convergence.table_2(task)
    assert [row.epoch for row in rows[:8]] == [1] * 4 + [2] * 4


def test_the_same_command_again_changes_nothing(finished, capfd):
    before = contents(finished)
    assert main(["reproduce", "--out", str(finished), *tiny.arguments()]) == 0
    assert contents(finished) == before
    assert "steps" not in capfd.readouterr().err.replace("landscape", "")


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        ([], [("translation", "sgd"), ("translation", "adam"), ("mlm", "sgd"), ("mlm", "adam")]),
        (["--task", "mlm"], [("mlm", "sgd"), ("mlm", "adam")]),
        (["--trajectory", "adam"], [("translation", "adam"), ("mlm", "adam")]),
        (["--task", "causal", "--trajectory", "sgd"], [("causal", "sgd")]),
    ],
)
def test_sharpness_measures_the_columns_asked_for(words, columns, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Study, "sharpness", lambda self, *column: seen.append(column))
    monkeypatch.setattr("experiments.launch.report_on", lambda *_: None)
    assert main(["sharpness", "--out", str(tmp_path), *words, *tiny.arguments(replicates=2)]) == 0
    assert seen == [(*column, seed) for seed in (0, 1) for column in columns]


def test_another_configuration_is_refused_with_the_fields(finished, capsys):
    before = contents(finished)
    arguments = tiny.arguments(seed=5, clip_fraction=0.1)
    assert main(["reproduce", "--out", str(finished), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "clip_fraction 0.05 (here 0.1), seed 0 (here 5)" in said
    assert contents(finished) == before


@pytest.mark.parametrize("stops", [(3, 9, 14), (1, 2, 20)])
def test_stopped_and_resumed_records_are_the_same_bytes(finished, tmp_path, stops):
    """Each attempt stops after some steps, as Ctrl-C does; checkpoints are rarer than steps."""
    config = tiny.config()
    limits = [*stops, math.inf]

    for limit in limits:
        try:
            with Study(tmp_path, config, tiny.Stops(limit)).open() as study:
                study.sharpness("translation", "adam", 0)
                study.convergence("translation")
        except Interrupted as stop:
            assert "stopped after step" in str(stop)
    keep = lambda table: [  # noqa: E731
        row
        for row in records.read(finished, table)
        if row.task == "translation" and getattr(row, "trajectory", "adam") == "adam"
    ]
    for table in set(TABLES) - {Precision, Tuning}:
        assert repr(records.read(tmp_path, table)) == repr(keep(table)), table.FILE


@pytest.mark.slow
def test_killed_and_resumed_files_are_the_same_bytes(finished, tmp_path):
    """A real process is killed at random points; then the same command finishes the run."""
    command = [sys.executable, "-m", "experiments", "sharpness", "--out", str(tmp_path / "run")]
    command += ["--task", "mlm", "--trajectory", "sgd", *tiny.arguments()]
    draw = random.Random(0)
    survived = 0
    for _ in range(4):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:  # Kill during training, not during imports.
            if "steps" in line:
                break
        time.sleep(draw.uniform(0.0, 6.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (tmp_path / "run" / "sharpness.csv").exists():
            survived = max(survived, len(records.read(tmp_path / "run", Sharpness)))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(records.read(tmp_path / "run", Sharpness)) >= survived
    for table in (Sharpness, Landscape, Histogram, Precision):
        ours = [
            row
            for row in records.read(finished, table)
            if (row.task, row.trajectory) == ("mlm", "sgd")
        ]
        assert repr(records.read(tmp_path / "run", table)) == repr(ours), table.FILE


@pytest.mark.slow
def test_ctrl_c_stops_after_the_step_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "experiments", "convergence", "--task", "mlm"]
    command += ["--out", str(tmp_path / "run"), *tiny.arguments(epochs=200, measured_epochs=(1,))]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "sgd at" in line:
            break
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped after step" in said and "the same command continues" in said
    assert "Traceback" not in said
    assert records.read(tmp_path / "run", Convergence)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT.parent / "shared" / "data").exists(), reason="needs real text")
def test_the_small_preset_runs_shrunk_on_real_text(tmp_path):
    data = ROOT.parent / "shared" / "data"
    arguments = tiny.arguments(epochs=1, measured_epochs=(1,), measured_batches=1)
    arguments += ["--translation.corpus", str(data / "books_standin_en_fr"), "--no-tune"]
    arguments += ["--mlm.corpus", str(data / "imdb")]
    assert main(["reproduce", "--preset", "small", "--out", str(tmp_path), *arguments]) == 0
    about = json.loads((tmp_path / "provenance.json").read_text())["tasks"]
    assert about["translation"]["corpus"] == "books_standin_en_fr/train.parquet"
    assert about["mlm"]["corpus"] == "imdb/train_first_10240.parquet"
    assert len(records.read(tmp_path, Sharpness)) == 2 * 2 * 7
    assert all(np.isfinite(row.sharpness) for row in records.read(tmp_path, Sharpness))
    report = (tmp_path / "report.html").read_text()
    assert "books_standin_en_fr/train.parquet" in report and "imdb/train_first" in report
    assert str(data) not in report


def test_a_report_can_be_made_of_a_run_in_progress(finished, tmp_path):
    for name in ("config.json", "provenance.json", "convergence.csv"):
        shutil.copy(finished / name, tmp_path / name)
    assert main(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_a_diverging_run_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    rates = {**convergence.table_2("mlm"), "sgd": "1e30", "normalized_sgd": "1e30"}
    monkeypatch.setattr(convergence, "table_2", lambda task: rates)
    with Study(tmp_path, tiny.config(), Watch()).open() as study:
        study.convergence("mlm")
        before = contents(tmp_path, ["convergence.csv"])
        study.convergence("mlm")  # A diverged run is not tried again.
    assert contents(tmp_path, ["convergence.csv"]) == before
    rows = records.read(tmp_path, Convergence)
    runs = {name: [row for row in rows if row.algorithm == name] for name in ALGORITHMS}
    for name in ("sgd", "normalized_sgd"):
        assert runs[name][-1].diverged and not math.isfinite(runs[name][-1].loss)
        assert len(runs[name]) < 8 and not any(row.diverged for row in runs[name][:-1])
    assert len(runs["adam"]) == 8 and not runs["adam"][-1].diverged


def test_tuning_records_its_search_and_its_choice_is_used(tmp_path):
    with Study(tmp_path, tiny.config(tune=True), Watch()).open() as study:
        study.convergence("mlm")
        tuned = contents(tmp_path, ["tuning.csv"])
        study.convergence("mlm")
    assert contents(tmp_path, ["tuning.csv"]) == tuned
    used = {r.algorithm: r.learning_rate for r in records.read(tmp_path, Convergence)}
    by_algorithm = {}
    for row in records.read(tmp_path, Tuning):
        by_algorithm.setdefault(row.algorithm, []).append(row)
    assert by_algorithm.keys() == set(ALGORITHMS)
    for algorithm, rows in by_algorithm.items():
        (chosen,) = [row for row in rows if row.chosen]
        assert chosen.learning_rate == used[algorithm]
        assert chosen.loss == min(row.loss for row in rows) and len(rows) >= 2
        rates = np.log10([float(row.learning_rate) for row in rows])
        np.testing.assert_allclose(np.diff(np.sort(rates)), 0.5, atol=0.01)


def tuned_relative(monkeypatch, horizon, relative_loss):
    """The choice and the recorded search of Adafactor in translation; 0.004 is its best number."""

    def final_loss(study, task, start, algorithm, rate):
        return relative_loss if rate == "relative" else abs(np.log10(float(rate) / 0.004))

    monkeypatch.setattr(convergence, "_final_loss", final_loss)
    config = tiny.config(tune=True, tune_horizon=horizon, algorithms=("adafactor",))
    rows = []
    study = SimpleNamespace(config=config, recorded=lambda *a, **k: [], record=rows.extend)
    found = convergence.tune(study, SimpleNamespace(name="translation", seed=0), None)
    return found["adafactor"], {row.learning_rate: row for row in rows}


def test_a_relative_step_is_not_tuned_over_a_few_steps(monkeypatch):
    found, rows = tuned_relative(monkeypatch, "steps", 1.0)
    assert found == "relative" and list(rows) == ["relative"]
    only = rows["relative"]
    assert only.chosen and not only.diverged and math.isnan(only.loss)


@pytest.mark.parametrize(
    ("loss", "chosen"), [(0.01, "relative"), (0.5, "0.00316"), (math.inf, "0.00316")]
)
def test_over_the_whole_run_a_relative_step_competes_with_a_grid(monkeypatch, loss, chosen):
    found, rows = tuned_relative(monkeypatch, "whole", loss)
    assert found == chosen and [r for r, row in rows.items() if row.chosen] == [chosen]
    assert rows["relative"].loss == loss and rows["relative"].diverged == math.isinf(loss)
    # Around Table 2's number for masked language modelling, and between neighbours of the best.
    assert {*rows} > {"0.0316", "0.01", "0.00316", "0.00178", "0.00562", "0.001"}


def test_a_directory_in_use_is_refused(tmp_path):
    first, second = (Study(tmp_path, tiny.config(), Watch()).open() for _ in range(2))
    with first, pytest.raises(RefusedError, match="is in use by another run"), second:
        pass


def test_every_commit_that_wrote_to_a_directory_is_named(tmp_path, monkeypatch):
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps({"commit": "first"}))  # Of a run before the list.
    for commit in ("first", "second", "second"):
        monkeypatch.setattr("experiments.run.study._commit", lambda commit=commit: commit)
        with Study(tmp_path, tiny.config(), Watch()).open():
            pass
    about = json.loads(path.read_text())
    assert about["commit"] == "second" and about["commits"] == ["first", "second"]


def test_every_machine_that_wrote_to_a_directory_is_named(tmp_path, monkeypatch):
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps({"device": "first", "versions": {"jax": "0.8.1"}}))  # No list yet.
    for device in ("second", "third", "second"):
        monkeypatch.setattr("experiments.run.study._device", lambda _, device=device: device)
        with Study(tmp_path, tiny.config(), Watch()).open():
            pass
    about = json.loads(path.read_text())
    assert about["device"] == "second"
    assert [e["device"] for e in about["environments"]] == ["first", "third", "second"]
    first, *others = (e["versions"]["jax"] for e in about["environments"])
    assert first == "0.8.1" and set(others) == {jax.__version__}


def test_records_without_a_configuration_are_not_overwritten(finished, tmp_path):
    shutil.copy(finished / "sharpness.csv", tmp_path)
    study = Study(tmp_path, tiny.config(), Watch()).open()
    with pytest.raises(RefusedError, match=r"without its config.json"), study:
        pass


def test_an_unwritable_directory_and_a_full_disk_are_one_line(tmp_path, capsys, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["reproduce", "--out", str(blocked / "run"), *tiny.arguments()]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "file" in said

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert main(["reproduce", "--out", str(tmp_path / "run"), *tiny.arguments()]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "No space left on device" in said
    assert not list((tmp_path / "run").glob(".config*"))  # No half-written file stays.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "reproduce --preset huge --out x",
            "--preset must be one of demo, small, paper, got 'huge'",
        ),
        ("frobnicate", "the command must be one of reproduce, .* got 'frobnicate'"),
        ("reproduce --out x --batch-size many", "--batch-size"),
        ("reproduce --out x --batch-size 100", "batch_size must divide examples, got 100 and 1280"),
        ("reproduce --out x --frob 1", "--frob"),
        ("convergence --out x", "--task"),
        ("sharpness --out x --task chess --trajectory sgd", "chess"),
        ("report /nonexistent", "/nonexistent"),
        ("reproduce --out OUT --mlm.corpus missing.parquet", "missing.parquet"),
        ("reproduce --out OUT --mlm.tokenizer ./nowhere", "nowhere"),
        ("reproduce --out OUT --mlm.checkpoint ./nowhere", "nowhere"),
    ],
)
def test_a_bad_value_is_one_line_and_exit_code_2(words, message, capsys, tmp_path):
    words = words.replace("OUT", str(tmp_path)).split()
    if "OUT" in message or str(tmp_path) in words:
        words[0] = "convergence"
        words += ["--task", "mlm", *tiny.arguments()]
    assert main(words) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert re.search(message, said), said


@pytest.mark.parametrize("command", ("reproduce", "sharpness", "convergence", "report"))
def test_help_explains_every_field(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    if command != "report":
        for field in ("--warmup-steps", "--mlm.corpus", "--clip-fraction", "--measured-epochs"):
            assert field in said
        assert "from scratch" in " ".join(said.replace("│", " ").split())
