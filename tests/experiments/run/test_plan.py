"""The plan against programs and arrays that were really made, and against arithmetic by hand."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.__main__ import main
from experiments.config import as_json
from experiments.data import tasks
from experiments.run import plan
from experiments.run.devices import make_layout, one_device
from experiments.run.study import RefusedError, with_micro_batch
from tests.experiments import tiny

ROOT = Path(__file__).parents[3]

# In a process of its own: devices are made when JAX starts.
AGAINST_A_RUN = """
import dataclasses, math
from experiments.run import plan
plan.prepare_devices(8)
import jax
import sharpjax
from experiments.run import training
from experiments.run.devices import make_layout
from experiments.data.tasks import make_task
from tests.experiments import tiny

config = tiny.config(warmup_steps=0)
layout = make_layout("data=4,fsdp=2")
task = make_task("mlm", config, 0)
found = plan.plan(config, "mlm", task.model, layout)
params = layout.place(task.initial_params)
batch = layout.place_batch(task.batches(1)[0])
algorithms = sharpjax.pseudo_updates(sharpjax.paper_algorithms())
state = jax.jit(lambda p: layout.constrain(algorithms.init(p)))(params)
first = jax.devices()[0]
held = lambda tree: sum(
    shard.data.nbytes for x in jax.tree.leaves(tree) for shard in x.addressable_shards
    if shard.device == first)
assert found.parameter_bytes == held(params), (found, held(params))
assert found.state_bytes == held(state), (found, held(state))
made = training.gradient.lower(task.training_loss_fn, params, batch, None, layout).compile()
assert found.needs.gradient_temporaries == made.memory_analysis().temp_size_in_bytes
_, grads = training.gradient(task.training_loss_fn, params, batch, None, layout)
assert held(grads) == held(params)
updates, _ = jax.jit(lambda g, s, p: layout.constrain(algorithms.update(g, s, p)))(
    grads, state, params)
assert found.update_bytes == held(updates)
assert found.needs.step_traffic > 0 and found.needs.measurement_traffic > 0

# The whole batch at once has the same arithmetic and more memory.
whole = dataclasses.replace(config, micro_batch_size=16)
other = plan.plan(whole, "mlm", task.model, layout)
assert math.isclose(other.needs.step_flops, found.needs.step_flops, rel_tol=0.03), (other, found)
assert other.peak_bytes > found.peak_bytes
print("agree")
"""


def run(*words):
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax")}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_a_plan_is_what_a_run_holds():
    done = run("-c", AGAINST_A_RUN)
    assert done.stdout.strip().endswith("agree"), done.stderr[-3000:]


def test_operations_are_those_of_the_matrix_products():
    config = tiny.config(examples=16, measured_batches=1)
    about = config.mlm
    found = plan.plan(config, "mlm", tasks.make_model("mlm", about), one_device()).needs
    d, tokens = about.d_model, config.batch_size * about.length
    block = 4 * d * d + 2 * d * about.d_ff + 2 * d * about.length
    kernels = about.layers * block + d * d + d * about.vocab_size
    # Forward, and twice as much back; two operations a multiplication and addition. The rest is
    # activations, norms and softmax, which weigh more in so narrow a model.
    assert 6 * kernels * tokens < found.step_flops < 1.6 * 6 * kernels * tokens
    # Seven directions at 3/5, and what they share at 2/5, of a pass of one.
    ratio = found.measurement_flops / found.step_flops
    assert 7 * 0.9 < ratio < 7 * 2


@pytest.mark.parametrize(("memory", "size"), [(1e9, 16), (1600, 16), (1599, 8), (800, 8), (1, 2)])
def test_the_largest_micro_batch_that_fits_is_chosen(memory, size, monkeypatch):
    layout = make_layout("data=2", jax.devices() * 2)
    monkeypatch.setattr(plan, "plan", needing(lambda size: 100 * size))
    # Two devices: no micro-batch of one, even where two do not fit.
    assert plan.choose(tiny.config(), "mlm", None, layout, memory).micro_batch_size == size


def test_the_whole_batch_is_no_choice_where_it_does_not_divide_the_test_subset(monkeypatch):
    monkeypatch.setattr(plan, "plan", needing(lambda size: 0))
    config = tiny.config(test_examples=24)
    assert plan.choose(config, "mlm", None, one_device(), 1.0).micro_batch_size == 8


def test_a_study_takes_what_fits_all_its_tasks_and_records_it(tmp_path, monkeypatch):
    asked = tiny.config(micro_batch_size=None)
    monkeypatch.setattr(plan, "_memory", lambda devices: 1200)
    monkeypatch.setattr(plan, "plan", needing(lambda size, name: size * (100 + (name == "mlm"))))
    found = with_micro_batch(asked, tmp_path, ("translation", "mlm"), one_device())
    assert found == dataclasses.replace(asked, micro_batch_size=8)
    # A directory keeps its size, whatever would fit now.
    (tmp_path / "config.json").write_text(json.dumps(as_json(found)))
    monkeypatch.setattr(plan, "_memory", lambda devices: 10**6)
    assert with_micro_batch(asked, tmp_path, ("mlm",), one_device()) == found
    assert with_micro_batch(found, tmp_path / "new", ("mlm",), one_device()) is found


def test_a_study_that_fits_nowhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_memory", lambda devices: plan.GIB)
    monkeypatch.setattr(plan, "plan", needing(lambda size: 2 * plan.GIB * size))
    with pytest.raises(RefusedError, match=r"none fits mlm in 1\.00 GiB a device; 1 needs 2\.00"):
        with_micro_batch(tiny.config(micro_batch_size=None), tmp_path, ("mlm",), one_device())


def needing(temporaries):
    """Instead of `plan.plan`: nothing but a gradient's temporaries, by micro-batch size."""

    def made(config, name, module, layout):
        size = config.micro_batch_size
        words = (size, name) if temporaries.__code__.co_argcount == 2 else (size,)
        needs = plan.Needs(temporaries(*words), *[0] * 7)
        return plan.Plan(0, size, 0, 0, 0, 0, needs)

    return made


