"""Fills BENCHMARKS.md from the JSON files in benchmarks/results.

A block's words name a file, a list in it and what its rows are limited to, as in
`<!-- directions rows model=t5-small batch=8x128 -->`; after slashes one number by row and column,
`<!-- directions rows model=t5-small batch=8x128 / adjoint / times vhp -->`. The words
`<!-- directions where -->` tell of the machine. `h100/directions` is a file in a folder.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.report import blocks
from experiments.report.table import Table, cell, markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("name", "part", "distribution", "model")  # The column that says what a row is.


def block(words: str, inline: bool) -> str:
    """What belongs into a block.

    Raises:
      ValueError: words that name no record.
    """
    what, *path = (part.strip() for part in words.split(" / "))
    benchmark, *rest = what.split()
    file = RESULTS / f"{benchmark}.json"
    if not file.exists():
        return "not measured" if inline else "*Not measured.*"
    record = json.loads(file.read_text(encoding="utf-8"))
    if rest == ["where"]:
        return _where(record["environment"])
    table = _table(record, words, *rest)
    return cell(table, *path) if path else markdown(table)


def _where(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    cores = f"{environment['cores']} {environment['machine']} cores"
    on = cores if environment["device"] == "cpu" else environment["device"]
    flags = f", XLA_FLAGS {environment['xla_flags']}" if environment.get("xla_flags") else ""
    return f"{on}, Python {environment['python']}, {versions}{flags}"


def _table(record: dict[str, Any], words: str, key: str, *limits: str) -> Table:
    wanted = dict(limit.split("=", 1) for limit in limits)
    rows = [r for r in record.get(key, []) if all(_word(r.get(k)) == v for k, v in wanted.items())]
    if not rows:
        raise ValueError(f"no rows for {words!r}")
    first = next(name for name in NAMES if name in rows[0] and name not in wanted)
    columns = [first, *(k for k in rows[0] if k not in wanted and k != first)]
    header = tuple(column.replace("_", " ") for column in columns)
    return Table("", header, [tuple(_text(row[c]) for c in columns) for row in rows])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value)


def _word(value: Any) -> str:
    return _text(value).replace(" ", "_")


def write(path: Path) -> bool:
    """Fills a document in place; whether that changed it."""
    text = path.read_text(encoding="utf-8")
    filled = blocks.fill(text, block)
    path.write_text(filled, encoding="utf-8")
    return filled != text


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=__doc__)
    parser.add_argument("document", nargs="?", default=ROOT / "BENCHMARKS.md", type=Path)
    options = parser.parse_args(arguments)
    print(f"{options.document}: {'filled anew' if write(options.document) else 'as it was'}")
