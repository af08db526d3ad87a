"""The files of a Hugging Face checkpoint, in a directory or on the hub, and the tensors in them."""

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class StoredTensor(NamedTuple):
    """A tensor that lies in a file: its shape now, its values when asked."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def finder(source: str | os.PathLike) -> Callable[[str], Path | None]:
    """A function from a file's name to where it lies, None if the checkpoint has no such file."""
    directory = Path(source).expanduser()
    if directory.is_dir():
        return lambda name: directory / name if (directory / name).is_file() else None
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(source)):
        raise FileNotFoundError(f"{source} is neither a directory nor a Hugging Face hub id")

    def find(name: str) -> Path | None:
        from huggingface_hub import errors, hf_hub_download

        try:
            return Path(hf_hub_download(str(source), name))
        except errors.RemoteEntryNotFoundError:
            return None
        except (errors.EntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
            # With a part of a model in the cache, the hub's absence is a file's absence.
            if name != "config.json":
                return None
            raise FileNotFoundError(
                f"{source} is no directory here, and the Hugging Face hub gave no {name} for it "
                f"({type(error).__name__}). If this machine is offline, fetch the model on one "
                f"that is not, `hf download {source} --local-dir DIRECTORY`, copy the directory "
                "here and pass its path; if it is online, check the name and your access."
            ) from error

    return find


def open_tensors(find: Callable[[str], Path | None], source: Any) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint by its name, from the first of the formats that is there."""
    for name, open_file in (("model.safetensors", _safetensors), ("pytorch_model.bin", _torch_bin)):
        if (path := find(name)) is not None:
            return dict(open_file(path))
        if (path := find(name + ".index.json")) is not None:
            try:
                shards = sorted(
                    set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
                )
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ValueError(f"{path} is damaged: {error}") from error
            files = {shard: find(shard) for shard in shards}
            absent = [shard for shard, file in files.items() if file is None]
            if absent:
                raise FileNotFoundError(f"{source} lacks {', '.join(absent)}, which {path} names")
            return {k: v for file in files.values() if file for k, v in open_file(file)}
    raise FileNotFoundError(
        f"{source} has neither model.safetensors nor pytorch_model.bin, whole or in shards"
    )


def _safetensors(path: Path) -> Iterable[tuple[str, StoredTensor]]:
    from safetensors import SafetensorError, safe_open

    def reader(file: Any, name: str) -> Callable[[], np.ndarray]:
        return lambda: file.get_tensor(name)

    try:
        file = safe_open(path, "np")  # It maps the file; tensors are read one by one.
        names = list(file.keys())
        shapes = [tuple(file.get_slice(name).get_shape()) for name in names]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return [(n, StoredTensor(s, reader(file, n))) for n, s in zip(names, shapes, strict=True)]


def _torch_bin(path: Path) -> Iterable[tuple[str, StoredTensor]]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"{path} needs PyTorch to be read: pip install torch") from error

    def reader(tensor: Any) -> Callable[[], np.ndarray]:
        return lambda: tensor.float().numpy()  # NumPy has no bfloat16 of PyTorch's.

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        return [(name, StoredTensor(tuple(t.shape), reader(t))) for name, t in loaded.items()]
    except Exception as error:  # Whatever unpickling a damaged file may raise.
        raise ValueError(f"{path} is damaged, or holds more than tensors: {error}") from error
