"""Strict modes for every test: rank promotion raises and float64 is entered explicitly."""

import gc
from pathlib import Path

import jax
import pytest

from tests.browser import browse, probe_page  # noqa: F401

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Run the test with 64-bit types, where oracles live; users run with them off."""
    with jax.enable_x64(True):
        yield


# Of its own memory maps; elsewhere than on Linux there is no such file, nor the limit.
MAPS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def forget_programs():
    """Drop the compiled programs before they fill the process.

    Each holds several memory maps, of which Linux gives a process 65,530: XLA crashes without more.
    """
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()
