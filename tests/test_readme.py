"""Every Python block of the README runs, in order, each on its own."""

import contextlib
import dataclasses
import io
import re
from pathlib import Path

import jax
import pytest

from experiments import records

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(block):
    """What the block prints; under JAX's defaults, as a reader runs it."""
    with contextlib.redirect_stdout(io.StringIO()) as said, jax.numpy_rank_promotion("allow"):
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    return said.getvalue()


def test_the_quickstart_tells_of_all_seven():
    lines = [line.split() for line in run(BLOCKS[0]).splitlines()[1:]]
    assert len(lines) == 7
    sharpness = {line[0]: float(line[2]) for line in lines}
    assert sharpness["sgd_clip"] < sharpness["sgd"]


@pytest.mark.parametrize("block", BLOCKS[1:], ids=range(1, len(BLOCKS)))
def test_block_runs(block):
    assert run(block)


def test_every_column_is_documented():
    for table in records.TABLES:
        assert f"`{table.FILE}`" in README
        for field in dataclasses.fields(table):
            assert f"`{field.name}`" in README, (table.FILE, field.name)
