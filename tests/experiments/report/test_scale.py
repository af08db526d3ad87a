"""The scale study's arms, and its report of rows made up."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from experiments import arms, commands, launch, paper, records
from experiments.config import as_json
from experiments.data import tasks
from experiments.presets import PRESETS
from experiments.report import scale as report
from experiments.report.table import cell as table_cell
from experiments.rows import Sharpness
from experiments.run.progress import Watch
from tests.experiments import tiny

AT = ("translation", "sgd", 2)


def write_arm(folder, arm, ratios):
    at = ("translation", "sgd", 0, 2)
    for batch in (1, 2):
        for algorithm, ratio in ratios.items():
            numbers = (3.0, -0.5, 6.0 * ratio, 0.1, ratio, 1.0, 0.1, 0.1, 0.1, 0.5)
            records.append(folder / arm, [Sharpness(*at, batch, algorithm, *numbers)])
    provenance = {"tasks": {"translation": {"parameters": 1234}}, "wall_seconds": {"all": 61.0}}
    records.write_json(folder / arm / "provenance.json", provenance)
    config = arms.configured(PRESETS["small"], "translation", arm)
    records.write_json(folder / arm / "config.json", as_json(config))


def test_an_arm_changes_one_thing_of_the_study():
    study = PRESETS["small"]
    assert arms.configured(study, "mlm", "base") == study
    for arm in arms.ARMS:
        made = arms.configured(study, "translation", arm)
        assert made.mlm == study.mlm and made.causal == study.causal
        assert (made != study) == (arm != "base")
    large = arms.configured(study, "translation", "t5-small").translation
    published = dataclasses.asdict(PRESETS["paper"].translation)
    for name in ("d_model", "d_ff", "layers", "heads", "vocab_size"):
        assert getattr(large, name) == published[name]


def test_a_row_an_arm_and_its_share_of_the_distance(tmp_path):
    assert report.arms(tmp_path) == []
    printed = paper.SHARPNESS_RATIO[AT]
    base = {a: 8 * printed[a] for a in paper.ALGORITHMS} | {"sgd": 1.0, "sgd_clip": 0.5}
    half = {a: math.sqrt(base[a] * printed[a]) for a in base}  # Half of the way, by logarithms.
    write_arm(tmp_path, "t5-small", half)
    write_arm(tmp_path, "base", base)
    write_arm(tmp_path, "scratch", half | {"adam": -0.5})
    text = report.write_report(tmp_path, report.arms(tmp_path)).read_text().replace("\u00a0", " ")
    assert (tmp_path / "figures" / "scale_translation_sgd_e02.png").exists()
    found = report.arms(tmp_path)
    assert [arm.key for arm in found] == ["base", "scratch", "t5-small"]
    assert report.cells(found) == [AT]
    cell = lambda table, row, *column: table_cell(table, row, *column)  # noqa: E731
    ratios = report.ratio_table(found, *AT)
    assert cell(ratios, "size of t5-small", "width × blocks") == "512 × 6"
    assert cell(ratios, "from scratch", "warm-up steps") == "0"
    assert cell(ratios, "base", "SGD’s sharpness") == "6.00 ± 0.00"
    assert cell(ratios, "the paper", "SGD, clipped") == "0.435"
    gone = report.distance_table(found, *AT)
    assert {*gone.rows[1][2:]} == {"50.0 %"} and cell(gone, "from scratch", "Adam") == "–"
    assert cell(gone, "size of t5-small", "SGD, clipped") == "–"  # It is near the paper's already.
    assert report.distance_table(found[:1], *AT) is None
    assert "1 min 1 s" in text and "| 50.0 % |" in text
    with pytest.raises(ValueError, match="no arm has measured translation, sgd, epoch 7"):
        report.ratio_table(found, "translation", "sgd", "7")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_command_runs_arms_and_reports(tmp_path):
    config = tiny.config(
        epochs=1,
        measured_epochs=(1,),
        measured_batches=1,
        precision_check="none",
        algorithms=("sgd",),
    )
    where = launch.Location(tmp_path)
    with pytest.raises(ValueError, match=r"arms must be of base, .*; got padded"):
        commands.scale(config, where, "mlm", arms=("padded",))
    commands.scale(config, where, arms=("embedding",))(Watch())
    found = report.arms(tmp_path)
    assert [arm.run.config["translation"]["embedding_scale"] for arm in found] == [10.0]
    text = (tmp_path / "report.md").read_text().replace("\u00a0", " ")
    assert "embedding drawn 10 times larger" in text


def test_a_larger_embedding_is_all_that_is_drawn_otherwise():
    about = tiny.config().translation
    params = lambda about: tasks.initial_model("translation", about, 0)[1]  # noqa: E731
    first, second = params(about), params(dataclasses.replace(about, embedding_scale=3.0))
    np.testing.assert_allclose(
        second.pop("shared")["embedding"], 3 * first.pop("shared")["embedding"], rtol=1e-6
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
