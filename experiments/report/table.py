"""A table of words and numbers, and its Markdown, of which the terminal's is made."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Protocol

_LONG, _LONG_NAME = 25, 56  # Letters from which a cell is words, and a name may break.
_MARKS = {"held": "✓", "not held": "✗", "in part": "◐ in part"}


@dataclasses.dataclass(frozen=True)
class Table:
    """Its first column holds names, the others numbers or words."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""

    @property
    def numbers(self) -> list[bool]:
        """Whether each column is of numbers, or of words as short."""
        return [all(len(row[i]) < _LONG for row in self.rows) for i in range(len(self.header))]


def markdown(table: Table) -> str:
    """A table with its title and caption; verdicts are ticks, and names stay on one line."""
    parts = [f"**{table.title}**" * bool(table.title), grid(table), table.caption]
    return "\n\n".join(filter(None, parts))


def document(pieces: Iterable[str | Table | None]) -> str:
    """Paragraphs and tables as Markdown; None is left out."""
    said = (markdown(p) if isinstance(p, Table) else p for p in pieces if p is not None)
    return "\n\n".join(said) + "\n"


def grid(table: Table) -> str:
    """The Markdown of header and rows alone; columns of numbers are aligned on the right."""

    def line(cells) -> str:
        return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in cells)} |"

    def body(row) -> str:
        name = row[0].replace(" ", "\u00a0") if len(row[0]) < _LONG_NAME else row[0]
        return line((name, *(_MARKS.get(text, text) for text in row[1:])))

    rule = "".join("---:|" if right else "---|" for right in table.numbers[1:])
    return "\n".join([line(table.header), f"|---|{rule}", *map(body, table.rows)])


def cell(table: Table, row: str, *columns: str) -> str:
    """The text of one cell: of several columns of one name the first after the one named before.

    Raises:
      ValueError: there is no such row or column.
    """
    rows = {_plain(r[0]): r for r in table.rows}
    if row not in rows:
        raise ValueError(f"{table.title}: no row {row!r}; there are {', '.join(map(repr, rows))}")
    header, at = [_plain(name) for name in table.header], 0
    for column in columns:
        if column not in header[at + 1 :]:
            raise ValueError(
                f"{table.title}: no column {column!r}; there are {', '.join(map(repr, header[1:]))}"
            )
        at = header.index(column, at + 1)
    return rows[row][at]


def _plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def number(value: float, digits: int = 3) -> str:
    """A number as the report prints it: 0.0123, 4.5×10⁻⁶, n/a."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}".replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}×10{_superscript(int(exponent))}".replace("-", "−")


class _Spread(Protocol):
    mean: float
    sd: float


def plus_minus(summary: _Spread | None) -> str:
    """Mean ± standard deviation in one common power of ten; without the latter if there is none."""
    if summary is None:
        return "–"
    mean, sd = summary.mean, summary.sd
    if math.isnan(sd) or not math.isfinite(mean) or mean == 0:
        return number(mean)
    if 1e-3 <= abs(mean) < 1e4:
        decimals = max(0, 2 - math.floor(math.log10(abs(mean))))
        return f"{mean:.{decimals}f} ± {sd:.{decimals}f}".replace("-", "−")
    exponent = math.floor(math.log10(abs(mean)))
    text = f"({mean / 10**exponent:.2f} ± {sd / 10**exponent:.2f})×10{_superscript(exponent)}"
    return text.replace("-", "−")


def with_error(value: float, error: float) -> str:
    """A number and its standard error, if it has one."""
    return number(value) + (f" ± {number(error)}" if math.isfinite(error) else "")


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """A number with the ends of its interval, such as 0.12 [−0.03, 0.27]."""
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")


def sign_verdict(low: float, high: float) -> str:
    """What an interval says of the claim that its number is positive."""
    return "held" if low > 0 else "contradicted" if high < 0 else "undecided"


def out_of(held: int, total: int) -> str:
    """`6 of 7`; a dash if there are none."""
    return f"{held} of {total}" if total else "–"


def percent(share: float, digits: int = 1) -> str:
    """A share of 1 in per cent."""
    return f"{100 * share:.{digits}f} %".replace("-", "−") if math.isfinite(share) else "n/a"


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
