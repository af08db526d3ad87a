"""Numbers as the tables print them."""

import math

import pytest

from experiments import claims, tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.10431, "0.104"),
        (31.04433, "31.0"),
        (3.1928e-6, "3.19×10⁻⁶"),
        (-0.5, "−0.500"),
        (-2e-5, "−2.00×10⁻⁵"),
        (1234.5, "1234"),
        (123456.0, "1.23×10⁵"),
        (0.0, "0"),
        (math.nan, "n/a"),
        (math.inf, "∞"),
    ],
)
def test_number(value, text):
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (claims.Summary(0.1043, 0.0123, 5, 0), "0.104 ± 0.012"),
        (claims.Summary(1.64e-5, 2e-6, 5, 0), "(1.64 ± 0.20)×10⁻⁵"),
        (claims.Summary(-0.02, 0.01, 5, 5), "−0.0200 ± 0.0100"),
        (claims.Summary(0.5, math.nan, 1, 0), "0.500"),
        (claims.Summary(math.inf, math.nan, 2, 0), "∞"),
    ],
)
def test_plus_minus(summary, text):
    assert tables.plus_minus(summary) == text
