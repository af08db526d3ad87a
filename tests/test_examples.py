"""Every example runs, is short, and shows the effect that it is there to show."""

import ast
import importlib.util
import re
import runpy
from pathlib import Path

import jax
import pytest

import sharpjax

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDED = {"flax_nnx": "flax.nnx", "equinox_mlp": "equinox", "hugging_face": "transformers"}


def run(name, capsys, monkeypatch, directory):
    """What the example prints, and its comparison; its files go into the directory."""
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    monkeypatch.chdir(directory)
    monkeypatch.setattr("sys.argv", [f"{name}.py"])
    if importlib.util.find_spec("sharpjax.report") is None:
        monkeypatch.setattr(sharpjax.Comparison, "report", lambda self, path: Path(path).touch())
    with jax.numpy_rank_promotion("allow"):  # Users run with it.
        made = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out, made.get("comparison")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("flax_nnx", {"landscape.png", "report.html"}),
        ("plain_jax", {"sharpness.png"}),
        ("equinox_mlp", {"convergence.png"}),
        ("hugging_face", {"landscape.png"}),
    ],
)
def test_an_example_shows_that_clipping_and_adam_are_flatter(
    name, files, capsys, monkeypatch, tmp_path
):
    pytest.importorskip("matplotlib")
    said, comparison = run(name, capsys, monkeypatch, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == files
    head, *lines = said.splitlines()
    assert {"algorithm", "sharpness", "sharpness_se"} <= set(head.split())
    printed = [dict(zip(head.split(), line.split(), strict=True)) for line in lines]
    for row in printed:
        assert float(row["sharpness_se"]) > 0
    # The last measurement of each, or, on trajectories of their own, where the loss is the same.
    last = {row["algorithm"]: row for row in printed}
    assert set(last) == set(comparison.names)
    sharpness, error = (
        {name: float(row[column]) for name, row in last.items()}
        for column in ("sharpness", "sharpness_se")
    )
    clear = lambda a, b: sharpness[b] - sharpness[a] > 2 * (error[a] ** 2 + error[b] ** 2) ** 0.5  # noqa: E731
    assert clear("adam", "sgd") and clear("adam", "sgd_clip")
    assert sharpness["sgd_clip"] < sharpness["sgd"]


def test_a_loop_is_measured_every_50_steps(capsys, monkeypatch, tmp_path):
    lines = run("monitored_loop", capsys, monkeypatch, tmp_path)[0].splitlines()
    assert [int(re.findall(r"step +(\d+)", line)[0]) for line in lines] == [50, 100, 150, 200]
    for line in lines:
        assert re.findall(r"(\w+) -?[\d.]+ ±", line) == ["adam", "sgd", "sgd_clip"]


def test_a_first_script_has_fewer_than_25_lines_of_code():
    assert lines_of_code(EXAMPLES / "flax_nnx.py") < 25


def lines_of_code(file):
    """Lines with a statement or a part of one; without blank lines, comments and docstrings."""
    text = file.read_text(encoding="utf-8")
    described = (ast.Module, ast.FunctionDef, ast.ClassDef)
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, described) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    numbered = enumerate(text.splitlines(), start=1)
    code = [line.strip() for number, line in numbered if number not in docstrings]
    return sum(bool(line) and not line.startswith("#") for line in code)


def test_examples_are_short_and_all_are_run():
    files = sorted(EXAMPLES.glob("*.py"))
    assert [f.stem for f in files] == [
        "equinox_mlp", "flax_nnx", "hugging_face", "monitored_loop", "plain_jax",
    ]  # fmt: skip
    for file in files:
        assert lines_of_code(file) < 50, file.name
