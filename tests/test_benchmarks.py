"""The benchmarks' smallest versions run, agree and write what they print."""

import json
import os

import pytest
import torch

from benchmarks import _harness, accelerator, directions, report, scaling
from benchmarks.__main__ import main
from experiments.report import blocks
from sharpjax.models import make_loss
from tests.prose import unmarked_numbers


@pytest.mark.slow
@pytest.mark.skipif("SHARPJAX_BENCHMARKS" not in os.environ, reason="minutes of compilation")
@pytest.mark.filterwarnings("ignore")  # What the peers warn about is not ours.
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("directions", {"model", "batch", "name", "gradients_each", "times_vhp"}),
        ("anatomy", {"model", "name", "count", "of", "gradients", "each"}),
        ("train", {"model", "batch", "name", "times_reference", "gradients_added"}),
        ("monitor", {"model", "batch", "name", "states", "steps", "share"}),
        ("study", {"model", "part", "here", "torch", "times"}),
        ("remat", {"model", "batch", "name", "order", "blocks", "temporary_MiB"}),
    ],
)
def test_quick_versions_write_their_rows(name, columns, tmp_path, capsys):
    out = tmp_path / "rows.json"
    assert main([name, "--quick", "--repeats", "1", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["benchmark"] == name and "jax" in record["environment"]["versions"]
    assert {row["model"] for row in record["rows"]} == {"tiny-t5", "tiny-roberta"}
    printed = capsys.readouterr().out
    for row in record["rows"]:
        assert columns <= set(row) and (row.get("seconds") or row["here"]) > 0
        assert (row.get("name") or row["part"]) in printed


@pytest.mark.slow
@pytest.mark.skipif("SHARPJAX_BENCHMARKS" not in os.environ, reason="minutes of compilation")
@pytest.mark.filterwarnings("ignore")  # What the peers warn about is not ours.
def test_an_accelerators_records_are_whole(tmp_path, capsys):
    assert main(["accelerator", "--quick", "--repeats", "1", "--out", str(tmp_path)]) == 0
    records = {path.stem: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert set(records) == {"directions", "train", "monitor", "threshold", "precision"}
    measured = {(row["model"], row["batch"], row["name"]) for row in records["directions"]["rows"]}
    assert {("tiny-t5", "4x8", "adjoint"), ("tiny-roberta", "2x8", "vhp")} <= measured
    steps = {(row["model"], row["dtype"], row["name"]) for row in records["train"]["rows"]}
    assert {("tiny-t5", "bfloat16", "torch sgd"), ("tiny-roberta", "float32", "sgd")} <= steps
    assert all(row["relative_error"] < 1e-4 for row in records["precision"]["rows"])
    assert {row["equal_bits"] for row in records["precision"]["thresholds"]} == {"yes"}
    assert "skipped: []; failed: []" in capsys.readouterr().out


def test_a_part_that_fails_is_tried_without_the_peers(monkeypatch, tmp_path, capsys):
    row = {"name": "here", "seconds": 1.0}

    def rows():
        if _harness.torch_device():
            raise RuntimeError("a peer failed")
        return [row]

    def broken():
        raise RuntimeError("all failed")

    parts = [
        accelerator.Part("train", "rows", "both", 1.0, rows),
        accelerator.Part("train", "rows", "none", 1.0, broken),
        accelerator.Part("train", "rows", "long", 1e9, rows),
    ]
    monkeypatch.setattr(accelerator, "parts", lambda *_: parts)
    assert main(["accelerator", "--seconds", "100", "--out", str(tmp_path)]) == 1
    assert json.loads((tmp_path / "train.json").read_text())["rows"] == [row]
    printed = capsys.readouterr()
    assert "skipped: ['train: long']; failed: ['train: none']" in printed.out
    assert "a peer failed" in printed.err and "all failed" in printed.err


def test_short_calls_are_repeated_until_they_can_be_timed():
    calls = []
    assert 0 < _harness.seconds_each(lambda: calls.append(1)) < _harness.LEAST / 1000
    assert len(calls) > 1000


@pytest.mark.filterwarnings("ignore")  # What the peers warn about is not ours.
@pytest.mark.parametrize("name", ["tiny-t5", "tiny-roberta"])
def test_a_peer_has_the_same_model(name):
    model, batch = directions.torch_model(name), directions.batch_of(name, 2, 8)
    loss = make_loss(directions.MODELS[name])(directions.same_params(model), batch)
    theirs = model(**{k: torch.from_numpy(x).long() for k, x in batch.items()}).loss
    assert float(loss) == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif("SHARPJAX_BENCHMARKS" not in os.environ, reason="minutes of compilation")
def test_the_stages_of_a_demo_make_up_the_whole(tmp_path):
    out = tmp_path / "rows.json"
    assert main(["demo", "--quick", "--out", str(out)]) == 0
    for cache in ("cold", "warm"):
        rows = [r for r in json.loads(out.read_text())["rows"] if r["cache"] == cache]
        parts = {row["part"]: row["share"] for row in rows}
        assert parts.pop("all") == 1 and 0.95 < sum(parts.values()) < 1.01
        assert {"report", "convergence, mlm", "sharpness, translation, sgd trajectory"} <= set(
            parts
        )


@pytest.mark.slow
@pytest.mark.skipif("SHARPJAX_BENCHMARKS" not in os.environ, reason="minutes of compilation")
def test_a_process_takes_what_was_planned_and_its_own_programs(tmp_path):
    out = tmp_path / "rows.json"
    assert main(["plan", "--quick", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert {row["model"] for row in rows} == {"tiny-t5", "tiny-roberta"}
    # Of models so small the programs are nearly all.
    assert all(0 < row["planned_MiB"] < row["process_MiB"] < 500 for row in rows)


@pytest.mark.slow
@pytest.mark.skipif("SHARPJAX_BENCHMARKS" not in os.environ, reason="minutes of compilation")
def test_compilation_is_counted_in_gradients(tmp_path):
    out = tmp_path / "rows.json"
    assert main(["compile", "--quick", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    gradient, directions = record["rows"]
    assert gradient["times_gradient"] == 1 < directions["times_gradient"]
    assert record["clipping"][0]["times_optax"] == 1
    assert all(row["compile_cpu_seconds"] > 0 for row in record["rows"] + record["clipping"])


@pytest.mark.slow
@pytest.mark.skipif("SHARPJAX_BENCHMARKS" not in os.environ, reason="minutes of compilation")
def test_a_sweep_has_a_row_for_each_value(tmp_path):
    out = tmp_path / "rows.json"
    words = ["--sweeps", "directions", "--quick", "--repeats", "1", "--out", str(out)]
    assert main(["scaling", *words]) == 0
    record = json.loads(out.read_text())
    assert [row["count"] for row in record["rows"]] == [1, 4]
    assert all(row["gradients_a_direction"] > 0 for row in record["rows"])
    assert len(record["fits"]) == 2


def test_the_line_of_a_sweep_is_found():
    rows = [{"count": x, "seconds": 2 + 0.5 * x} for x in (1, 4, 16)]
    found = scaling.fit("tokens", rows, "seconds")
    assert found["fixed_seconds"] == pytest.approx(2) and found["largest_distance"] < 1e-9
    assert found["seconds_each"] == pytest.approx(0.5)
    bent = [*rows, {"count": 64, "seconds": 100.0}]
    assert scaling.fit("tokens", bent, "seconds")["largest_distance"] > 0.2


def test_one_measurement_is_counted_in_gradients(tmp_path, capsys):
    out = tmp_path / "rows.json"
    asked = ["anatomy", "--quick", "--models", "roberta", "--repeats", "1", "--out", str(out)]
    assert main([*asked, "--only", "gradient", "top_overlap"]) == 0
    gradient, overlap = json.loads(out.read_text())["rows"]
    assert gradient["each"] == gradient["gradients"] == 1
    assert overlap["count"] == 2 and 0 < overlap["each"] == overlap["gradients"] / 2
    with pytest.raises(SystemExit):
        main([*asked, "--only", "noise"])
    assert "got noise" in capsys.readouterr().err


def test_the_documents_numbers_are_the_measured_ones():
    text = (report.ROOT / "BENCHMARKS.md").read_text(encoding="utf-8")
    assert blocks.fill(text, report.block) == text
    # What is asked for, figures of the design, and seven updates of 60 million numbers.
    allowed = ("0.05", "2.5", "1.5", "0.018", "0.29", "1.8")
    assert unmarked_numbers(text, allowed) == []


def test_models_can_be_measured_one_after_another(tmp_path):
    out = tmp_path / "rows.json"
    for model, seconds in (("a", 1), ("b", 2), ("a", 3)):
        rows = [{"model": model, "seconds": seconds}]
        _harness.write_json(out, "train", rows, memory=rows, count=seconds)
    record = json.loads(out.read_text())
    assert [(r["model"], r["seconds"]) for r in record["rows"]] == [("b", 2), ("a", 3)]
    assert record["memory"] == record["rows"] and record["count"] == 3
    record["environment"]["cores"] = -1
    out.write_text(json.dumps(record))
    _harness.write_json(out, "train", rows)
    assert json.loads(out.read_text())["rows"] == rows


def test_a_block_without_a_record_says_so():
    assert report.block("speed rows", True) == "not measured"
    with pytest.raises(ValueError, match="no rows for 'train rows model=t5-tiny'"):
        report.block("train rows model=t5-tiny", False)


def test_an_unknown_benchmark_is_refused(capsys):
    assert main(["speed"]) == 2
    assert "benchmark must be one of threshold, compile, directions" in capsys.readouterr().err
