"""What a run writes down: a CSV file a table of `rows`; nothing else writes.

A row is recorded once: `append` merges new rows into the table, sorts by the table's key and
replaces the file atomically, so that a file is always whole, an interrupted run loses no record,
and a resumed run's files equal an uninterrupted one's byte for byte.

Records of earlier versions stay readable: columns are found by their names, and a column that came
later has a default in its dataclass, which says what rows without it had. All files are UTF-8,
whatever the locale.
"""

import csv
import dataclasses
import io
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from experiments.errors import DamagedError
from experiments.rows import Row

T = TypeVar("T", bound=Row)


def read(directory: Path | str, table: type[T]) -> list[T]:
    """All rows of a table in key order; an absent file is an empty table.

    Raises:
      DamagedError: the file is empty or cut, or is no such table.
    """
    path = Path(directory) / table.FILE
    if not path.exists():
        return []
    fields = {field.name: field for field in dataclasses.fields(table)}
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged_table(path, str(error)) from error
    reader = csv.reader(io.StringIO(text, newline=""))
    names = next(reader, [])
    required = [k for k, field in fields.items() if field.default is dataclasses.MISSING]
    absent = [name for name in required if name not in names]
    unknown = [name for name in names if name not in fields]
    if absent or unknown or len(set(names)) < len(names):
        raise _damaged_table(path, f"its columns are {names}, not {list(fields)}")
    if not text.endswith("\n"):
        raise _damaged_table(path, f"line {text.count(chr(10)) + 1} is cut")
    rows = []
    for cells in reader:
        try:
            named = zip(names, cells, strict=True)
            rows.append(table(**{k: _parse(v, fields[k].type) for k, v in named}))
        except (ValueError, csv.Error) as error:
            raise _damaged_table(path, f"line {reader.line_num} is no row of it") from error
    return rows


def _damaged_table(path: Path, what: str) -> DamagedError:
    return DamagedError(
        f"{path} is damaged ({what}): put a whole copy of it back, or delete it and the folder "
        "checkpoints beside it, and its records are made anew"
    )


def read_json(path: Path | str) -> dict[str, Any]:
    """A JSON object of a run; an absent file is an empty one.

    Raises:
      DamagedError: the file holds none.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except ValueError as error:  # Not UTF-8, or not JSON.
        raise DamagedError(f"{path} is damaged ({error}): put a whole copy of it back") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{path} is damaged (no JSON object): put a whole copy of it back")
    return value


def append(directory: Path | str, rows: Iterable[Any]) -> None:
    """Adds rows (of any tables) to their files; a row whose key is there is kept as it was."""
    by_table: dict[type, list] = {}
    for row in rows:
        by_table.setdefault(type(row), []).append(row)
    for table, new in by_table.items():
        merged = {row.key: row for row in (*new, *read(directory, table))}
        _replace(directory, table, [merged[key] for key in sorted(merged)])


def write_json(path: Path | str, value: Any) -> None:
    """Replaces a JSON file atomically."""
    write_atomically(path, json.dumps(as_text(value), indent=2, ensure_ascii=False) + "\n")


def as_text(value: Any) -> Any:
    """The same with every string in it as text that can be encoded, whatever the locale.

    The command line comes as bytes. Python decodes them by the locale, so that a path of UTF-8
    reads differently under another one; here its bytes are taken for the UTF-8 that they are.
    """
    if isinstance(value, dict):
        return {as_text(k): as_text(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(as_text, value))
    if not isinstance(value, str) or value.isascii():
        return value
    try:
        return os.fsencode(value).decode("utf-8")
    except UnicodeError:  # It did not come from the command line, or is not UTF-8 there.
        return value.encode("utf-8", "backslashreplace").decode("utf-8")


def write_atomically(path: Path | str, text: str) -> None:
    """Writes `text` beside `path`, flushes it to disk, and renames it into place.

    Raises:
      DamagedError: it cannot be written; the file is as it was.
    """
    path = Path(path)
    try:
        _write(path, text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DamagedError(
            f"{path} could not be written ({reason}) and is as it was: make room there or make it "
            "writable, and the same command continues"
        ) from error


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _replace(directory, table, rows) -> None:
    names = [field.name for field in dataclasses.fields(table)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_format(getattr(row, name)) for name in names] for row in rows)
    write_atomically(Path(directory) / table.FILE, text.getvalue())


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(float(value)) if isinstance(value, float) else str(value)


def _parse(text: str, kind: Any) -> Any:
    if kind is bool and text not in ("true", "false"):
        raise ValueError(text)
    return text == "true" if kind is bool else kind(text)