def test_a_deep_model_is_extended_from_two_and_three_blocks(monkeypatch):
    config = tiny.config(batch_size=8, test_examples=8, algorithms=("sgd", "adafactor_clip"))
    layout = one_device()
    deep = tasks.make_model("translation", dataclasses.replace(config.translation, layers=4))
    extended = plan.plan(config, "translation", deep, layout)
    monkeypatch.setattr(plan, "COMPILED_BLOCKS", (4, 5))
    compiled = plan.plan(config, "translation", deep, layout)
    for name, value in compiled.needs._asdict().items():
        # The update's temporaries follow its largest tensors, not the depth, and are small.
        room = 0.01 * compiled.peak_bytes if name == "update_temporaries" else 0
        assert getattr(extended.needs, name) == pytest.approx(value, rel=0.03, abs=room), name
    assert extended.peak_bytes == pytest.approx(compiled.peak_bytes, rel=0.01)
    for field in ("parameters", "parameter_bytes", "state_bytes", "update_bytes"):
        assert getattr(extended, field) == getattr(compiled, field)


def test_traffic_is_what_collectives_return():
    program = """
      %a = f32[8,16]{1,0} all-gather(%x), dimensions={0}
      %b = (f32[4]{0}, bf16[2,3]{1,0}) all-reduce(%y, %z), to_apply=%add
      %c = f32[] add(%p, %q)
      %d = (s32[5]{0}) all-reduce-start(%w)
      %e = s32[5]{0} all-reduce-done(%d)
    """
    assert plan.traffic(program) == 8 * 16 * 4 + 4 * 4 + 6 * 2 + 5 * 4


def test_the_command_prints_what_fits():
    done = run("-m", "experiments", "plan", "--mesh", "fsdp=2", *tiny.arguments())
    assert done.returncode == 0, done.stderr[-3000:]
    assert "most at once" in done.stdout and "It fits in 80 GiB." in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "t5-tiny"], "model must be one of t5-small, .*, got 't5-tiny'"),
        (["--model", "gpt2"], "for translation, got 'gpt2'"),
        (["--mesh", "rows=2"], "mesh must be written as data=4,fsdp=2, got 'rows=2'"),
        (["--device-memory", "0"], "device_memory must be positive and finite, got 0"),
    ],
)
def test_bad_values_are_one_line_and_exit_code_2(words, message, capsys, monkeypatch):
    monkeypatch.setattr(plan, "prepare_devices", lambda count: None)
    assert main(["plan", *words, *tiny.arguments()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert re.search(message, said)
