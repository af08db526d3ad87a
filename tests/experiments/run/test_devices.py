"""A study over many devices and over two processes, against one device."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import records
from experiments.__main__ import main
from experiments.rows import Histogram, Precision, Sharpness
from experiments.run.devices import make_layout
from experiments.run.progress import Watch
from experiments.run.study import RefusedError, Study
from tests.experiments import tiny

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SMALLER = {"warmup_steps": 2, "landscape_points": 3, "epochs": 1, "measured_epochs": (1,)}


@pytest.mark.parametrize("mesh", ["data", "data=0", "model=2", "data=-1", "data=1;fsdp=1", "4,2"])
def test_a_mesh_that_cannot_be_read_is_named(mesh):
    with pytest.raises(ValueError, match="must be written as data=4,fsdp=2, got"):
        make_layout(mesh)


def test_a_mesh_needs_its_devices_and_they_divide_a_micro_batch(tmp_path):
    with pytest.raises(ValueError, match="'data=64' has 64 devices, but there are"):
        make_layout("data=64")
    layout = make_layout("data=3", jax.devices() * 3)
    with pytest.raises(RefusedError, match="3 devices must divide micro_batch_size, got 8"):
        Study(tmp_path, tiny.config(), Watch(), layout)


@pytest.mark.parametrize("words", [["--mesh", "data=2,fsdp=x"], ["--distributed", "here,2"]])
def test_a_bad_place_is_one_line_and_exit_code_2(words, tmp_path, capsys):
    command = ["convergence", "--task", "mlm", "--out", str(tmp_path / "run"), *words]
    assert main([*command, *tiny.arguments()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and words[1] in said
    assert not (tmp_path / "run").exists()


# What is compared runs in a process of its own: devices are made when JAX starts.
EIGHT_DEVICES = """
import jax, numpy as np, chex
import sharpjax
from experiments.run import training
from experiments.run.devices import make_layout
from experiments.data.tasks import make_task
from experiments.run.progress import Watch
from tests.experiments import tiny

config = tiny.config(warmup_steps=0)
algorithms = sharpjax.paper_algorithms()


def study(layout):
    task = make_task("translation", config, 0)
    test = layout.place_batch(task.test)
    losses, seen = [], {}

    def observe(step):
        losses.append(step.loss)
        if step.number == 3:
            updates = dict(step.updates)
            everything = (step.params, step.grads, updates)
            for x in jax.tree.leaves(everything):
                assert x.sharding.is_equivalent_to(layout.of(x.shape), x.ndim), x.sharding
            seen["grads"], seen["updates"] = layout.gather((step.grads, updates))
            seen["threshold"] = float(jax.jit(
                lambda g: sharpjax.top_fraction_threshold(g, 0.05))(step.grads))
            measured = sharpjax.measure_directions(
                task.loss_fn, step.params, updates, test, method=config.method)
            seen["sharpness"] = {k: float(s.sharpness) for k, s in measured.items()}
            seen["slope"] = {k: float(s.slope) for k, s in measured.items()}
            seen["landscape"] = np.asarray(sharpjax.loss_along(
                task.loss_fn, step.params, updates["adam"], np.linspace(0, 1, 5), test))

    what = training.Training(
        "study", sharpjax.pseudo_updates(algorithms), task.training_loss_fn,
        task.training_batches, 4, select=("adam", 1e-3))
    trained = training.train(what, task.initial_params, Watch(), observe=observe, layout=layout)
    return losses, seen, trained


with jax.enable_x64(True):
    split = make_layout("data=4,fsdp=2")
    matrix = jax.ShapeDtypeStruct((6, 16), np.float32)
    assert split.of(matrix.shape).shard_shape(matrix.shape) == (6, 8)
    assert split.of((5, 3)).is_fully_replicated and split.of((16,)).is_fully_replicated
    one = study(make_layout("data=1"))
    many = study(split)
    np.testing.assert_allclose(many[0], one[0], rtol=3e-6)
    # The threshold is of each one's own gradient: exactly one of its magnitudes, at its rank.
    for _, seen, _ in (one, many):
        magnitudes = np.sort(np.concatenate(
            [np.abs(x).ravel() for x in jax.tree.leaves(seen["grads"])]))[::-1]
        assert seen["threshold"] == magnitudes[int(len(magnitudes) * 0.05)]
    for what in ("sharpness", "slope", "landscape"):
        chex.assert_trees_all_close(many[1][what], one[1][what], rtol=2e-3)
    chex.assert_trees_all_close(many[1]["updates"]["adafactor"], one[1]["updates"]["adafactor"],
                                rtol=1e-2, atol=1e-4)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(many[2]))
print("agree")
"""


def run(words, devices=1, **kwargs):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    }
    command = [sys.executable, *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, **kwargs
    )


def test_eight_devices_agree_with_one():
    process = run(["-c", EIGHT_DEVICES], 8, stdout=subprocess.PIPE)
    out, said = process.communicate(timeout=600)
    assert out.strip().endswith("agree"), said[-3000:]


def study(out, *words):
    command = ["-m", "experiments", "sharpness", "--task", "translation", "--trajectory", "sgd"]
    return run([*command, "--out", str(out), *words, *tiny.arguments(**SMALLER)])


def pair(out):
    """The same study in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ["--mesh", "data=1,fsdp=2", "--distributed"]
    return [study(out, *place, f"127.0.0.1:{port},2,{i}") for i in range(2)]


@pytest.mark.slow
def test_two_processes_agree_with_one_and_resume_when_one_was_killed(tmp_path):
    alone, together = tmp_path / "one", tmp_path / "two"
    assert study(alone).wait(timeout=600) == 0

    processes = pair(together)
    end = time.monotonic() + 600
    while not (together / "sharpness.csv").exists():
        assert time.monotonic() < end and processes[1].poll() is None, processes[1].stderr.read()
        time.sleep(0.1)
    first = (together / "sharpness.csv").read_text()
    processes[1].send_signal(signal.SIGKILL)
    assert processes[0].wait(timeout=300) != 0  # It does not wait for the other for ever.

    for process in (resumed := pair(together)):
        assert process.wait(timeout=600) == 0, process.stderr.read()[-3000:]
    assert not any(process.stdout for process in resumed)
    assert (together / "sharpness.csv").read_text().startswith(first[: first.index("\n")])
    ours, theirs = (records.read(x, Sharpness) for x in (together, alone))
    assert [r.algorithm for r in ours] == [r.algorithm for r in theirs]
    for name in ("loss", "slope", "sharpness", "update_norm", "threshold"):
        values = [[getattr(row, name) for row in rows] for rows in (ours, theirs)]
        np.testing.assert_allclose(*values, rtol=1e-3, err_msg=name)
    assert records.read(together, Histogram)
    assert len(records.read(together, Precision)) == 7
    assert (together / "report.html").exists()
