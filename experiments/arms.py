"""What the scale study changes, an arm a change: size, vocabulary, start, embedding, padding."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.config import Config

PAPERS_SOURCE = 512  # Tokens that the authors' code pads a translation's source to.


def _size(width: int, blocks: int) -> dict[str, int]:
    return {"d_model": width, "d_ff": 4 * width, "layers": blocks, "heads": max(width // 64, 4)}


_VOCABULARY = {"vocab_size": 32128}
_EMBEDDING = {"embedding_scale": 10.0}
_LARGEST = _size(512, 6) | _VOCABULARY  # The shape of t5-small.
_PADDED = {"padding": "attended", "padded_length": PAPERS_SOURCE}

# Arm -> what it changes in the task's configuration, and in the study's.
ARMS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "base": ({}, {}),
    "256x4": (_size(256, 4), {}),
    "512x6": (_size(512, 6), {}),
    "vocabulary": (_VOCABULARY, {}),
    "embedding": (_EMBEDDING, {}),
    "scratch": ({}, {"warmup_steps": 0}),
    "short": ({}, {"warmup_steps": 300}),
    "long": ({}, {"warmup_steps": 3000}),
    "padded": (_PADDED, {}),
    "together": (_VOCABULARY | _EMBEDDING | _PADDED, {}),
    "t5-small": (_LARGEST, {}),
    "t5-small-padded": (_LARGEST | _PADDED, {}),
}
_TRANSLATION_ONLY = {*_EMBEDDING, *_PADDED}  # Fields that other tasks refuse.


def of_task(task: str) -> list[str]:
    """The arms that a task has."""
    if task == "translation":
        return list(ARMS)
    return [arm for arm, (about, _) in ARMS.items() if not _TRANSLATION_ONLY & about.keys()]


def configured(config: Config, task: str, arm: str) -> Config:
    """The study of one arm."""
    about, study = ARMS[arm]
    changed = dataclasses.replace(getattr(config, task), **about)
    return dataclasses.replace(config, **{task: changed}, **study)
