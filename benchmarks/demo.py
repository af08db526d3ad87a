"""Where the time of a whole `make demo` goes, stage by stage.

Two processes run it one after the other with one compilation cache: empty, then filled by the
first. `cores_busy` is the process's CPU time over wall time; `tracing` and `compiling` are seconds,
by JAX's own events, in which Python traces and lowers programs and XLA compiles or loads them.
"""

import argparse
import collections
import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import _harness

EVENTS = {
    "tracing": ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration"),
    "compiling": ("backend_compile_duration",),
}


def profile(cache: str, overrides: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per stage of one run in this process."""
    started = time.monotonic() - time.process_time()  # The imports before this were mostly work.
    import jax

    from experiments.presets import PRESETS
    from experiments.report.page import write_report
    from experiments.report.recorded import Run
    from experiments.run.progress import Watch
    from experiments.run.study import Study

    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    spent = collections.Counter()

    def listen(event: str, seconds: float, **_: Any) -> None:
        spent.update({k: seconds for k, v in EVENTS.items() if event.rpartition("/")[2] in v})

    jax.monitoring.register_event_duration_secs_listener(listen)
    rows: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)

    def clocks():
        return {"seconds": time.monotonic(), "cpu": time.process_time(), **spent}

    def add(stage, before):
        rows[stage].update({k: v - before.get(k, 0) for k, v in clocks().items()})

    class Profiled(Study):
        @contextlib.contextmanager
        def _timed(self, stage):
            before = clocks()
            with super()._timed(stage):
                yield
            add(stage, before)

    add("start", {"seconds": started})
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(PRESETS["demo"], **overrides)
        with Profiled(Path(folder), config, Watch()).open() as study:
            study.reproduce()
            study.beside()
        before = clocks()
        write_report(Run(folder))
        add("report", before)
    add("all", {"seconds": started})
    return [
        {
            "part": part,
            "seconds": row["seconds"],
            "share": row["seconds"] / rows["all"]["seconds"],
            "cores_busy": row["cpu"] / row["seconds"],
            **{name: row[name] for name in EVENTS},
        }
        for part, row in rows.items()
        if row["seconds"] > 0.05
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks demo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a shrunk study: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    overrides = {"examples": 128, "test_examples": 32, "batch_size": 32} if options.quick else {}
    overrides |= {"warmup_steps": 2, "measured_batches": 1} if options.quick else {}
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for run in ("cold", "warm"):
            found = _harness.rows_of(f"benchmarks.demo.profile({cache!r}, {overrides!r})")
            rows += [{"cache": run, **row} for row in found]
    _harness.print_table(rows, "Where the time of a demo goes")
    if options.out:
        _harness.write_json(options.out, "demo", rows)
