"""Hugging Face checkpoints in and out: with `tensor_files.py`, all that touches files here.

Everything is checked before anything is converted.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from sharpjax.models.families import FAMILIES, Family
from sharpjax.models.losses import init_params
from sharpjax.models.tensor_files import StoredTensor, finder, open_tensors


def load_config(
    source: str | os.PathLike,
    *,
    expected: type[nn.Module] | tuple[type[nn.Module], ...] | None = None,
) -> Any:
    """The configuration of a checkpoint: its config.json is read, its tensors are not.

    Args:
        source: A directory, or a hub id, as in `load_pretrained`.
        expected: The class or classes (`T5`, `RobertaForMaskedLM`, `GPT2`) of which the model
            must be; None: any.

    Returns:
        A `T5Config`, `RobertaConfig` or `GPT2Config`, whose `model_type` is the file's.

    Raises:
        FileNotFoundError: If there is no config.json.
        ValueError: If it is damaged, is of no known or not of the expected model, or has a value
            that is wrong or not implemented. The one line names the file, the entry and the value.
    """
    return _read_config(_config_file(finder(source), source), expected)[1]


def load_pretrained(
    source: str | os.PathLike,
    *,
    dtype: Any = None,
    expected: type[nn.Module] | tuple[type[nn.Module], ...] | None = None,
) -> tuple[nn.Module, Any]:
    """The model and its parameters, from a directory or from the Hugging Face hub.

    Reads `config.json` and, of these, the first that is there: `model.safetensors`, its shards
    by `model.safetensors.index.json`, `pytorch_model.bin` (or its shards; this needs torch, and
    reads nothing but tensors). Parameters are float32, whatever the file holds. A directory is
    read in place and nothing is downloaded. The host holds one copy of the file's largest tensor
    beside the parameters (two of all tensors with `.bin`).

    Args:
        source: A directory, or a hub id such as "google-t5/t5-small", "distilroberta-base".
        dtype: Of the computation, e.g. `jnp.bfloat16`; None: that of the parameters.
        expected: The class or classes of which the model must be, e.g. `T5`; None: any. It is
            checked before a tensor is read.

    Returns:
        `(model, params)`: a `T5`, `RobertaForMaskedLM` or `GPT2`, and a nested dictionary of
        arrays.

    Raises:
        FileNotFoundError: If the directory or a file in it is not there, or the hub cannot be
            reached and the model is not in its cache.
        ValueError: If a file is damaged (it is named), the configuration is of another kind or
            has an entry that is wrong or not implemented (it is named with its value), or tensors
            are missing, unexpected or of a wrong shape (one error lists all).
        ImportError: If only `pytorch_model.bin` is there and torch is not.
    """
    find = finder(source)
    family, config = _read_config(_config_file(find, source), expected)
    tensors = _in_parts(family, open_tensors(find, source))
    config, problems = _untie(family, config, tensors)
    model = family.model(config, dtype)

    shapes = _paths(model)
    names = {path: _reference_name(family, path) for path in shapes}
    for path, shape in shapes.items():
        name = names[path]
        wanted = shape[::-1] if _transposed(family, path) else shape
        if name not in tensors:
            problems.append(f"missing: {name} {wanted}")
        elif tensors[name].shape != wanted:
            problems.append(f"wrong shape: {name} is {tensors[name].shape}, not {wanted}")
    for name in sorted(set(tensors) - set(names.values())):
        if not re.fullmatch(family.harmless, name):
            problems.append(f"unexpected: {name} {tensors[name].shape}")
    if problems:
        title = f"{source} does not hold a {family.model.__name__} of its configuration"
        raise ValueError("\n  ".join([title + ":", *problems]))

    params = {}
    for path, name in names.items():
        value = tensors[name].read().astype(np.float32)
        params[path] = jnp.asarray(value.T if _transposed(family, path) else value)
    return model, traverse_util.unflatten_dict(params)


def save_pretrained(path: str | os.PathLike, model: nn.Module, params: Any) -> None:
    """Write `config.json` and `model.safetensors` so that `transformers` loads them.

    The directory is made if need be, and `model_type` is the configuration's. Parameters keep
    their dtype; sharded ones are gathered on the host, one copy of all. Each file appears whole
    or not at all.

    Raises:
        ValueError: If the parameters are not those of the model (one error lists all), or the
            model is of no known family. Nothing is written then.
    """
    from safetensors.numpy import save_file

    family = next((f for f in FAMILIES if isinstance(model, f.model)), None)
    if family is None:
        raise ValueError(f"{type(model).__name__} has no Hugging Face counterpart")
    expected = _paths(model)
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(params)  # pyright: ignore[reportAssignmentType]
    wrong = [p for p in expected if p not in flat or flat[p].shape != expected[p]]
    wrong += [p for p in flat if p not in expected]
    if wrong:
        raise ValueError("not the model's parameters: " + ", ".join(map("/".join, wrong)))

    tensors = {}
    for keys, value in flat.items():
        value = np.asarray(value)
        value = np.ascontiguousarray(value.T if _transposed(family, keys) else value)
        tensors[_reference_name(family, keys)] = value
    tensors = _fused(family, tensors)
    config: Any = model.config  # pyright: ignore[reportAttributeAccessIssue]
    if not config.tie_word_embeddings:
        tensors |= {also: tensors[family.duplicates[also]] for also in family.read_if_untied}
    entries = {
        "architectures": [family.architectures[config.model_type]],
        **family.constants,
        **{key: value for key, value in dataclasses.asdict(config).items() if value is not None},
        "dtype": str(next(iter(tensors.values())).dtype),
    }
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    written = directory / "model.safetensors.tmp", directory / "config.json.tmp"
    save_file(tensors, written[0], metadata={"format": "pt"})
    written[1].write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    for file in written:
        file.replace(file.with_suffix(""))


def _paths(model: nn.Module) -> dict[tuple[str, ...], tuple[int, ...]]:
    """The model's parameter paths and shapes; no parameter is made."""
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes).items()}  # pyright: ignore


