"""The committed documents say what the committed records say; and the blocks, on synthetic ones."""

import dataclasses
import errno
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from experiments import config, explanation_rows, paper, presets, records
from experiments.__main__ import main
from experiments.report import anatomy_figures, claims, documents, figures, page
from experiments.report.figure_files import Drawn
from experiments.rows import Scales, Sharpness
from tests.experiments.report import test_atlas, test_scale, test_stability
from tests.experiments.report.test_claims import changed, synthetic_rows
from tests.experiments.report.test_padding import write_arm
from tests.experiments.report.test_page import PROVENANCE
from tests.experiments.run.test_anatomy import PLACE
from tests.experiments.run.test_anatomy import synthetic as anatomy_rows
from tests.prose import unmarked_numbers

ROOT = Path(__file__).parents[3]
COMMITTED = documents.Sources(ROOT / "results" / "small", ROOT / "results" / "ablation", ROOT)
# Constants of the design, that are no results.
DESIGN = ("0.9", "0.001", "0.0001")


@pytest.mark.parametrize("name", ("RESULTS.md", "README.md", "results/README.md"))
def test_documents_say_what_the_records_say(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert documents.fill(text, COMMITTED) == text, f"python -m experiments results {name}"
    for target in re.findall(r"\]\((results/[^)]*)\)", text):
        assert (ROOT / target).exists(), target


def test_no_number_of_the_prose_stands_alone():
    text = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert unmarked_numbers(text, allowed=DESIGN) == []


def test_the_committed_report_follows_from_the_records(monkeypatch):
    """But for its figures, which take minutes to draw."""
    there = COMMITTED.directory / "figures"

    def found(directory, name, title, caption, draw):
        assert (there / f"{name}.png").exists()
        return Drawn(name, title, caption, there / f"{name}.svg", there / f"{name}.png")

    monkeypatch.setattr(figures, "write", found)
    monkeypatch.setattr(anatomy_figures, "write", found)
    text = page.as_markdown(COMMITTED.main, page.make_parts(COMMITTED.main))
    assert text == (COMMITTED.directory / "report.md").read_text(encoding="utf-8")


def test_committed_claims_follow_from_the_records():
    path = COMMITTED.directory / "claims.json"
    if path.exists():
        assert json.loads(path.read_text()) == claims.to_json(COMMITTED.main.claims)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A main run warmed up for 500 steps, and arms from scratch and from 1,000 steps."""
    root = tmp_path_factory.mktemp("results")
    study = dataclasses.replace(presets.PRESETS["small"], replicates=2)
    rows = list(synthetic_rows(seeds=(0, 1), epochs=(2, 5, 20), batches=2))
    _write(root / "small", rows, study)
    rows = [*anatomy_rows(), *_explanations()]
    unique = {(type(r), *(getattr(r, k) for k in r.KEY)): r for r in rows}
    records.append(root / "small", unique.values())
    (root / "small" / "figures").mkdir()
    (root / "small" / "figures" / "landscape_mlm_sgd_epoch02.png").write_bytes(b"")
    rows = list(synthetic_rows(epochs=(2, 5), batches=2))
    rows = [r for r in rows if isinstance(r, Sharpness | Scales)]
    arm = dataclasses.replace(study, epochs=5, measured_epochs=(2, 5), replicates=1)
    sharp = changed(
        rows, Sharpness, lambda r: {"ratio": 2.0}, algorithm="sgd_clip", epoch=5, task="mlm"
    )
    sharp += [dataclasses.replace(r, epoch=1) for r in rows if isinstance(r, Scales)]
    _write(root / "ablation" / "warmup-0", sharp, dataclasses.replace(arm, warmup_steps=0))
    _write(root / "ablation" / "warmup-1000", rows, dataclasses.replace(arm, warmup_steps=1000))
    _write(root / "controls" / "rate", list(synthetic_rows(epochs=(2,), batches=1)), arm)
    _write(root / "atlas", list(synthetic_rows(epochs=(2,), batches=2)), arm)
    _write(root / "atlas" / "own", test_atlas.alone(), arm)
    along = (test_stability.spectrum(("sgd", 0, epoch, 1), 1.9) for epoch in (1, 2))
    _write(root / "stability", [*itertools.chain(*along)], arm)
    _write(root / "rates" / "seed-0", test_atlas.alone(), arm)
    other = [
        dataclasses.replace(r, seed=1, learning_rate="0.2", loss=r.loss + 1)
        for r in test_atlas.alone()
    ]
    _write(root / "rates" / "seed-1", other, arm)
    _write(root / "atlas-short", list(synthetic_rows(epochs=(2,), batches=1)), arm)
    for seed in (0, 1):
        rows = [dataclasses.replace(r, seed=seed) for r in unique.values()]
        _write(root / "points" / f"seed-{seed}", rows, arm)
    for kind, length in (("masked", 16), ("counted", 32)):
        write_arm(root / "padding", kind, length, sharpness=6.0)
    ratios = dict.fromkeys(paper.ALGORITHMS, 0.5) | {"sgd": 1.0}
    for arm in ("base", "512x6"):
        test_scale.write_arm(root / "scale" / "translation", arm, ratios)
    return documents.Sources(root / "small", root / "ablation", root)


def _explanations():
    """One row of each table that the blocks tell of."""
    yield explanation_rows.Noise(*PLACE, 2.0, 0.1, 0.5, 0.1, 4.0, 0.2)
    for name in ("sgd", "adam"):
        cell = (*PLACE, name)
        yield explanation_rows.Signal(*cell, -1.5, 0.1)
        yield explanation_rows.Dominant(*cell, 10, 0.2, 3.0, 0.1, 0.5, 2.0, 0.1, 0.4)
        yield explanation_rows.FrequencyPart(*cell, 0, "1–4", 1.0, -1.0, 0.1, 3.0, 0.1)


def _write(directory, rows, study):
    records.append(directory, rows)
    records.write_json(directory / "config.json", config.as_json(study))
    records.write_json(directory / "provenance.json", PROVENANCE | {"peak_memory_mib": 2560})


def inline(sources, words):
    return documents.fill(f"x <!-- {words} --><!-- end -->", sources)[
        len(f"x <!-- {words} -->") : -12
    ]


def block(sources, words):
    return documents.fill(f"<!-- {words} -->\n<!-- end -->", sources)


ARGUMENTS = (
    {
        "sharpness": "translation sgd",
        "seed-held": "0",
        "control-held": "rate",
        "control-costs": "rate",
        "control-sharpness": "rate mlm adam",
        "ablation-sharpness": "mlm adam",
        "ablation-scales": "mlm",
        "figures": "landscape",
        "atlas": "translation sgd",
        "atlas-own": "mlm",
        "stability": "stability",
        "tuning": "mlm",
        "scale": "translation sgd 2",
        "scale-distance": "translation sgd 2",
        "scale-costs": "translation",
    }
    | dict.fromkeys(
        [name for name in documents.BLOCKS if name.startswith("anatomy-")],
        "translation adam",
    )
    | {"anatomy-several": "points/seed-*", "run-costs": "atlas rates/seed-0"}
)


@pytest.mark.parametrize("name", documents.BLOCKS)
def test_every_block_of_a_whole_run_and_of_none(name, sources, tmp_path):
    words = f"{name} {ARGUMENTS.get(name, '')}".strip()
    made = block(sources, words)
    shown = made.lower()
    assert "not run yet" not in shown and "nan" not in shown.replace("dominant", "")
    assert len(made) > len(block(sources, "held")) or name.endswith("held")
    empty = documents.Sources(tmp_path / "none", tmp_path / "none", tmp_path)
    assert "*Not run yet.*" in block(empty, words)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("held", "84 of 84"),
        ("held mlm adam", "21 of 21"),
        ("sharpness translation sgd / Adam / epoch 2 / paper", "0.0460"),
        ("claims / SGD is the sharpest of all / ours", "12\u00a0of\u00a012"),
        ("summary / Masked language modelling, SGD trajectory / Adam / paper", "0.0132"),
        ("ablation-needs / Clipping lowers the sharpness of SGD / from scratch", "6 of 8"),
        ("ablation-needs / Clipping lowers the sharpness of SGD / 500 steps", "8 of 8"),
        ("ablation-needs / together / from scratch", "52 of 56"),
        (
            "ablation-where / Masked language modelling, SGD trajectory / from scratch",
            "12 of 14: not SGD sharpest (5), clipping lowers SGD (5)",
        ),
        ("ablation-sharpness mlm sgd / from scratch, epoch 5 / orderings", "5 of 7"),
        ("ablation-scales mlm / parameter RMS, embedding / from scratch", "0.900"),
        ("ablation-scales mlm / gradient share, attention / 500 steps", "–"),
        ("ablation-scales mlm sgd 5 / gradient share, attention / 500 steps", "0.300"),
        ("costs / study, together / peak memory", "2.5 GiB"),
        ("atlas translation sgd / SGD / along", "SGD"),
        ("atlas translation adam / SGD / along", "Adam"),
        ("atlas translation sgd atlas-short / SGD / ratio", "1.00"),
        ("atlas causal sgd / SGD / ratio", "not run yet"),
        ("atlas translation sgd atlas-none / SGD / ratio", "not run yet"),
        ("atlas-held", "28 of 28"),
        ("atlas-own mlm / Adam / rate", "0.1"),
        ("atlas-own mlm rates/seed-0 / Adam / rate", "0.1"),
        ("rates rates/seed-* / Adam / Masked language modelling", "0.1, 0.2"),
        ("final-losses rates/seed-0 / Adam / Masked language modelling", "−3.50"),
        ("final-losses rates/seed-* / Adam / Masked language modelling", "−3.00 ± 0.71"),
        ("final-losses rates/none-* / Adam / Masked language modelling", "not run yet"),
        ("atlas-own translation / Adam / rate", "not run yet"),
        ("atlas-ranks / Masked language modelling, each on its own / optimizers", "10"),
        ("anatomy / clipping SGD’s momentum: best fraction / "
         "Machine translation, Adam trajectory, epoch 2, batch 3", "100 %"),
    ],
)  # fmt: skip
def test_single_numbers(words, text, sources):
    assert inline(sources, words) == text


def test_figures_are_linked_from_where_the_document_stands(sources):
    target = "![landscape mlm sgd epoch02](small/figures/landscape_mlm_sgd_epoch02.png)"
    assert target in block(sources, "figures landscape_mlm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- sharpnes -->\n<!-- end -->", "no such block; there are verdict, held"),
        ("<!-- sharpness mlm -->\n<!-- end -->", "sharpness mlm -->: .*trajectory"),
        ("<!-- sharpness mlm lion -->\n<!-- end -->", "no column mlm, lion"),
        ("a <!-- claims --> <!-- end -->", "a table must open a line of its own"),
        ("a <!-- claims / x / ours --> <!-- end -->", "no row 'x'"),
    ],
)
def test_a_bad_block_is_named(text, message, sources):
    with pytest.raises(ValueError, match=message):
        documents.fill(text, sources)


def test_another_study_is_no_arm_of_the_ablation(sources, tmp_path):
    assert [arm.steps for arm in sources.arms] == [0, 500, 1000]
    rows = [r for r in synthetic_rows(epochs=(2,), batches=1) if isinstance(r, Sharpness)]
    _write(tmp_path / "main", rows, dataclasses.replace(presets.PRESETS["small"], batch_size=128))
    other = documents.Sources(tmp_path / "main", sources.ablation, tmp_path)
    assert [arm.steps for arm in other.arms] == [0, 1000]


def test_the_command_fills_documents_in_place(sources, tmp_path, capsys):
    path = tmp_path / "R.md"
    path.write_text("Held: <!-- held --> <!-- end -->.\n")
    words = ["results", str(path), "--main", str(sources.directory)]
    assert main(words) == 0
    assert path.read_text() == "Held: <!-- held -->84 of 84<!-- end -->.\n"
    assert main(words) == 0 and "as it was" in capsys.readouterr().err
    path.write_text("<!-- end -->")
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: ") and path.read_text() == "<!-- end -->"


FILLED = (
    "Held: <!-- held -->1 of 2<!-- end -->.\n\n<!-- control-costs rate -->\n\nA\n\n<!-- end -->\n"
)


@pytest.mark.parametrize(
    ("main_folder", "ablation", "message"),
    [
        ("nowhere", "ablation", "nowhere: no records"),
        ("empty", "ablation", "empty: no records"),
        ("small", "nowhere", "nowhere: no folder in it holds records"),
        ("small", "empty", "empty: no folder in it holds records"),
        # Records that are there, but not all: the control beside them is not.
        ("alone/small", "ablation", "<!-- control-costs rate -->: its records are not there"),
    ],
)
def test_a_document_is_never_blanked(main_folder, ablation, message, sources, tmp_path, capsys):
    root = tmp_path / "run"
    shutil.copytree(sources.root, root)
    shutil.copytree(root / "small", root / "alone" / "small")
    (root / "empty").mkdir()
    first, second = tmp_path / "A.md", tmp_path / "B.md"
    first.write_text("Held: <!-- held --> <!-- end -->.\n")
    second.write_text(FILLED)
    words = ["--main", str(root / main_folder), "--ablation", str(root / ablation)]
    assert main(["results", str(first), str(second), *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
    assert first.read_text().endswith("<!-- end -->.\n") and second.read_text() == FILLED
    # What was never filled may say that it is not run yet.
    second.write_text("<!-- control-costs elsewhere -->\n<!-- end -->\n")
    assert main(["results", str(first), str(second), "--main", str(root / "small")]) == 0
    assert "*Not run yet.*" in second.read_text()


def test_a_document_is_written_whole_or_not_at_all(sources, tmp_path, capsys, monkeypatch):
    path = tmp_path / "R.md"
    path.write_text(FILLED)
    words = ["results", str(path), "--main", str(sources.directory)]

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(words) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert path.read_text() == FILLED and os.listdir(tmp_path) == ["R.md"]
    assert main(words) == 0 and "84 of 84" in path.read_text()


def test_report_and_results_end_alike(sources, tmp_path, capsys):
    """A missing directory is a bad value; a damaged file in it is a failure."""
    document = tmp_path / "R.md"
    document.write_text(FILLED)
    root = tmp_path / "run"
    shutil.copytree(sources.root, root)
    commands = lambda folder: (  # noqa: E731
        ["report", str(folder)],
        ["results", str(document), "--main", str(folder), "--ablation", str(root / "ablation")],
    )
    assert [main(words) for words in commands(root / "nowhere")] == [2, 2]
    assert main(["results", str(tmp_path / "none.md"), "--main", str(root / "small")]) == 2
    capsys.readouterr()
    for name, content in (("sharpness.csv", b""), ("config.json", b"{")):
        whole = (root / "small" / name).read_bytes()
        (root / "small" / name).write_bytes(content)
        for words in commands(root / "small"):
            assert main(words) == 1
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and name in said and "put a whole copy" in said
        (root / "small" / name).write_bytes(whole)
    assert document.read_text() == FILLED
