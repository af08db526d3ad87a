"""Sizes of the published models, by name: what a plan is made of without a download."""

from typing import Any

from experiments.config import TaskConfig
from experiments.data import tasks

# Of each task, the models by name, and where their sizes differ from the family's defaults.
MODELS: dict[str, dict[str, dict[str, int]]] = {
    "translation": {
        "t5-small": {},
        "t5-base": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
        "t5-large": {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
        "t5-3b": {"d_model": 1024, "d_ff": 16384, "d_kv": 128, "num_layers": 24, "num_heads": 32},
        "t5-11b": {"d_model": 1024, "d_ff": 65536, "d_kv": 128, "num_layers": 24, "num_heads": 128},
    },
    "mlm": {
        "distilroberta-base": {},
        "roberta-base": {"num_hidden_layers": 12},
        "roberta-large": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
        },
    },
    "causal": {
        "gpt2": {},
        "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
        "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
        "gpt2-xl": {"n_embd": 1600, "n_layer": 48, "n_head": 25},
    },
}


def make(task: str, about: TaskConfig, model: str) -> Any:
    """The Flax module of a published model, or of a task's own if `model` is empty.

    Raises:
      ValueError: no size of that name is known, or it belongs to another task.
    """
    known = model or about.checkpoint.rpartition("/")[2]
    if not known:
        return tasks.make_model(task, about)
    if known not in MODELS[task]:
        names = ", ".join(MODELS[task])
        raise ValueError(f"model must be one of {names} for {task}, got {known!r}")
    module, configuration = tasks.FAMILIES[task]
    return module(configuration(**MODELS[task][known]))
