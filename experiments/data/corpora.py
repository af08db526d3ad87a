"""Text: a Hugging Face hub id, local parquet or JSON files, or the embedded corpus."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from experiments.data import embedded, text_files
from experiments.errors import DataError

Kind = Literal["translation", "text"]

EMBEDDED_ROWS = 16_384  # What `embedded` gives where no count is asked.
MOST_EMBEDDED_ROWS = 2**20  # They are made one by one, and kept in memory.
_SURROGATE = re.compile("[\ud800-\udfff]")  # Half of a pair, which no UTF-8 has.
DEFAULT_CONFIGS = {"Helsinki-NLP/opus_books": "en-fr"}


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

    def rows(self, start: int, count: int) -> "Corpus":
        """Rows [start, start + count), each checked to have text.

        Raises:
          DataError: there are fewer rows, or one has an empty text or no Unicode.
        """
        if start < 0 or count < 1:
            raise ValueError(f"rows need start >= 0 and count >= 1, got {start} and {count}")
        if start + count > len(self):
            asked = f"{count} rows from row {start} on were asked for"
            raise DataError(f"{self.name}: {asked}, but there are {len(self)}")
        columns = tuple(column[start : start + count] for column in self.columns)
        first = self.first_row + start
        two_sides = ("translation.en", "translation.fr")
        fields = two_sides if self.kind == "translation" else ("text",)
        for field, column in zip(fields, columns, strict=True):
            for row, text in enumerate(column, first):
                if not isinstance(text, str) or not text.strip():
                    raise DataError(f"{self.name}: column '{field}' has no text in row {row}")
                if _SURROGATE.search(text):
                    raise DataError(
                        f"{self.name}: column '{field}' has half of a surrogate pair in row {row}, "
                        "which is no text"
                    )
        return replace(self, columns=columns, first_row=first)

    def take(self, numbers: Sequence[int]) -> "Corpus":
        """The rows of these numbers, in this order; they are numbered anew."""
        columns = tuple(tuple(column[i] for i in numbers) for column in self.columns)
        return replace(self, columns=columns, first_row=0)

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
      source: "embedded"; a file of parquet, JSON lines or a JSON array (with .gz too), or a
        directory of such files; or a hub id "owner/name", with ":config" where it needs one
        (`Helsinki-NLP/opus_books` defaults to en-fr). Of what has splits, train is taken. A column
        of another name follows after "#", unless a file is named so.
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
        if asked > MOST_EMBEDDED_ROWS:
            raise DataError(
                f"embedded: {asked} rows were asked for, but it makes {MOST_EMBEDDED_ROWS} at most"
            )
        rows = embedded.pairs(asked) if kind == "translation" else embedded.paragraphs(asked)
        columns = tuple(zip(*rows, strict=True)) if kind == "translation" else (tuple(rows),)
        return Corpus("embedded", kind, columns)
    column = ""
    if not Path(source).exists():  # A path may have a "#" in it.
        source, _, column = source.rpartition("#") if "#" in source else (source, "", "")
    column = column or kind  # A kind is also the name of its column.
    path = Path(source)
    if path.exists() or text_files.is_text_file(path):
        name, values = _read_files(text_files.files_of(path), path, column, count)
    else:
        name, values = _read_hub(source, column, count)
    if count is not None and len(values) < count:
        raise DataError(f"{name}: {count} rows were asked for, but it has {len(values)}")
    if not values:
        raise DataError(f"{name}: it has no rows")
    return Corpus(name, kind, _split(values, name, kind))


def load_others(sources: Sequence[str], kind: Kind, study: Corpus, shortest: int = 1) -> Corpus:
    """The rows of several corpora, one after the other, that a study does not use.

    Left out are rows that share a text with one of the study's (of a pair: either side), rows that
    came before, and those whose first text has fewer than `shortest` characters.

    Raises:
      DataError: as `load_corpus` and `Corpus.rows`; or nothing is left.
    """
    parts = [load_corpus(source, kind) for source in sources]
    parts = [part.rows(0, len(part)) for part in parts]
    used = [set(column) for column in study.columns]
    rows = dict.fromkeys(row for part in parts for row in zip(*part.columns, strict=True))
    left = [
        row
        for row in rows
        if len(row[0]) >= shortest
        and not any(text in texts for text, texts in zip(row, used, strict=True))
    ]
    name = " + ".join(part.name for part in parts)
    if not left:
        raise DataError(f"{name}: no row has {shortest} characters and is not the study's")
    return Corpus(name, kind, tuple(zip(*left, strict=True)))


def _split(values: Sequence, name: str, kind: str) -> tuple[tuple[str, ...], ...]:
    if kind == "text":
        return (tuple(values),)
    for row, value in enumerate(values):
        for language in ("en", "fr"):
            if not isinstance(value, dict) or language not in value:
                raise DataError(f"{name}: column 'translation' has no '{language}' in row {row}")
    return tuple(tuple(value[language] for value in values) for language in ("en", "fr"))


def _read_files(
    files: Sequence[Path], source: Path, column: str, count: int | None
) -> tuple[str, list]:
    """The name of the files together, and their rows one file after the other."""
    values: list = []
    for file in files:
        if count is not None and len(values) >= count:
            break
        own = f"{file.resolve().parent.name}/{file.name}"
        left = None if count is None else count - len(values)
        values += text_files.read(file, own, column, left)
    return own if len(files) == 1 else f"{source.resolve().name} ({len(files)} files)", values


def _read_hub(source: str, column: str, count: int | None) -> tuple[str, list]:
    hub_id, _, config = source.partition(":")
    if hub_id.count("/") != 1 or not all(hub_id.split("/")):
        raise DataError(
            f"{source!r}: neither 'embedded', nor a file here, nor a hub id 'owner/name'"
        )
    config = config or DEFAULT_CONFIGS.get(hub_id, "")
    name = f"{hub_id}:{config}" if config else hub_id
    import datasets

    with text_files.quiet(datasets):
        try:
            data = datasets.load_dataset(hub_id, config or None, split="train")
        except Exception as error:  # The hub's failures have no common base class.
            reason = f"{type(error).__name__}: {text_files.first_line(error)}"
            raise DataError(f"{name}: could not be loaded from the hub ({reason})") from error
    if column not in data.column_names:
        raise text_files.missing(name, column, data.column_names)
    return name, data[: count or len(data)][column]
