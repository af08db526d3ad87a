"""Sharpness along many directions against the paper's loop over `torch.autograd.functional.vhp`.

Random weights of the real shapes, the same in both frameworks; nothing is padded. Each method here
measures all directions in one call; a peer measures one, and its time counts that often.
`gradients_each` is the time for one direction over that of one gradient here, and `times_vhp` how
many times faster than the loop, both round by round. Peers get one direction to hold, we all,
except where updates are made one at a time (`measure_updates`). All multiply in float32 proper, as
measurements do, also on a GPU, where JAX's own default is TF32.
"""

import argparse
import functools
import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import transformers

import sharpjax
from benchmarks import _harness
from sharpjax.directions import compile_directions
from sharpjax.models import (
    T5,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    init_params,
    load_pretrained,
    make_loss,
)

torch = _harness.installed("torch")

SIZES = ("8x128", "4x64")
METHODS = ("reverse", "forward", "adjoint")
MAKING = ("forward", "adjoint")  # Those that keep least.
PEERS = ("vhp", "torch.func", *(["curvlinops"] if importlib.util.find_spec("curvlinops") else []))
TINY_T5 = {"vocab_size": 99, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
TINY_ROBERTA = {
    "vocab_size": 99,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
# Of the study's preset `small`.
SMALL_T5 = {"vocab_size": 4096, "d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 2}
SMALL_ROBERTA = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 66,
}
# Name -> our module; the configurations' defaults are t5-small and distilroberta-base.
MODELS = {
    "t5-small": T5(T5Config()),
    "distilroberta-base": RobertaForMaskedLM(RobertaConfig()),
    "small-t5": T5(T5Config(**SMALL_T5, num_heads=4)),
    "small-roberta": RobertaForMaskedLM(RobertaConfig(**SMALL_ROBERTA)),
    "tiny-t5": T5(T5Config(**TINY_T5)),
    "tiny-roberta": RobertaForMaskedLM(RobertaConfig(**TINY_ROBERTA)),
}
# Of the reference, where it has another default than ours.
OTHER_DEFAULTS = {"decoder_start_token_id": 0, "layer_norm_eps": 1e-5, "type_vocab_size": 1}


def torch_model(name: str, attention: str = "eager") -> Any:
    """The reference with random weights. Only its eager attention has second derivatives."""
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    fields = {**OTHER_DEFAULTS, **vars(MODELS[name].config), "attn_implementation": attention}
    fields = {k: value for k, value in fields.items() if k != "model_type" and value is not None}
    kind = "t5" if isinstance(MODELS[name], T5) else "roberta"
    config = transformers.AutoConfig.for_model(kind, **fields)
    by_kind = {
        "t5": transformers.AutoModelForSeq2SeqLM,
        "roberta": transformers.AutoModelForMaskedLM,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return by_kind[kind].from_config(config).eval().to(_harness.torch_device())


def torch_batch(batch: Any) -> dict[str, Any]:
    """A batch for the reference, where it computes."""
    device = _harness.torch_device()
    return {k: torch.from_numpy(np.asarray(x)).long().to(device) for k, x in batch.items()}


def same_params(model: Any) -> Any:
    """Our parameters of the reference's values."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_pretrained(folder)[1]


@functools.cache
def host_params(name: str) -> Any:
    """Our parameters at a seed, in NumPy: a GPU's compiler takes long over how they are drawn."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.device_get(init_params(MODELS[name], jax.random.key(0)))


@functools.cache
def loss_of(name: str, dtype: str | None = None) -> Callable[..., jax.Array]:
    """The loss of a model that computes in a dtype; one object, so that its programs are shared."""
    return make_loss(MODELS[name].clone(dtype=dtype and jnp.dtype(dtype)))


def batch_of(name: str, examples: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = examples, length
    draw = lambda: rng.integers(5, MODELS[name].config.vocab_size, shape, dtype=np.int32)  # noqa: E731
    return {"input_ids": draw(), "attention_mask": np.ones(shape, np.int32), "labels": draw()}


def directions_like(params: Any, count: int) -> dict[str, Any]:
    """The parameters themselves, which a peer knows too, and random directions."""
    rng = np.random.default_rng(0)
    draw = lambda x: jnp.asarray(rng.random(x.shape, np.float32) - np.float32(0.5))  # noqa: E731
    drawn = [jax.tree.map(draw, params) for _ in range(count - 1)]
    return {f"direction {i}": tree for i, tree in enumerate([params, *drawn])}


def gradient_here(name: str, params: Any, batch: Any) -> jax.stages.Lowered:
    """A gradient at the precision of the measurements, to be compiled."""
    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.value_and_grad(loss_of(name))).lower(params, batch)


def measurement(
    name: str, params: Any, updates: Any, batch: Any, method: str, loss: Any = None
) -> functools.partial:
    """`measure_directions` of one micro-batch, as it is called outside of `jit`."""
    loss = loss or loss_of(name)
    batches = jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
    return functools.partial(
        sharpjax.measure_directions, loss, params, updates, batches, method=method
    )


def making(name: str, batch: Any, count: int, method: str) -> tuple[Any, Callable[[], Any]]:
    """Parameters, and `measure_updates` of as many updates, which are not held."""
    params = init_params(MODELS[name], jax.random.key(0))
    clipped = {str(i): sharpjax.coord_clip((i + 1) / 100) for i in range(count)}
    pseudo = sharpjax.pseudo_updates(clipped)
    operands = pseudo, params, pseudo.init(params), jax.tree.map(lambda x: x[None], batch)
    loss = loss_of(name)
    return params, lambda: sharpjax.measure_updates(loss, params, *operands, method=method)


def temporary_bytes(measurement: functools.partial) -> int:
    """What its programs hold at once beside their arguments."""
    loss, params, _, batches = measurement.args
    programs = compile_directions(loss, params, batches, **measurement.keywords)
    return programs.temporary_bytes


def peer(kind: str, model: Any, batch: Any) -> Callable[[], Any]:
    """One gradient, or vᵀHv along v = parameters/‖parameters‖ by a peer."""
    torch.set_float32_matmul_precision("highest")
    inputs = torch_batch(batch)
    names = [name for name, _ in model.named_parameters()]
    params = tuple(p.detach() for p in model.parameters())
    norm = torch.sqrt(sum((p**2).sum() for p in params))
    v = tuple(p / norm for p in params)

    def loss(*values):
        return torch.func.functional_call(
            model, dict(zip(names, values, strict=True)), (), inputs
        ).loss

    def dot(a, b):
        return float(sum((x * y).sum() for x, y in zip(a, b, strict=True)))

    def gradient():
        model.zero_grad()
        model(**inputs).loss.backward()

    def jvp_of_grad():
        grad = torch.func.grad(loss, argnums=tuple(range(len(params))))
        return dot(torch.func.jvp(grad, params, v)[1], v)

    if kind == "curvlinops":
        operator, flat = curvlinops_hessian(model, inputs), torch.cat([x.flatten() for x in v])
        return lambda: float(operator @ flat @ flat)
    return {
        "gradient (torch)": gradient,
        "vhp": lambda: dot(torch.autograd.functional.vhp(loss, params, v)[1], v),
        "torch.func": jvp_of_grad,
    }[kind]


def peer_bytes(run: Callable[[], Any]) -> int:
    """What a peer takes of a GPU beside what it held before."""
    _harness.wait(run())  # Once before: what it keeps from call to call is there then.
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    _harness.wait(run())
    return torch.cuda.max_memory_allocated() - before


def curvlinops_hessian(model: Any, inputs: dict[str, Any]) -> Any:
    """Its operator of the loss that the model computes itself, over one batch."""
    import curvlinops  # pyright: ignore[reportMissingImports]

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, _):
            return self.inner(**inputs).loss

    class Loss(torch.nn.Module):
        reduction = "sum"  # The model's loss is the mean over the batch already.

        def forward(self, prediction, _):
            return prediction

    one = torch.zeros(1)
    params = list(model.parameters())
    return curvlinops.HessianLinearOperator(
        Model(), Loss(), params, [(one, one)], check_deterministic=False
    )


def in_one_program(measurement: functools.partial) -> tuple[jax.stages.Compiled, tuple]:
    """The same compiled inside of `jit`, and its arguments."""
    loss, *arguments = measurement.args
    measure = functools.partial(measurement.func, loss, **measurement.keywords)
    return jax.jit(measure).lower(*arguments).compile(), tuple(arguments)


def compare_methods(
    name: str,
    examples: int,
    length: int,
    count: int,
    repeats: int,
    peers: tuple[str, ...] = PEERS,
    jitted: bool = False,
    methods: tuple[str, ...] = METHODS,
) -> list[dict[str, Any]]:
    """A row for a gradient, each method and each peer; without peers, no `times_vhp`."""
    model, batch = torch_model(name) if peers else None, batch_of(name, examples, length)
    params = same_params(model) if peers else jax.device_put(host_params(name))
    updates = directions_like(params, count)
    measured = {m: measurement(name, params, updates, batch, m) for m in methods}
    gradient, *held = _harness.compiled(
        gradient_here(name, params, batch).compile,
        *(functools.partial(temporary_bytes, run) for run in measured.values()),
    )
    runs: dict[str, Callable[[], Any]] = {"gradient": lambda: gradient(params, batch), **measured}
    temporary = {"gradient": gradient.memory_analysis().temp_size_in_bytes}
    temporary |= dict(zip(methods, held, strict=True))
    for method, run in measured.items() if jitted else ():
        inside, arguments = in_one_program(run)
        runs[f"{method}, in jit"] = functools.partial(inside, *arguments)
        temporary[f"{method}, in jit"] = inside.memory_analysis().temp_size_in_bytes
    ours = runs.keys() - {"gradient"}
    answers = {kind: float(runs[kind]()["direction 0"].sharpness) for kind in ours}
    for kind in ("gradient (torch)", *peers) if peers else ():
        runs[kind] = peer(kind, model, batch)
        if _harness.on_gpu():
            temporary[kind] = peer_bytes(runs[kind])
    answers |= {kind: runs[kind]() for kind in peers}
    if isinstance(MODELS[name], RobertaForMaskedLM):
        # curvlinops 3.0.1 differs from all others, PyTorch's included, in the rows of LayerNorm's
        # weights: by up to their own size in float64. On T5, which has none, it agrees.
        answers.pop("curvlinops", None)
    spread = max(answers.values()) - min(answers.values())
    if spread > 0.05 * max(map(abs, answers.values())):
        raise AssertionError(f"{name}, {examples}x{length}: the sharpness differs: {answers}")

    for kind in {"gradient", "gradient (torch)"} & runs.keys():  # The others have just run once.
        _harness.wait(runs[kind]())
    seconds = _harness.interleaved_seconds(runs, repeats=repeats, warmups=0)
    rows = []
    for row in _harness.compare(seconds, "gradient"):
        kind = row["name"]
        many = count if kind in ours else 1
        loop = zip(seconds["vhp"], seconds[kind], strict=True) if peers else ()
        rows.append(
            {
                "model": name,
                "batch": f"{examples}x{length}",
                "name": kind,
                "directions": many,
                "seconds": row["seconds"],
                "gradients_each": row["times_reference"] / many,
                "times_vhp": median(v * many / s for v, s in loop) if peers else "",
                "temporary_MiB": round(temporary[kind] / 2**20) if kind in temporary else "",
            }
        )
    return rows


def peak_memory(
    name: str, examples: int, length: int, count: int, peers: tuple[str, ...] = PEERS
) -> list[dict[str, Any]]:
    """Peak memory of a process each: whole, and beyond one that only holds what it starts from."""
    head = f"from benchmarks.directions import *\nname = {name!r}\n"
    head += f"batch = batch_of(name, {examples}, {length})\n"
    here = head + "params = init_params(MODELS[name], jax.random.key(0))\n"
    here += f"updates = jax.block_until_ready(directions_like(params, {count}))\n"
    there = head + "model = torch_model(name)\nrun = peer({!r}, model, batch)\n"
    call = "jax.block_until_ready(measurement(name, params, updates, batch, {!r})())\n"
    programs = {method: (here, here + call.format(method)) for method in METHODS}
    for method in MAKING:
        made = head + f"params, run = making(name, batch, {count}, {method!r})\n"
        programs[f"{method}, updates made"] = made, made + "jax.block_until_ready(run())\n"
    for kind in peers:
        programs[kind] = there.format(kind), there.format(kind) + "run()\n"
    rows = []
    for kind, (start, whole) in programs.items():
        peak, base = _harness.peak_mebibytes(whole), _harness.peak_mebibytes(start)
        row = {"model": name, "batch": f"{examples}x{length}", "name": kind}
        rows.append({**row, "peak_MiB": peak, "extra_MiB": peak - base})
    loop = next((row["peak_MiB"] for row in rows if row["name"] == "vhp"), None)
    return [{**row, "of_vhp": row["peak_MiB"] / loop if loop else ""} for row in rows]


def fit_tokens(name: str, length: int, count: int, method: str, repeats: int) -> dict[str, Any]:
    """Seconds against tokens, over a 16-fold range: a line, and the exponent of a power law."""
    params = init_params(MODELS[name], jax.random.key(0))
    updates = directions_like(params, count)
    sizes, runs = [1, 2, 4, 8, 16], {}
    for examples in sizes:
        batch = batch_of(name, examples, length)
        runs[str(examples * length)] = measurement(name, params, updates, batch, method)
    seconds = _harness.interleaved_seconds(runs, repeats=repeats)
    tokens = np.array([examples * length for examples in sizes], float)
    least = np.array([min(values) for values in seconds.values()])
    line = np.polyfit(tokens, least, 1, w=1 / least)
    return {
        "model": name,
        "method": method,
        "tokens": [int(t) for t in tokens],
        "seconds": least.tolist(),
        "microseconds_per_token": line[0] * 1e6,
        "seconds_fixed": line[1],
        "largest_relative_residual": float(np.max(np.abs(np.polyval(line, tokens) / least - 1))),
        "exponent": float(np.polyfit(np.log(tokens), np.log(least), 1)[0]),
    }


def arithmetic(name: str, examples: int, length: int, repeats: int) -> list[dict[str, Any]]:
    """GFLOP/s of a gradient, by the compiler's count, beside those of a plain product."""
    params, batch = jax.device_put(host_params(name)), batch_of(name, examples, length)
    gradient = gradient_here(name, params, batch).compile()
    n = 256 if examples * length < 1024 else 8192 if _harness.on_gpu() else 2048
    a = jnp.asarray(np.random.default_rng(0).random((n, n), np.float32))
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    runs = {"gradient": lambda: gradient(params, batch), "matrix product": lambda: product(a)}
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # A GPU's library calls hide it.
        counted = gradient_here(name, host_params(name), batch).cost_analysis()["flops"]
    flops = {"gradient": counted, "matrix product": 2 * n**3}
    seconds = _harness.interleaved_seconds(runs, repeats=repeats)
    rate = {kind: flops[kind] / min(values) / 1e9 for kind, values in seconds.items()}
    return [
        {"model": name, "name": kind, "GFLOP": flops[kind] / 1e9, "GFLOP_per_second": value}
        for kind, value in rate.items()
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks directions", description=__doc__)
    parser.add_argument("--models", nargs="+", default=["t5-small", "distilroberta-base"])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="examples x tokens")
    parser.add_argument("--count", type=int, default=7, help="directions")
    parser.add_argument("--repeats", type=int, default=2)
    # The loop is what all is compared with; the others take 7 GB and more.
    parser.add_argument("--peers", nargs="*", choices=PEERS[1:], default=PEERS[1:], help="with vhp")
    parser.add_argument("--jitted", action="store_true", help="also as one program inside of jit")
    parser.add_argument("--quick", action="store_true", help="tiny models: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    peers = (PEERS[0], *options.peers) if _harness.torch_device() else ()
    models = ["tiny-t5", "tiny-roberta"] if options.quick else options.models
    asked = ["2x8"] if options.quick else options.sizes
    sizes = [tuple(map(int, size.split("x"))) for size in asked]
    rows, memory, fits, rates = [], [], [], []
    if not options.quick:
        # First: a process starts with its parent's peak, which is small only now.
        for name in models:
            memory += peak_memory(name, *sizes[0], options.count, peers)
    _harness.print_table(memory, "Peak memory of a process each")
    for name in models:
        for examples, length in sizes:
            found = compare_methods(
                name, examples, length, options.count, options.repeats, peers, options.jitted
            )
            _harness.print_table(found, f"{options.count} directions, {name}")
            rows += found
        rates += arithmetic(name, *sizes[0], options.repeats)
        length = sizes[-1][1]
        fits.append(fit_tokens(name, length, 2, "adjoint", options.repeats))
    _harness.print_table(rates, "Arithmetic")
    _harness.print_table(fits, "Cost against tokens")
    if options.out:
        more = {"memory": memory, "fits": fits, "arithmetic": rates, "count": options.count}
        _harness.write_json(options.out, "directions", rows, **more)
