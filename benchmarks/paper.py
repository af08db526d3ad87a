"""A column of the study at the paper's own size: what it takes, beside what `plan` says.

For each task a folder with the real architecture (t5-small, distilroberta-base) and random weights
stands in for the pretrained one. `python -m experiments sharpness --preset paper` then runs on one
trajectory, shortened: 32 examples, batches of 16, micro-batches of 8, one measured batch, on a test
subset of 8 examples of 128 tokens, with the landscapes of all seven algorithms and the check in
float64. Time and peak memory are the process's; `planned_GiB` is the most that `plan` says is held
at once, and `host_GiB` what it says Python, JAX and the compiled programs take beside it.
`sharpness_seconds` and the others say when a table was on disk.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import _harness

MODELS = {"translation": "t5-small", "mlm": "distilroberta-base"}
SHORT = {
    "examples": 32,
    "batch_size": 16,
    "micro_batch_size": 8,
    "test_examples": 8,
    "epochs": 2,
    "measured_epochs": 2,
    "measured_batches": 1,
}
# The tables of the measured batch, in the order in which they are written.
STAGES = ("sharpness", "landscape", "histogram", "precision")


def make_folder(name: str, tokenizer: str, folder: str) -> list:
    """Saves a model of random weights from a tokenizer's folder, which has the configuration."""
    import jax

    from sharpjax import models

    config = models.load_config(tokenizer)
    families = {"t5-small": models.T5, "distilroberta-base": models.RobertaForMaskedLM}
    model = families[name](config)
    models.save_pretrained(folder, model, models.init_params(model, jax.random.key(0)))
    return []


def words(task: str, about: dict[str, Any], short: dict[str, Any]) -> list[str]:
    """The study's configuration, as words of its command line."""
    options = {f"{task}.{key}": value for key, value in about.items()} | short
    pairs = ((f"--{key.replace('_', '-')}", str(value)) for key, value in options.items())
    return ["--preset", "paper", *(word for pair in pairs for word in pair)]


def planned(task: str, about: dict[str, Any], short: dict[str, Any]) -> list[dict[str, Any]]:
    """A row of what `plan` says, in a process that has not used JAX yet."""
    from experiments.run import plan

    plan.prepare_devices(1)
    from experiments.data import tasks
    from experiments.presets import PRESETS
    from experiments.run.devices import one_device

    paper = PRESETS["paper"]
    fields = short | {"measured_epochs": (short["measured_epochs"],)}
    made = dataclasses.replace(getattr(paper, task), **about)
    config = dataclasses.replace(paper, **fields, **{task: made})
    module, _ = tasks.initial_model(task, made, config.seed)
    found = plan.plan(config, task, module, one_device())
    return [{"peak": found.peak_bytes, "host": found.host_bytes}]


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def run(task: str, words: list[str], out: Path) -> dict[str, float]:
    """Seconds and peak GiB of the command, whose records lie in `out` afterwards.

    Also the seconds after which each table of the measured batch was on disk.
    """
    command = [sys.executable, "-m", "experiments", "sharpness", *words]
    command += ["--task", task, "--trajectory", "sgd", "--out", str(out)]
    before = {name: size(out / f"{name}.csv") for name in STAGES}  # Of the other task's rows.
    started = time.monotonic()
    process = subprocess.Popen(command)
    on_disk: dict[str, float] = {}
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        for name in STAGES:
            if name not in on_disk and size(out / f"{name}.csv") > before[name]:
                on_disk[name] = time.monotonic() - started
        if pid:
            break
        time.sleep(0.5)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024  # Bytes there, KiB on Linux.
    return {
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_GiB": usage.ru_maxrss * unit / 2**30,
        **{f"{name}_seconds": seconds for name, seconds in on_disk.items()},
    }


def column(task: str, options: argparse.Namespace) -> dict[str, Any]:
    """The row of one task."""
    corpus = {"translation": options.translation_corpus, "mlm": options.mlm_corpus}[task]
    name, short = MODELS[task], dict(SHORT)
    tokenizer = str(Path(options.tokenizers, name).absolute())
    with tempfile.TemporaryDirectory() as temporary:
        folder = str(Path(temporary, name))
        about: dict[str, Any] = {"corpus": corpus, "tokenizer": tokenizer, "checkpoint": folder}
        if options.quick:
            about |= {"length": 8, "target_length": 8}
            short |= {"landscape_points": 3}
        _harness.rows_of(f"benchmarks.paper.make_folder({name!r}, {tokenizer!r}, {folder!r})")
        done = run(task, words(task, about, short), Path(options.records or temporary, "records"))
        (plan,) = _harness.rows_of(f"benchmarks.paper.planned({task!r}, {about!r}, {short!r})")
    peak, host = plan["peak"] / 2**30, plan["host"] / 2**30
    return {
        "model": name,
        **done,
        "planned_GiB": peak,
        "host_GiB": host,
        "planned_over_process": (peak + host) / done["peak_GiB"],
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks paper", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=[*MODELS], default=[*MODELS])
    parser.add_argument("--tokenizers", default="../shared/data/tokenizers", help="their folder")
    parser.add_argument("--translation-corpus", default="../shared/data/books_standin_en_fr")
    parser.add_argument("--mlm-corpus", default="../shared/data/imdb")
    parser.add_argument("--records", help="keep the records in this folder")
    parser.add_argument("--quick", action="store_true", help="8 tokens: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    rows = [column(task, options) for task in options.tasks]
    _harness.print_table(rows, "A column at the paper's size")
    if options.out:
        _harness.write_json(options.out, "paper", rows)
