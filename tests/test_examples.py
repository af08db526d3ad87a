"""Every example runs, in under 60 lines, and prints a table of finite numbers."""

import re
import runpy
from pathlib import Path

import jax
import pytest

import sharpjax

EXAMPLES = Path(__file__).parents[1] / "examples"
ALGORITHMS = set(sharpjax.paper_algorithms())
NEEDED = {"flax_nnx": "flax.nnx", "equinox_mlp": "equinox"}


def output_of(name, capsys):
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    with jax.numpy_rank_promotion("allow"):  # Users run with it.
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["plain_jax", "flax_nnx", "equinox_mlp"])
def test_an_example_prints_its_table(name, capsys):
    head, *lines = output_of(name, capsys).splitlines()
    assert re.fullmatch(r"algorithm +slope +sharpness +± s.e. +best step", head)
    table = {row[0]: [float(x) for x in row[1:]] for row in map(str.split, lines)}
    assert set(table) == ALGORITHMS
    for slope, _, standard_error, best_step in table.values():
        assert slope < 0 < best_step
        assert standard_error > 0
    # Clipping and adaptivity are for this: not all directions are alike.
    sharpness = [row[1] for row in table.values()]
    assert max(sharpness) > 1.1 * min(sharpness)


def test_a_loop_is_measured_every_50_steps(capsys):
    lines = output_of("monitored_loop", capsys).splitlines()
    assert [int(re.findall(r"step +(\d+)", line)[0]) for line in lines] == [50, 100, 150, 200]
    for line in lines:
        assert re.findall(r"(\w+) -?[\d.]+ ±", line) == ["adam", "sgd", "sgd_clip"]


def test_examples_are_short_and_all_are_run():
    files = sorted(EXAMPLES.glob("*.py"))
    assert [f.stem for f in files] == ["equinox_mlp", "flax_nnx", "monitored_loop", "plain_jax"]
    for file in files:
        assert len(file.read_text().splitlines()) < 60, file.name
