"""Blocks are replaced and nothing else; what Markdown would not show is refused."""

import pytest

from experiments.report import blocks, table
from experiments.report.table import Table
from tests.prose import unmarked_numbers

TABLE = Table(
    "Ratios", ("", "epoch 2", "paper", "epoch 5", "paper"),
    [("SGD", "1.00", "1", "1.00", "1"), ("a|b", "0.5", "0.6", "held", "0.8")], "Means.",
)  # fmt: skip


def echo(words, inline):
    return f"{words}." if inline else f"| {words} |\n|---|"


def test_blocks_are_filled_and_the_rest_stays():
    text = (
        "# Title\n<!-- a remark -->\nWe hold <!-- held -->1 of 2<!-- end --> of them.\n\n"
        "<!-- table mlm -->\nold\n<!-- end -->\n\n| x | <!-- n / a --><!-- end --> |\n"
    )
    filled = blocks.fill(text, echo)
    assert filled == (
        "# Title\n<!-- a remark -->\nWe hold <!-- held -->held.<!-- end --> of them.\n\n"
        "<!-- table mlm -->\n\n| table mlm |\n|---|\n\n<!-- end -->\n\n"
        "| x | <!-- n / a -->n / a.<!-- end --> |\n"
    )
    assert blocks.fill(filled, echo) == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n<!-- end -->", "line 2: <!-- end --> without a beginning"),
        ("x <!-- a -->1<!-- end --> <!-- end -->", "without a beginning"),
        ("of\n<!-- held -->1<!-- end --> cells", "line 2: a number must not open a line"),
        ("- <!-- held -->1<!-- end --> cells", "must not open a line, nor a list's item"),
    ],
)
def test_what_would_not_show_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        blocks.fill(text, echo)


def test_unmarked_numbers():
    text = (
        "The ratio is 0.43 or 3.1×10⁻⁶, <!-- held -->0.5<!-- end --> with `0.7` of "
        "[1](a0.9.png) in 20 epochs at 0.1; 2×10⁻⁷.\n```\n1.5\n```\nVersion 1.2.3."
    )
    assert unmarked_numbers(text, allowed=("0.1",)) == ["0.43", "3.1×10⁻⁶", "2×10⁻⁷"]


def test_markdown():
    assert table.markdown(TABLE).splitlines() == [
        "**Ratios**",
        "",
        "|  | epoch 2 | paper | epoch 5 | paper |",
        "|---|---:|---:|---:|---:|",
        "| SGD | 1.00 | 1 | 1.00 | 1 |",
        r"| a\|b | 0.5 | 0.6 | ✓ | 0.8 |",
        "",
        "Means.",
    ]
    words = Table("", ("", "held"), [("a b", "because it is so and not otherwise")])
    assert table.markdown(words).splitlines() == [
        "|  | held |",
        "|---|---|",
        "| a\u00a0b | because it is so and not otherwise |",
    ]


def test_cell_finds_the_column_after_the_one_named_before():
    assert table.cell(TABLE, "SGD", "epoch 2") == "1.00"
    assert table.cell(TABLE, "a|b", "paper") == "0.6"
    assert table.cell(TABLE, "a|b", "epoch 5", "paper") == "0.8"
    with pytest.raises(ValueError, match="no row 'Adam'; there are 'SGD'"):
        table.cell(TABLE, "Adam", "paper")
    with pytest.raises(ValueError, match="no column 'epoch 9'; there are 'epoch 2'"):
        table.cell(TABLE, "SGD", "epoch 9")
