"""What a study would need on devices that are not here: memory, arithmetic and traffic.

The study's own programs (a training step, the update of every algorithm, a measurement) are
compiled ahead of time for as many virtual CPU devices as the mesh has, with abstract parameters:
nothing is allocated. Bytes of what lies in memory from step to step are exact; temporaries are
those of XLA:CPU's program, ordered for least memory as on accelerators.

A deep model is compiled with two and with three blocks, and what each block adds is added for the
rest: t5-small's figures at six are met to 0.2 %, and the time does not grow with the depth.
"""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import sharpjax
from experiments import algorithms
from experiments.config import Config
from experiments.data import tasks
from experiments.run import model_sizes, processes, sharpness, training
from experiments.run.devices import Layout, make_layout, mesh_sizes
from experiments.run.memory import GIB, give_back, machine_memory, resident_memory
from sharpjax import models

_BLOCKS = {
    models.T5: "num_layers",
    models.RobertaForMaskedLM: "num_hidden_layers",
    models.GPT2: "n_layer",
}
COMPILED_BLOCKS = (2, 3)

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {
    "f64": 8,
    "s64": 8,
    "u64": 8,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "bf16": 2,
    "f16": 2,
    "pred": 1,
}


class Needs(NamedTuple):
    """What the compiled programs need; bytes of one device, operations of all."""

    gradient_temporaries: float  # Of a training step's gradient.
    update_temporaries: float
    measurement_temporaries: float  # Of all directions' slope and sharpness.
    precision_bytes: float  # Of the float64 check beside what is kept, on one device alone.
    step_flops: float  # A gradient over the whole batch.
    measurement_flops: float  # All directions over the whole test subset.
    step_traffic: float  # What collectives hand to one device in a training step.
    measurement_traffic: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one task needs: bytes of one device, and the programs' needs."""

    parameters: int  # Of the whole model.
    micro_batch_size: int
    parameter_bytes: int  # Per device, float32.
    state_bytes: int  # Of all algorithms' pseudo-updates.
    update_bytes: int  # Those that are held at once: trees like the parameters.
    host_bytes: float  # Of the process's host: Python, JAX and the compiled programs.
    needs: Needs

    @property
    def peak_bytes(self) -> float:
        """The most that one device holds at once; a CPU's memory holds `host_bytes` too."""
        gradient = self.parameter_bytes  # Split as the parameters are.
        kept = self.parameter_bytes + self.state_bytes + gradient
        return kept + max(
            self.needs.gradient_temporaries,
            self.needs.update_temporaries,
            self.update_bytes + self.needs.measurement_temporaries,
            self.update_bytes + self.needs.precision_bytes,
        )


