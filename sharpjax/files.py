"""Results as JSON files, and back."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

_FORMAT = 1


def save(found: Any, path: str | Path) -> Path:
    """Writes a result with everything inside, whole or not at all; returns the path."""
    path = Path(path)
    text = json.dumps({"sharpjax": _FORMAT, "result": _encode(jax.device_get(found))})
    write_text(path, text)
    return path


def write_text(path: Path, text: str) -> None:
    """Beside the file first: a reader finds what was there before, or all of the new."""
    # Not mkstemp, whose files are nobody else's to read.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def load(path: str | Path) -> Any:
    """Reads what `save` wrote; arrays come back as NumPy's.

    Raises:
        ValueError: the file is not one of these; the message names it.
    """
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
        if read["sharpjax"] != _FORMAT:
            raise ValueError(f"format {read['sharpjax']} is not {_FORMAT}")
        return _decode(read["result"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no saved result: {error}") from error


def _encode(x: Any) -> Any:
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        fields = {f.name: _encode(getattr(x, f.name)) for f in dataclasses.fields(x)}
        return {"result": type(x).__name__, "fields": fields}
    if isinstance(x, dict):
        return {"dict": [[k, _encode(v)] for k, v in x.items()]}
    if isinstance(x, tuple | list):
        return {type(x).__name__: [_encode(v) for v in x]}
    if isinstance(x, np.ndarray | np.generic):
        x = np.asarray(x)
        # Floats as their shortest text: exact, and NaN and infinity as Python's JSON has them.
        wide = x.astype(np.float64) if x.dtype.kind not in "iub" else x
        return {"array": wide.ravel().tolist(), "dtype": x.dtype.name, "shape": list(x.shape)}
    return x


def _decode(x: Any) -> Any:
    if not isinstance(x, dict):
        return x
    if "fields" in x:
        return _classes()[x["result"]](**{k: _decode(v) for k, v in x["fields"].items()})
    if "dict" in x:
        return {k: _decode(v) for k, v in x["dict"]}
    if "array" in x:
        return np.array(x["array"]).astype(x["dtype"]).reshape(x["shape"])
    ((kind, values),) = x.items()
    return {"tuple": tuple, "list": list}[kind](_decode(v) for v in values)


def _classes() -> dict[str, type]:
    """What a file may hold: the results of `compare`, and what is inside."""
    from sharpjax.compare import Comparison
    from sharpjax.directions import DirectionStats
    from sharpjax.landscape import LineSearch
    from sharpjax.point import Point
    from sharpjax.precision import Precision
    from sharpjax.subspace import SpanModel

    known = (Comparison, Point, DirectionStats, LineSearch, SpanModel, Precision)
    return {cls.__name__: cls for cls in known}
