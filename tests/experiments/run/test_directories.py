"""A run's directory belongs to its texts, tokenizer and checkpoint; and what is on disk when."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from experiments import records
from experiments.errors import DamagedError, RefusedError
from experiments.rows import Histogram, Landscape, Precision, Scales, Sharpness, Tuning
from experiments.run import sharpness, training
from experiments.run.progress import Watch
from experiments.run.study import Study
from sharpjax import models
from tests.experiments import tiny

ROOT = Path(__file__).parents[3]
ROWS = [
    f"Review number {i} is about a film, and it is {'good' if i % 3 else 'bad'}." for i in range(96)
]


def write_texts(path, rows):
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))


def write_model(path, seed):
    model = models.RobertaForMaskedLM(
        models.RobertaConfig(
            vocab_size=400,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=20,
        )
    )
    models.save_pretrained(path, model, models.init_params(model, jax.random.key(seed)))


def write_tokenizer(path, size):
    from experiments.data.tokenization import train_tokenizer

    train_tokenizer(ROWS, size, "roberta").save_pretrained(path)


@pytest.fixture
def files(tmp_path):
    """Texts (64 of the study, 32 of the warm-up), a tokenizer and a checkpoint, and their study."""
    write_texts(tmp_path / "texts.jsonl", ROWS)
    write_tokenizer(tmp_path / "tokenizer", 300)
    write_model(tmp_path / "model", 0)
    config = tiny.config()
    mlm = dataclasses.replace(
        config.mlm,
        corpus=str(tmp_path / "texts.jsonl"),
        tokenizer=str(tmp_path / "tokenizer"),
        checkpoint=str(tmp_path / "model"),
    )
    return tmp_path, dataclasses.replace(config, mlm=mlm)


def use(directory, config, seed=0):
    with Study(directory / "run", config, Watch()).open() as study:
        return study.task("mlm", seed)


def provenance(directory):
    return json.loads((directory / "run" / "provenance.json").read_text(encoding="utf-8"))


def other(what, directory):
    """Another file under the same name."""
    if what == "texts":
        write_texts(directory / "texts.jsonl", [*ROWS[:3], "Another film.", *ROWS[4:]])
    elif what == "texts of the warm-up":
        write_texts(directory / "texts.jsonl", [*ROWS[:70], "Another film.", *ROWS[71:]])
    elif what == "tokenizer":
        write_tokenizer(directory / "tokenizer", 280)
    else:
        write_model(directory / "model", 1)


@pytest.mark.parametrize("what", ["texts", "texts of the warm-up", "tokenizer", "checkpoint"])
def test_a_change_under_the_same_path_is_refused_with_what_differs(what, files):
    directory, config = files
    about = use(directory, config).about
    before = provenance(directory)
    assert use(directory, config, seed=1).about == about  # Of every seed.
    other(what, directory)
    with pytest.raises(RefusedError, match=f"other files of mlm, .* names: {what} [0-9a-f]") as e:
        use(directory, config)
    said = str(e.value)
    assert "\n" not in said and said.count("(here ") == 1 and "choose another --out" in said
    assert provenance(directory)["tasks"] == before["tasks"]  # The old checksum is not lost.
    # An earlier version recorded the study's texts alone: what it did not record is not missed.
    mended = {k: v for k, v in before["tasks"]["mlm"].items() if not k.endswith("_checksum")}
    records.write_json(directory / "run" / "provenance.json", before | {"tasks": {"mlm": mended}})
    if what == "texts":
        with pytest.raises(RefusedError, match="names: texts"):
            use(directory, config)
    else:
        assert use(directory, config).about == provenance(directory)["tasks"]["mlm"] != about


def test_a_new_directory_is_given_back_if_it_is_refused(files):
    directory, config = files
    bad = dataclasses.replace(config, mlm=dataclasses.replace(config.mlm, length=1))
    with pytest.raises(ValueError, match=r"mlm\.length must be at least 3"):
        use(directory, bad)
    assert use(directory, config).about == provenance(directory)["tasks"]["mlm"]
    with pytest.raises(RefusedError, match="made with another configuration"):
        use(directory, bad)
    assert (directory / "run" / "config.json").exists()  # It was there before.


def test_records_without_their_provenance_are_not_continued(files):
    directory, config = files
    use(directory, config)
    records.append(directory / "run", [Tuning("mlm", 0, "sgd", "0.1", 1, 1.0, False, True)])
    (directory / "run" / "provenance.json").unlink()
    with pytest.raises(RefusedError, match=r"without its provenance\.json"):
        use(directory, config)


@pytest.mark.parametrize("name", ["config.json", "provenance.json"])
@pytest.mark.parametrize("keep", [0, 40])
def test_a_cut_json_is_mended_and_continued(name, keep, files):
    directory, config = files
    about = use(directory, config).about
    path = directory / "run" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    with pytest.raises(DamagedError, match=f"{name} is damaged .* put a whole copy of it back"):
        use(directory, config)
    assert path.read_bytes() == whole[:keep]
    path.write_bytes(whole)
    assert use(directory, config).about == about


IN_A_LOCALE = """
import dataclasses, sys
from pathlib import Path
from experiments.__main__ import main
from experiments.run.study import Study
from experiments.run.progress import Watch
from tests.experiments import tiny
folder = Path(sys.argv[1])
config = tiny.config(warmup_steps=0)
mlm, causal = (dataclasses.replace(config.mlm, corpus=str(folder / n)) for n in sys.argv[2:])
config = dataclasses.replace(config, mlm=mlm, causal=causal)
with Study(folder / "run", config, Watch()).open() as study:
    study.task("mlm", 0)
    study.task("causal", 0)
