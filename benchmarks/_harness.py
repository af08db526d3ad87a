"""What the benchmarks share: interleaved timing, peak memory, and rows as a table and as JSON.

All run where JAX does by default, PyTorch's peers too; without PyTorch they are left out.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import jax

LEAST = 0.05  # Seconds that one timing lasts at least.
alone = False  # Whether PyTorch's peers are left out.


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def installed(name: str) -> Any:
    """A module, or None."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def torch_device() -> str | None:
    """The device of PyTorch's peers, which is JAX's; None where they cannot run."""
    torch = None if alone else installed("torch")
    if torch is None or (on_gpu() and not torch.cuda.is_available()):
        return None
    return "cuda" if on_gpu() else "cpu"


def wait(result: Any = None) -> None:
    """Until a result is there, and all that PyTorch was asked for."""
    jax.block_until_ready(result)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def compiled(*runs: Callable[[], Any]) -> list[Any]:
    """The results of calls that compile JAX's programs; on a GPU in threads, at once.

    Most of an XLA compilation for a GPU keeps one core busy. One for a CPU keeps all of them, and
    there memory would have to hold all that is called.
    """
    with ThreadPoolExecutor(16 if on_gpu() else 1) as threads:
        return list(threads.map(lambda run: jax.block_until_ready(run()), runs))


def compile_seconds(run: Callable[[], Any]) -> float:
    """Processor seconds that a first call takes more than a second one."""
    spent = []
    for _ in range(2):
        started = time.process_time()
        jax.block_until_ready(jax.tree.leaves(run()))
        spent.append(time.process_time() - started)
    return spent[0] - spent[1]


def seconds_each(run: Callable[[], Any]) -> float:
    """Seconds per call; calls are repeated until they last long enough to be timed."""
    calls = 1
    while True:
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            result = run()
        wait(result)
        seconds = time.perf_counter() - start
        if seconds >= LEAST:
            return seconds / calls
        calls = max(2 * calls, math.ceil(calls * LEAST / seconds))


def interleaved_seconds(
    runs: Mapping[Any, Callable[[], Any]], *, repeats: int, warmups: int = 1
) -> dict[Any, list[float]]:
    """Seconds per call of each, taking turns so that a busy machine slows all alike.

    Results are waited for. The first `warmups` rounds, which compile, do not count.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(warmups):
        for run in runs.values():
            wait(run())
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(seconds_each(run))
    return seconds


def compare(seconds: Mapping[Any, Sequence[float]], reference: Any) -> list[dict[str, Any]]:
    """A row per callable: median and least seconds, and the median ratio to the reference.

    Ratios are taken within each round, where both met the same machine.
    """
    return [
        {
            "name": name,
            "seconds": median(values),
            "least": min(values),
            "times_reference": median(
                value / base for value, base in zip(values, seconds[reference], strict=True)
            ),
        }
        for name, values in seconds.items()
    ]


def peak_mebibytes(code: str) -> float:
    """Peak memory of a fresh process that runs `code`: a GPU's, or what is resident, on Unix."""
    report = "\nfrom benchmarks import _harness; print(_harness.peak_bytes())"
    run = [sys.executable, "-c", code + report]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 2**20


def peak_bytes() -> int:
    """The most that this process has held, of its GPU or of the host."""
    if on_gpu():
        torch = sys.modules.get("torch")
        theirs = torch.cuda.max_memory_allocated() if torch is not None else 0
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"] + theirs
    import resource  # Of Unix.

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)  # Bytes there, KiB on Linux.


def rows_of(code: str, **environment: str) -> list[dict[str, Any]]:
    """The rows that an expression is in a fresh process, whose own output may come before them."""
    module = code.partition("(")[0].rpartition(".")[0]
    program = f"import json, {module}; print(json.dumps({code}))"
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, stdout=subprocess.PIPE, env=os.environ | environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


PACKAGES = ("jax", "jaxlib", "optax", "numpy", "torch")


def environment() -> dict[str, Any]:
    """What a figure depends on besides the code: the device and the versions."""
    return {
        "device": str(jax.devices()[0].device_kind),
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in PACKAGES
            if importlib.util.find_spec(name)
        },
        **({"xla_flags": os.environ.get("XLA_FLAGS", "")} if on_gpu() else {}),
    }


def write_json(path: str | Path, benchmark: str, rows: Sequence[Mapping[str, Any]], **more: Any):
    """Write rows with their environment; `more` is added at the top level.

    Rows of other models that the file has from the same environment stay: models can be measured
    one after another.
    """
    record = {"benchmark": benchmark, "environment": environment(), **more, "rows": list(rows)}
    before = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    if before.get("environment") == record["environment"]:
        now = {None, *(row.get("model") for row in rows)}
        for key, found in record.items():
            if isinstance(found, list):
                old = before.get(key, [])
                record[key] = [row for row in old if row.get("model") not in now] + found
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(record, indent=2) + "\n")


def model_options(
    name: str,
    about: str | None,
    models: Sequence[str],
    repeats: int,
    arguments: Sequence[str],
    **more: Mapping[str, Any],
) -> argparse.Namespace:
    """The options of a benchmark of models: `models`, and a batch's `examples` and `length`.

    `more` are further ones, as `add_argument` takes them.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=about)
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--quick", action="store_true", help="tiny models: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    for option, how in more.items():
        parser.add_argument(f"--{option}", **how)
    options = parser.parse_args(arguments)
    options.examples, options.length = (2, 8) if options.quick else (8, 128)
    if options.quick:
        options.models = ["tiny-t5", "tiny-roberta"]
    return options


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows, which share their keys, in aligned columns."""
    if not rows:
        return

    def text(value: Any) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    header = list(rows[0])
    cells = [header, *([text(row[key]) for key in header] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}" if title else "")
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
