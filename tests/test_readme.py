"""Every Python block of the README runs, in order, each on its own."""

import contextlib
import io
import re
from pathlib import Path

import jax
import pytest

import sharpjax

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDY = ROOT / "docs" / "study" / "running.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(block):
    """What the block prints; under JAX's defaults, as a reader runs it."""
    with contextlib.redirect_stdout(io.StringIO()) as said, jax.numpy_rank_promotion("allow"):
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    return said.getvalue()


def test_the_quickstart_shows_what_the_text_says(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    head, *lines = map(str.split, run(BLOCKS[0]).splitlines())
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    assert [int(row["step"]) for row in rows] == [50] * 4 + [100] * 4
    for at in (rows[:4], rows[4:]):
        sharpness, error = (
            {row["algorithm"]: float(row[column]) for row in at}
            for column in ("sharpness", "sharpness_se")
        )
        assert set(sharpness) == {"sgd", "sgd_clip", "adam", "lion"}
        # Clipping lowers the sharpness by a third or more, within the error; Adam far more.
        assert sharpness["sgd_clip"] - 2 * error["sgd_clip"] < 2 / 3 * sharpness["sgd"]
        assert sharpness["adam"] + 3 * error["adam"] < sharpness["sgd"] / 5
    assert (tmp_path / "landscape.png").stat().st_size > 0


@pytest.mark.parametrize("block", BLOCKS[1:], ids=range(1, len(BLOCKS)))
def test_block_runs(block):
    assert run(block)


def test_the_readme_is_short_and_names_every_call():
    assert len(README.splitlines()) < 150
    calls = [name for name in sharpjax.__all__ if name[0].islower()]
    assert [name for name in calls if f"`{name}`" not in README] == []


@pytest.mark.parametrize("file", [ROOT / "README.md", STUDY], ids=["README", "study"])
def test_links_lead_to_files(file):
    text = file.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]*)\)", text):
        assert (file.parent / target).exists(), target
