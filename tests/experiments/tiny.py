"""A study of a few seconds: the demo preset, shrunk; as a configuration and as a command line."""

import dataclasses
import re

from experiments.presets import PRESETS
from experiments.run.progress import Watch

OVERRIDES = {
    "examples": 64,
    "batch_size": 16,
    "micro_batch_size": 8,
    "epochs": 2,
    "measured_epochs": (1, 2),
    "measured_batches": 2,
    "test_examples": 16,
    "warmup_steps": 6,
    "warmup_examples": 32,
    "warmup_batch_size": 8,
    "landscape_points": 4,
    "checkpoint_every": 2,
    "tune_steps": 3,
}
MODEL = {
    "length": 16,
    "target_length": 12,
    "vocab_size": 320,
    "d_model": 16,
    "d_ff": 16,
    "heads": 2,
}


def config(preset="demo", **overrides):
    base = PRESETS[preset]
    tasks = {
        name: dataclasses.replace(getattr(base, name), corpus="embedded", **MODEL, layers=1)
        for name in ("translation", "mlm", "causal")
    }
    return dataclasses.replace(base, **tasks, **{**OVERRIDES, **overrides})


def arguments(**overrides):
    """The same as command-line options."""
    words = []
    for name, value in {**OVERRIDES, **overrides}.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    for task in ("translation", "mlm", "causal"):
        for name, value in MODEL.items():
            words += [f"--{task}.{name.replace('_', '-')}", str(value)]
    return words


class Stops(Watch):
    """Asks to stop after some steps, as Ctrl-C does."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    @property
    def stopping(self):
        self.left -= 1
        return self.left < 0

    @stopping.setter
    def stopping(self, value):
        pass


def anatomy_section(directory):
    """HTML of the only point's part of a report, which is written into the records' directory."""
    # Here: programs that take a configuration from this file draw nothing.
    from experiments.report.page import write_report
    from experiments.report.recorded import Run

    page = write_report(Run(directory)).read_text(encoding="utf-8")
    (section,) = re.findall(r'<section id="anatomy_.*?</section>', page, re.S)
    return section
