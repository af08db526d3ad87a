"""Text: a Hugging Face hub id, a local parquet or JSONL file, or the embedded corpus."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from experiments import embedded

Kind = Literal["translation", "text"]

EMBEDDED_ROWS = 16_384  # What `embedded` gives where no count is asked.
DEFAULT_CONFIGS = {"Helsinki-NLP/opus_books": "en-fr"}
SUFFIXES = (".parquet", ".jsonl")


class DataError(ValueError):
    """A corpus that cannot be used. One line: which file, column and row, and how many."""


@dataclass(frozen=True)
class Corpus:
    """Rows of text, in file order.

    Attributes:
      name: what every output prints.
      kind: "translation" or "text".
      columns: English and French texts, or the one column of texts.
      first_row: the place of row 0 in the source.
    """

    name: str
    kind: Kind
    columns: tuple[tuple[str, ...], ...]
    first_row: int = 0

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def english(self) -> tuple[str, ...]:
        """The source side of a translation corpus."""
        return self._column("translation", 0)

    @property
    def french(self) -> tuple[str, ...]:
        """The target side of a translation corpus."""
        return self._column("translation", 1)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of a text corpus."""
        return self._column("text", 0)

    def _column(self, kind: str, index: int) -> tuple[str, ...]:
        if self.kind != kind:
            raise DataError(f"{self.name}: a {self.kind} corpus has no {kind} columns")
        return self.columns[index]

    def rows(self, start: int, count: int) -> "Corpus":
        """Rows [start, start + count), each checked to have text.

        Raises:
          DataError: there are fewer rows, or one has an empty text.
        """
        if start < 0 or count < 1:
            raise ValueError(f"rows need start >= 0 and count >= 1, got {start} and {count}")
        if start + count > len(self):
            asked = f"{count} rows from row {start} on were asked for"
            raise DataError(f"{self.name}: {asked}, but there are {len(self)}")
        columns = tuple(column[start : start + count] for column in self.columns)
        first = self.first_row + start
        for field, column in zip(_fields(self.kind), columns, strict=True):
            for row, text in enumerate(column, first):
                if not isinstance(text, str) or not text.strip():
                    raise DataError(f"{self.name}: column '{field}' has no text in row {row}")
        return replace(self, columns=columns, first_row=first)

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the kind and of every row's text, whatever the file format: 64 hex digits."""
        digest = hashlib.sha256(self.kind.encode())
        for row in zip(*self.columns, strict=True):
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def load_corpus(source: str, kind: Kind, count: int | None = None) -> Corpus:
    """Read a corpus.

    Args:
      source: "embedded"; a parquet or JSONL file, or a directory that holds exactly one; or a
        hub id "owner/name", with ":config" where it needs one (`Helsinki-NLP/opus_books` defaults
        to en-fr), whose train split is taken.
      kind: "translation" reads `translation: {en, fr}`, "text" reads `text`.
      count: keep the first `count` rows only (and, of `embedded`, make no more).

    Raises:
      DataError: the source is unknown, unreadable or offline, lacks the column, or has fewer than
        `count` rows. Empty texts are looked for in the rows that are used: see `Corpus.rows`.
    """
    if kind not in ("translation", "text"):
        raise ValueError(f"kind must be 'translation' or 'text', got {kind!r}")
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if source == "embedded":
        asked = count or EMBEDDED_ROWS
        rows = embedded.pairs(asked) if kind == "translation" else embedded.paragraphs(asked)
        columns = tuple(zip(*rows, strict=True)) if kind == "translation" else (tuple(rows),)
        return Corpus("embedded", kind, columns)
    source, _, column = source.partition("#")
    column = column or kind
    path = Path(source)
    if path.is_dir() or path.is_file() or path.suffix in SUFFIXES:
        path = _only_file(path)
        # A kind is also the name of its column.
        name = f"{path.resolve().parent.name}/{path.name}"
        read = _read_parquet if path.suffix == ".parquet" else _read_jsonl
        values = read(path, name, column, count)
    else:
        name, values = _read_hub(source, column, count)
    if count is not None and len(values) < count:
        raise DataError(f"{name}: {count} rows were asked for, but it has {len(values)}")
    if not values:
        raise DataError(f"{name}: it has no rows")
    return Corpus(name, kind, _split(values, name, kind))


def _fields(kind: str) -> tuple[str, ...]:
    return ("translation.en", "translation.fr") if kind == "translation" else ("text",)


def _split(values: Sequence, name: str, kind: str) -> tuple[tuple[str, ...], ...]:
    if kind == "text":
        return (tuple(values),)
    for row, value in enumerate(values):
        for language in ("en", "fr"):
            if not isinstance(value, dict) or language not in value:
                raise DataError(f"{name}: column 'translation' has no '{language}' in row {row}")
    return tuple(tuple(value[language] for value in values) for language in ("en", "fr"))


def _only_file(path: Path) -> Path:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise DataError(f"{path}: a corpus file ends in {' or '.join(SUFFIXES)}")
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such file")
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if len(files) != 1:
        raise DataError(f"{path}: it holds {len(files)} parquet or JSONL files, need exactly 1")
    return files[0]


def _missing(name: str, column: str, found: Sequence[str]) -> DataError:
    return DataError(f"{name}: no column '{column}' among {', '.join(found) or 'none'}")


def _read_parquet(path: Path, name: str, column: str, count: int | None) -> list:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise _missing(name, column, file.schema_arrow.names)
            values = []
            for batch in file.iter_batches(columns=[column]):
                values += batch.column(0).to_pylist()
                if count is not None and len(values) >= count:
                    break
            return values[:count]
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{name}: unreadable parquet file ({_first_line(error)})") from error


def _read_jsonl(path: Path, name: str, column: str, count: int | None) -> list:
    values = []
    try:
        with path.open(encoding="utf-8") as lines:
            for row, line in enumerate(lines):
                if count is not None and row >= count:
                    break
                record = json.loads(line)
                if not isinstance(record, dict) or column not in record:
                    found = list(record) if isinstance(record, dict) else []
                    raise DataError(f"{_missing(name, column, found)} in row {row}")
                values.append(record[column])
    except json.JSONDecodeError as error:
        raise DataError(f"{name}: row {len(values)} is not JSON ({error})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: unreadable JSONL file ({_first_line(error)})") from error
    return values


def _read_hub(source: str, column: str, count: int | None) -> tuple[str, list]:
    hub_id, _, config = source.partition(":")
    if hub_id.count("/") != 1 or not all(hub_id.split("/")):
        raise DataError(f"{source!r}: neither 'embedded', nor a file, nor a hub id 'owner/name'")
    config = config or DEFAULT_CONFIGS.get(hub_id, "")
    name = f"{hub_id}:{config}" if config else hub_id
    import datasets

    with _no_progress_bars(datasets):
        try:
            data = datasets.load_dataset(hub_id, config or None, split="train")
        except Exception as error:  # The hub's failures have no common base class.
            reason = f"{type(error).__name__}: {_first_line(error)}"
            raise DataError(f"{name}: could not be loaded from the hub ({reason})") from error
    if column not in data.column_names:
        raise _missing(name, column, data.column_names)
    return name, data[: count or len(data)][column]


@contextmanager
def _no_progress_bars(datasets):
    enabled = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