assert main(["report", str(folder / "nowhere")]) == 2
print("\\u00e9")
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_a_run_goes_on_in_another_locale(tmp_path):
    """Its path is not ASCII: neither the path nor its texts are another's for that."""
    folder = tmp_path / "é à"
    folder.mkdir()
    rows = [f"{row} C'était bien." for row in ROWS]
    names = ["textes.parquet", "textes.jsonl"]
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), folder / names[0])
    write_texts(folder / names[1], rows)
    for environment in ({}, ASCII):
        done = subprocess.run(
            [sys.executable, "-c", IN_A_LOCALE, str(folder), *names],
            cwd=ROOT,
            env=os.environ | {"PYTHONUTF8": "1"} | environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        # A slow machine says before it that it is at work.
        assert (
            b"error: " in (said := done.stderr.splitlines()[-1]) and b"nowhere: no records" in said
        )
    assert done.stdout == b"?\n"
    recorded = json.loads((folder / "run" / "config.json").read_text(encoding="utf-8"))
    about = json.loads((folder / "run" / "provenance.json").read_text(encoding="utf-8"))
    for task, name in zip(("mlm", "causal"), names, strict=True):
        assert recorded[task]["corpus"] == str(folder / name)
        assert about["tasks"][task]["corpus"] == f"é à/{name}"


# --- What is on disk when -------------------------------------------------------------------------


def points_of(directory, table):
    return [(row.epoch, row.batch) for row in records.read(directory, table)]


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Experiment 1 without its arithmetic: `run(check)` -> the points checked in float64."""

    def run(check, fail=None):
        config, points = tiny.config(precision_check=check), []
        nothing = dict.fromkeys(("loss_fn", "training_loss_fn", "training_batches", "dropout_key"))
        task = SimpleNamespace(
            name="mlm", seed=0, config=config, test={}, measured_batches=lambda epoch: [2, 4]
        )
        task.__dict__.update(nothing)

        def making(table, *numbers, what=None):
            """What is measured at a point is on disk before the next stage of it begins."""

            def make(here):
                point = here.key[3:]
                if what:
                    assert point in points_of(tmp_path, Sharpness)
                    if (what, point) == fail:
                        raise RuntimeError("killed")
                if what == "check":
                    points.append(point)
                return [table(*here.key, "sgd", *numbers)] if numbers else []

            return (what or "measuring", make)

        for table, made in {
            Sharpness: making(Sharpness, *np.ones(10).tolist()),
            Landscape: making(Landscape, 0.0, 1.0, what="landscapes"),
            Histogram: making(Histogram),
            Scales: making(Scales),
            Precision: making(Precision, 2.0, 2.0, 0.0, what="check"),
        }.items():
            monkeypatch.setitem(sharpness._MEASURED, table, made)

        def train(what, start, checkpoints, observe):
            for number in range(1, what.steps + 1):
                observe(training.Step(number, 1.0, None, None, {}))

        study = Study(tmp_path, config, Watch())
        monkeypatch.setattr(study, "train", train)
        sharpness.run(study, task, "sgd", None)
        return points

    run.directory = tmp_path
    return run


EVERY_POINT = [(1, 2), (1, 4), (2, 2), (2, 4)]


@pytest.mark.parametrize(("check", "count"), [("none", 0), ("first", 1), ("all", 4)])
def test_the_check_in_float64_is_made_where_it_is_asked_for(check, count, measured):
    points = measured(check)
    assert len(points) == count and points == [p for p in EVERY_POINT if p in points]
    first = min(points_of(measured.directory, Landscape))
    assert check != "first" or points == [first]
    assert measured(check) == []  # Again: all is there.


@pytest.mark.parametrize("what", ["landscapes", "check"])
def test_a_run_that_dies_at_a_point_keeps_what_it_measured_and_makes_the_rest(what, measured):
    measured("none")
    landscapes = points_of(measured.directory, Landscape)
    for table in (Sharpness, Landscape):
        (measured.directory / table.FILE).unlink()
    at = landscapes[-1]
    with pytest.raises(RuntimeError, match="killed"):
        measured("all", fail=(what, at))
    assert points_of(measured.directory, Sharpness)[-1] == at
    before = EVERY_POINT.index(at)
    assert points_of(measured.directory, Precision) == EVERY_POINT[:before]
    assert measured("all") == EVERY_POINT[before:]
    assert points_of(measured.directory, Precision) == EVERY_POINT
    assert points_of(measured.directory, Landscape) == landscapes


def test_records_that_a_checkpoint_has_passed_are_missed(measured):
    measured("first")
    table = measured.directory / Sharpness.FILE
    whole = table.read_text()
    (measured.directory / "checkpoints" / "sharpness-mlm-sgd-0" / "8").mkdir(parents=True)
    table.write_text("\n".join(whole.splitlines()[:3]) + "\n")  # Cut between two rows.
    with pytest.raises(
        DamagedError, match=r"has lost 2 points .* the first of them epoch 2, batch 2"
    ):
        measured("first")
    table.write_text(whole)
    assert measured("first") == []
