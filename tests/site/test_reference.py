"""The reference is whole: every public name and every column has its place."""

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MODULES = ("sharpjax", "sharpjax.models", "sharpjax.plot", "sharpjax.report")


def documented():
    """Module -> the names that the reference lists of it."""
    found = {}
    for page in sorted((DOCS / "reference").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for module, names in re.findall(r"```\{api\} (\S+)\n(.*?)```", text, re.DOTALL):
            found.setdefault(module, []).extend(names.split())
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference_once(module):
    if module != "sharpjax":
        pytest.importorskip(module)
    names = documented()[module]
    assert len(set(names)) == len(names)
    modules = {"charts", "frames"}  # Of sharpjax.report, with sections of their own.
    assert set(names) == set(importlib.import_module(module).__all__) - modules


def test_every_name_of_the_reference_has_a_docstring():
    for module, names in documented().items():
        for name in names:
            found = getattr(importlib.import_module(module), name)
            assert (found.__doc__ or "").strip(), f"{module}.{name}"


def test_every_column_says_what_it_is(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    pytest.importorskip("sphinx")
    columns = importlib.import_module("columns")
    for tables in columns.TABLES.values():
        for table in tables:
            assert table.__doc__
            silent = [name for name, _, meaning in columns.described(table) if not meaning]
            assert silent == [], table.FILE


def test_every_call_is_in_the_table_of_questions():
    import sharpjax

    text = (DOCS / "howto" / "which_measurement.md").read_text(encoding="utf-8")
    optimizers = {
        *("adafactor", "adam", "coord_clip", "clip_top_fraction", "lion", "named"),
        *("gradient_descent", "nesterov"),
        *("normalized_sgd", "paper_algorithms", "sgd", "sign_momentum"),
    }
    calls = {name for name in sharpjax.__all__ if name[0].islower()} - optimizers
    assert {name for name in calls if f"`{name}`" not in text} == set()
