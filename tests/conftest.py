"""Strict modes for every test: rank promotion raises and float64 is entered explicitly."""

import gc

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Run the test with 64-bit types, where oracles live; users run with them off."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop a file's compiled programs after it.

    Each holds a dozen memory maps, of which Linux gives a process 65,530; XLA crashes without more.
    """
    yield
    jax.clear_caches()
    gc.collect()
