"""Every public name says what it does, with an example that runs."""

import dataclasses
import doctest
import inspect
import warnings

import jax
import pytest

import sharpjax

NAMES = [name for name in sharpjax.__all__ if name.islower()]
CLASSES = [name for name in sharpjax.__all__ if not name.islower()]


@pytest.mark.parametrize("name", NAMES)
def test_a_function_has_a_docstring_with_an_example_that_runs(name):
    function = getattr(sharpjax, name)
    text = inspect.getdoc(function)
    assert (text and text[0].isupper()) or text.startswith("`"), name
    examples = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert any(one.examples for one in examples), f"{name} has no example"
    with warnings.catch_warnings(), jax.numpy_rank_promotion("allow"):
        warnings.simplefilter("error")
        for one in examples:
            failed, _ = doctest.DocTestRunner(verbose=False).run(one)
            assert not failed, name


@pytest.mark.parametrize("name", CLASSES)
def test_a_result_documents_every_field(name):
    cls = getattr(sharpjax, name)
    assert inspect.getdoc(cls)
    if not dataclasses.is_dataclass(cls):
        return  # Named tuples of functions.
    source = inspect.getsource(cls)
    for field in dataclasses.fields(cls):
        lines = source.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith(f"    {field.name}:"))
        assert lines[at + 1].strip().startswith('"""'), f"{name}.{field.name}"
    leaves, structure = jax.tree.flatten(cls(**{f.name: 1.0 for f in dataclasses.fields(cls)}))
    assert structure.unflatten(leaves) is not None
