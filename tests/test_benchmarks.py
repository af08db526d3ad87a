"""The benchmarks' smallest versions run, agree and write what they print."""

import json
import os

import pytest

from benchmarks.__main__ import main


@pytest.mark.slow
@pytest.mark.skipif("SHARPJAX_BENCHMARKS" not in os.environ, reason="minutes of compilation")
@pytest.mark.filterwarnings("ignore")  # What the peers warn about is not ours.
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("directions", {"model", "batch", "name", "gradients_each", "times_vhp"}),
        ("train", {"model", "batch", "name", "times_reference", "gradients_added"}),
        ("study", {"model", "part", "here", "torch", "times"}),
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


def test_an_unknown_benchmark_is_refused(capsys):
    assert main(["speed"]) == 2
    assert "benchmark must be one of threshold, directions" in capsys.readouterr().err
