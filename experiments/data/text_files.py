"""Rows of text in files: parquet, JSON lines, a JSON array; compressed or not, one or several."""

import contextlib
import glob
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.errors import DataError

# A folder's texts are in one of these formats, looked for in this order.
FORMATS = ((".parquet",), (".jsonl", ".jsonl.gz"), (".json", ".json.gz"))
SUFFIXES = tuple(suffix for suffixes in FORMATS for suffix in suffixes)
_ABOUT = ("config.json", "dataset_info.json", "dataset_infos.json", "state.json")
_OTHER_SPLITS = {"test", "validation", "valid", "val", "dev", "eval"}


def is_text_file(path: Path) -> bool:
    """Whether a path's name is one of a text file, there or not."""
    return path.name.endswith(SUFFIXES)


def files_of(path: Path) -> list[Path]:
    """The file, or the folder's files in the order of their names.

    Of a folder that is split by its files' names (train, test, validation, …), those of "train".

    Raises:
      DataError: no such file, another format, or a folder with none.
    """
    if path.is_file():
        if not is_text_file(path):
            raise DataError(f"{path}: a corpus file ends in one of {', '.join(SUFFIXES)}")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file")
    entries = [p for p in sorted(path.iterdir()) if p.is_file() and p.name not in _ABOUT]
    files: list[Path] = []
    for suffixes in FORMATS:
        files = files or [p for p in entries if p.name.endswith(suffixes)]
    words = {p: set(re.split(r"[^a-z]+", p.name.lower())) for p in files}
    train = [p for p in files if "train" in words[p]]
    rest = [p for p in files if not words[p] & _OTHER_SPLITS]
    found = train or (rest if len(files) > 1 else files)
    if not found:
        what = f"none of its {len(files)} files is of the train split" if files else "none in it"
        raise DataError(f"{path}: no text to train on ({what}); files are {', '.join(SUFFIXES)}")
    return found


def read(path: Path, name: str, column: str, count: int | None) -> list:
    """The first `count` values of a column of one file; all if it is None.

    Raises:
      DataError: the file cannot be read or has no such column; it is `name` in the message.
    """
    reader = _read_parquet if path.suffix == ".parquet" else _read_json
    return reader(path, name, column, count)


def missing(name: str, column: str, found: Sequence[str]) -> DataError:
    """The error of a column that is not there."""
    return DataError(f"{name}: no column '{column}' among {', '.join(found) or 'none'}")


def first_line(error: BaseException) -> str:
    """Of an error's message, or its type if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextlib.contextmanager
def quiet(datasets: Any) -> Iterator[None]:
    """Without the progress bars and the log of `datasets`: its errors are told in one line."""
    bars = datasets.utils.logging.is_progress_bar_enabled()
    level = datasets.utils.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.utils.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def _read_parquet(path: Path, name: str, column: str, count: int | None) -> list:
    import pyarrow
    import pyarrow.parquet

    try:
        # An open file: pyarrow takes a path for UTF-8, which it need not be.
        with path.open("rb") as opened, pyarrow.parquet.ParquetFile(opened) as file:
            if column not in file.schema_arrow.names:
                raise missing(name, column, file.schema_arrow.names)
            values: list = []
            for batch in file.iter_batches(columns=[column]):
                values += batch.column(0).to_pylist()
                if count is not None and len(values) >= count:
                    break
            return values[:count]
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name}: unreadable parquet file ({first_line(error)})") from error


def _read_json(path: Path, name: str, column: str, count: int | None) -> list:
    """Through `datasets`, which knows byte-order marks, blank lines, arrays and compression."""
    import datasets

    values: list = []
    with quiet(datasets):
        try:
            # Streamed: nothing is copied into a cache, and no more is read than is asked for.
            rows = iter(
                datasets.load_dataset(
                    "json", data_files=glob.escape(str(path)), split="train", streaming=True
                )
            )
            for row in itertools.islice(rows, count):
                if column not in row:
                    raise missing(name, column, list(row))
                values.append(row[column])
        except StopIteration:  # An empty file.
            return []
        except DataError:
            raise
        except Exception as error:  # Of Arrow, of decompression, of decoding: no common base.
            raise DataError(
                f"{name}: unreadable JSON file ({_where(error, len(values))})"
            ) from error
    return values


def _where(error: Exception, before: int) -> str:
    """The error's first line; a row that it names is counted from the file's start."""
    found = re.search(r" in row (\d+)$", line := first_line(error))
    return f"{line[: found.start()]} in row {before + int(found[1])}" if found else line