def prepare_devices(count: int) -> None:
    """Makes this process one of `count` virtual CPU devices; before JAX is used.

    The flag orders instructions for least memory, as accelerators do; XLA:CPU's default orders
    them for concurrency, and keeps more for it.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    flag = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


def show(
    config: Config, name: str, model: str, mesh: str, device_memory: float, console: Console
) -> None:
    """Prints the plan of one task on a mesh of devices with `device_memory` GiB each.

    Raises:
      ValueError: a mesh that cannot be read; an unknown model; a micro-batch that the devices do
        not divide.
    """
    module = model_sizes.make(name, getattr(config, name), model)
    prepare_devices(math.prod(mesh_sizes(mesh).values()))
    layout = make_layout(mesh)
    if config.micro_batch_size is None:
        found = choose(config, name, module, layout, device_memory * GIB)
    else:
        found = plan(config, name, module, layout)
    needs = found.needs
    size = lambda count: f"{count / GIB:,.2f} GiB"  # noqa: E731
    known = model or getattr(config, name).checkpoint or type(module).__name__
    table = Table(title=f"{known}, {mesh}, micro-batches of {found.micro_batch_size}")
    table.add_column("of one device")
    table.add_column("", justify="right")
    for words, value in (
        ("parameters of the whole model", f"{found.parameters:,}"),
        ("parameters, float32", size(found.parameter_bytes)),
        ("states of all algorithms", size(found.state_bytes)),
        ("updates held at once", size(found.update_bytes)),
        ("temporaries of a gradient", size(needs.gradient_temporaries)),
        ("temporaries of the updates", size(needs.update_temporaries)),
        ("temporaries of a measurement", size(needs.measurement_temporaries)),
        ("the float64 check", size(needs.precision_bytes)),
        ("most at once", size(found.peak_bytes)),
        ("Python, JAX and programs, on the host", size(found.host_bytes)),
        ("traffic of a training step", size(needs.step_traffic)),
        ("traffic of a measurement", size(needs.measurement_traffic)),
        ("operations of a training step, all devices", f"{needs.step_flops:.3g}"),
        ("operations of a measurement, all devices", f"{needs.measurement_flops:.3g}"),
    ):
        table.add_row(words, value)
    console.print(table)
    fits = "fits" if found.peak_bytes <= device_memory * GIB else "does not fit"
    console.print(f"It {fits} in {device_memory:g} GiB.", highlight=False)


def complete(config: Config, names: Sequence[str], layout: Layout) -> Config:
    """The configuration with the largest micro-batch with which these tasks fit the devices.

    What fits is an accelerator's limit as JAX tells it, or half of this machine's memory among the
    CPU devices of this process: the other half is for text, records and checkpoints.

    Raises:
      ValueError: not even the smallest micro-batch fits.
    """
    memory = processes.from_first(lambda: _memory(layout.mesh.local_devices))
    sizes = []
    for name in names:
        module, _ = tasks.initial_model(name, getattr(config, name), config.seed)
        found = choose(config, name, module, layout, memory)
        if found.peak_bytes > memory:
            raise ValueError(
                f"micro_batch_size: none fits {name} in {memory / GIB:.2f} GiB a device; "
                f"{found.micro_batch_size} needs {found.peak_bytes / GIB:.2f}, and can be given"
            )
        sizes.append(found.micro_batch_size)
    return dataclasses.replace(config, micro_batch_size=min(sizes))


def _memory(devices: Sequence[jax.Device]) -> int:
    stats = devices[0].memory_stats()
    if stats:
        return stats["bytes_limit"]
    return machine_memory() // (2 * len(devices))


def choose(config: Config, name: str, module: Any, layout: Layout, memory: float) -> Plan:
    """The plan with the largest micro-batch that fits; the smallest one's where none does.

    Sizes are halved from what divides the batch and the test subset, down to one example a device.

    Args:
      config: The study.
      name: The task.
      module: The task's Flax module.
      layout: The mesh.
      memory: Bytes of one device.
    """
    size = config.largest_micro_batch
    while True:
        found = plan(dataclasses.replace(config, micro_batch_size=size), name, module, layout)
        smaller = size // 2
        if found.peak_bytes <= memory or size % 2 or smaller % layout.mesh.size:
            return found
        size = smaller


def plan(config: Config, name: str, module: Any, layout: Layout) -> Plan:
    """What one task of a study needs on a mesh.

    Args:
      config: The study, with its micro-batch size.
      name: The task.
      module: The task's Flax module.
      layout: The mesh; its devices are only compiled for.

    Raises:
      ValueError: the devices do not divide a micro-batch.
    """
    size = config.micro_batch_size
    if size % layout.mesh.size:
        raise ValueError(
            f"the mesh's {layout.mesh.size} devices must divide micro_batch_size, got {size}"
        )
    params, state, pseudo = _held_trees(module, config, layout)
    held = training.are_held(pseudo, params)
    depth, before = _depth(module), resident_memory()
    if depth is None or depth <= max(COMPILED_BLOCKS):
        needs, programs = _needs(module, config, name, layout)
    else:
        (few, _), (more, programs) = (
            _needs(_at_depth(module, n), config, name, layout) for n in COMPILED_BLOCKS
        )
        times = (depth - COMPILED_BLOCKS[0]) / (COMPILED_BLOCKS[1] - COMPILED_BLOCKS[0])
        needs = Needs(*(x + times * (y - x) for x, y in zip(few, more, strict=True)))
        programs *= depth / COMPILED_BLOCKS[1]
    return Plan(
        parameters=sum(x.size for x in jax.tree.leaves(params)),
        micro_batch_size=size,
        parameter_bytes=_held(params),
        state_bytes=_held(state),
        update_bytes=_held(params) * (len(pseudo.names) if held else config.chunk or 1),
        host_bytes=before + programs,
        needs=needs,
    )


def _needs(module: Any, config: Config, name: str, layout: Layout) -> tuple[Needs, float]:
    """Compiles the programs of a study of this model; also the bytes by which this process grew."""
    give_back()
    before = resident_memory()
    size, micro_batches = config.micro_batch_size, config.batch_size // config.micro_batch_size
    params, state, pseudo = _held_trees(module, config, layout)
    training_loss, loss = tasks.make_losses(module, config)
    batch = functools.partial(_abstract_batch, name, config, layout)
    whole = batch(micro_batches)
    value = jax.ShapeDtypeStruct((), jnp.float32, sharding=layout.whole)
    gradient = training.gradient.lower(training_loss, params, whole, None, layout).compile()
    programs = training.make_programs(pseudo, training_loss, layout)
    about = {"value": value, "batch": whole, "key": None}
    held = training.are_held(pseudo, params)
    select = () if held else (("sgd", 1.0),)
    step = programs.update if held else programs.advance
    update = step.lower(state, params, params, about, *select).compile()

    compile_directions = functools.partial(
        sharpjax.directions.compile_directions, loss, method=config.method
    )
    measurement = compile_directions(params, batch(1), chunk=config.chunk)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float64), params)
        some = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch(1))
        some = jax.eval_shape(sharpness.precision_batches, some)
        exact = compile_directions(wide, some)
    give_back()  # What is left is held by the programs.
    grown = max(0, resident_memory() - before)
    # Beside it, the parameters and the update twice on the host: as they are, and in float64.
    copies = 2 * sum(x.size * (x.dtype.itemsize + 8) for x in jax.tree.leaves(params))
    # XLA counts a loop's insides once: one micro-batch.
    groups = -(-len(pseudo.names) // (config.chunk or 1))
    measured = config.test_examples // size
    needs = Needs(
        gradient_temporaries=gradient.memory_analysis().temp_size_in_bytes,
        update_temporaries=update.memory_analysis().temp_size_in_bytes,
        measurement_temporaries=measurement.temporary_bytes,
        precision_bytes=copies + exact.temporary_bytes,
        step_flops=micro_batches * _flops(gradient) * layout.mesh.size,
        measurement_flops=measured * measurement.total(_flops, groups) * layout.mesh.size,
        step_traffic=micro_batches * traffic(gradient.as_text()),
        measurement_traffic=measured * measurement.total(lambda p: traffic(p.as_text()), groups),
    )
    return needs, grown


def traffic(program: str) -> int:
    """Bytes that the collectives of a compiled program hand to one device, loops counted once."""
    operation = rf"= (.*?) (?:{'|'.join(COLLECTIVES)})(?:-start)?\("
    return sum(
        math.prod(int(n) for n in sizes.split(",") if n) * _BYTES[dtype]
        for shapes in re.findall(operation, program)
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        if dtype in _BYTES
    )


def _depth(module: Any) -> int | None:
    """Blocks of a model; None if its encoder and decoder have different numbers."""
    depth = getattr(module.config, _BLOCKS[type(module)])
    return depth if getattr(module.config, "num_decoder_layers", None) in (None, depth) else None


def _at_depth(module: Any, blocks: int) -> Any:
    fields = {_BLOCKS[type(module)]: blocks}
    if isinstance(module, models.T5):
        fields["num_decoder_layers"] = blocks
    return module.clone(config=dataclasses.replace(module.config, **fields))


def _held_trees(module: Any, config: Config, layout: Layout) -> tuple[Any, Any, Any]:
    """Abstract parameters, states of all algorithms, and the pseudo-updates that these are of."""
    params = jax.eval_shape(lambda: models.init_params(module, jax.random.key(0)))
    params = _abstract(params, layout)
    pseudo = algorithms.pseudo_updates(config.measured("sgd"), config.clip_fraction)
    return params, _abstract(jax.eval_shape(pseudo.init, params), layout), pseudo


def _abstract(tree: Any, layout: Layout) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.of(x.shape)), tree
    )


def _abstract_batch(name, config, layout, count) -> dict[str, jax.ShapeDtypeStruct]:
    about, size = getattr(config, name), config.micro_batch_size
    source, target = about.padded_length or about.length, about.length
    if name == "translation":
        target = source if about.padding == "counted" else about.target_length
    lengths = {"input_ids": source, "attention_mask": source, "labels": target}
    if about.padding != "masked":
        del lengths["attention_mask"]
    return {
        k: jax.ShapeDtypeStruct((count, size, length), jnp.int32, sharding=layout.batch)
        for k, length in lengths.items()
    }


def _held(tree: Any) -> int:
    """Bytes of a tree on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _flops(compiled: Any) -> float:
    """Of one device; XLA counts two for a multiplication and an addition."""
    return float(compiled.cost_analysis()["flops"])