def _reference_name(family: Family, path: tuple[str, ...]) -> str:
    name = "/".join(path)
    for pattern, replacement in family.rules:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"/(kernel|scale|embedding)$", "/weight", name).replace("/", ".")


def _transposed(family: Family, path: tuple[str, ...]) -> bool:
    return path[-1] == "kernel" and (family.transposed or path[0] == "lm_head")


def _in_parts(family: Family, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """What a file holds, with the family's prefix, and its fused tensors as their parts."""
    if not any(name.startswith(family.prefix) for name in tensors):
        tensors = {n if n in family.duplicates else family.prefix + n: tensors[n] for n in tensors}
    if family.fused is None:
        return tensors

    def part(tensor: StoredTensor, index: int, count: int) -> StoredTensor:
        width = tensor.shape[-1] // count
        chosen = slice(index * width, (index + 1) * width)
        return StoredTensor((*tensor.shape[:-1], width), lambda: tensor.read()[..., chosen])

    module, parts = family.fused
    found = {}
    for name, tensor in tensors.items():
        start, is_fused, end = name.rpartition(f".{module}.")
        if not is_fused or not tensor.shape or tensor.shape[-1] % len(parts):
            found[name] = tensor
            continue
        for i, own in enumerate(parts):
            found[f"{start}.{module}.{own}.{end}"] = part(tensor, i, len(parts))
    return found


def _fused(family: Family, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `_in_parts`: parts side by side, on their last axis."""
    if family.fused is None:
        return tensors
    module, parts = family.fused
    found = {}
    for name, tensor in tensors.items():
        start, is_fused, end = name.rpartition(f".{module}.")
        if not is_fused:
            found[name] = tensor
        elif end.startswith(f"{parts[0]}."):
            end = end.removeprefix(f"{parts[0]}.")
            side_by_side = [tensors[f"{start}.{module}.{own}.{end}"] for own in parts]
            found[f"{start}.{module}.{end}"] = np.concatenate(side_by_side, axis=-1)
    return found


def _config_file(find: Callable[[str], Path | None], source: Any) -> Path:
    path = find("config.json")
    if path is None:
        raise FileNotFoundError(f"{source} has no config.json")
    return path


def _read_config(path: Path, expected: Any = None) -> tuple[Family, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        kind = entries.get("model_type")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    family = _family(path, kind, expected)
    for key, value in {**family.constants, "quantization_config": None}.items():
        if entries.get(key, value) != value:
            raise ValueError(f"{path} has {key} {entries[key]!r}; only {value!r} is implemented")
    fields = {field.name for field in dataclasses.fields(family.config)}
    # The reference omits or nulls what has its default; lists would not hash.
    chosen = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in entries.items()
        if key in fields and value is not None
    }
    try:
        config = family.config(**{**family.absent.get(kind, {}), **chosen})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for key, value in entries.items():
        # Entries that repeat what others say, and that the reference follows where they differ.
        if isinstance(getattr(family.config, key, None), property):
            implied = getattr(config, key)
            if value is not None and value != implied:
                raise ValueError(f"{path} has {key} {value!r}; only {implied!r} is implemented")
    return family, config


def _family(path: Path, kind: Any, expected: Any) -> Family:
    """The family of a model_type; ValueError if there is none, or it is not an expected one."""
    known = [k for f in FAMILIES for k in f.architectures]
    family = next((f for f in FAMILIES if kind in f.architectures), None)
    if family is None:
        raise ValueError(f"{path} has model_type {kind!r}; known are {sorted(known)}")
    if expected is not None and not issubclass(family.model, expected):
        classes = expected if isinstance(expected, tuple) else (expected,)
        names = " or ".join(c.__name__ for c in classes)
        kinds = [k for f in FAMILIES if issubclass(f.model, expected) for k in f.architectures]
        raise ValueError(
            f"{path} has model_type {kind!r}, a {family.model.__name__}; "
            f"a {names} is needed, so one of {kinds}"
        )
    return family


def _untie(family: Family, config: Any, tensors: dict[str, StoredTensor]) -> tuple[Any, list[str]]:
    """Drop the repetitions of tied tensors; a head that differs is untied, as the reference does.

    Files keep a tied tensor under any of its names, or under several.
    """
    problems = []
    head, embedding = family.head, family.duplicates[family.head]
    both = head in tensors and embedding in tensors
    if both and config.tie_word_embeddings and not _equal(tensors[head], tensors[embedding]):
        changes = {"tie_word_embeddings": False}
        if hasattr(config, "scales_decoder_outputs"):  # As before, where None would now mean no.
            changes["scale_decoder_outputs"] = config.scales_decoder_outputs
        config = dataclasses.replace(config, **changes)
    for duplicate, name in family.duplicates.items():
        own = not config.tie_word_embeddings
        if duplicate not in tensors or (own and duplicate == head):
            continue
        if name not in tensors or (own and duplicate in family.read_if_untied):
            tensors[name] = tensors.pop(duplicate)
            continue
        if not _equal(tensors[duplicate], tensors[name]):
            problems.append(f"not tied: {duplicate} differs from {name}")
        del tensors[duplicate]
    return config, problems


def _equal(a: StoredTensor, b: StoredTensor) -> bool:
    return a.shape == b.shape and np.array_equal(a.read(), b.read())
