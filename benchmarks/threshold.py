"""The exact threshold against what a user would otherwise run: sorts and selections.

Every run starts from the gradient itself, so the peers' time includes their |x|. All answers are
checked to be the same number, NumPy's too, which is no contender where the array lies on a GPU.
`passes` are the reads that sharpjax took, and `times_reference` the time over sharpjax's, round by
round.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _harness
from sharpjax._order_statistic import search
from sharpjax.clipping import clip_top_fraction, top_fraction_threshold

torch = _harness.installed("torch")

DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "heavy tail": lambda rng, n: rng.standard_normal(n) * np.exp(2 * rng.standard_normal(n)),
    "normal": lambda rng, n: rng.standard_normal(n),
    "equal": lambda _, n: np.full(n, 0.37),
    "two values": lambda rng, n: np.where(rng.random(n) < 0.2, 1.0, -1e-3),
    "sorted": lambda rng, n: np.sort(rng.standard_normal(n)),
}
# On CPU sorts in XLA take seconds from here on, and float32 does not tell ranks of more apart.
LIMITS = {"jnp.sort": 10**7, "jnp.quantile": 10**6}
TENSORS = 130  # T5-small has 131 parameter tensors.
THRESHOLD = jax.jit(top_fraction_threshold, static_argnums=1)


@functools.lru_cache(maxsize=1)
def draw(distribution: str, n: int) -> np.ndarray:
    return DISTRIBUTIONS[distribution](np.random.default_rng(0), n).astype(np.float32)


def contenders(x: np.ndarray, fraction: float) -> dict[str, Callable[[], Any]]:
    n, rank = x.size, rank_of(x, fraction)
    on_device, device = jax.block_until_ready(jnp.asarray(x)), _harness.torch_device()
    tensor = torch.from_numpy(x).to(device) if device else None
    sort = jax.jit(lambda x: jnp.sort(jnp.abs(x))[n - 1 - rank])
    quantile = jax.jit(lambda x: jnp.quantile(jnp.abs(x), 1 - rank / (n - 1), method="nearest"))
    runs = {
        "sharpjax": lambda: THRESHOLD(on_device, fraction),
        "numpy.partition": lambda: exact(x, fraction),
        "torch.kthvalue": lambda: torch.kthvalue(tensor.abs(), n - rank).values,
        "torch.sort": lambda: torch.sort(tensor.abs(), descending=True).values[rank],
        "torch.topk": lambda: torch.topk(tensor.abs(), rank + 1, sorted=False).values.min(),
        "jnp.sort": lambda: sort(on_device),
        "jnp.quantile": lambda: quantile(on_device),
    }
    limits = LIMITS | ({"jnp.sort": n} if _harness.on_gpu() else {})
    return {
        name: run
        for name, run in runs.items()
        if n <= limits.get(name, n) and (device or not name.startswith("torch"))
    }


def rank_of(x: np.ndarray, fraction: float) -> int:
    """How many magnitudes lie above the threshold."""
    return min(int(x.size * fraction), x.size - 1)


def exact(x: np.ndarray, fraction: float) -> np.floating:
    """The threshold by NumPy."""
    at = x.size - 1 - rank_of(x, fraction)
    return np.partition(np.abs(x), at)[at]


def compare_peers(distribution: str, n: int, fraction: float, repeats: int) -> list[dict[str, Any]]:
    x = draw(distribution, n)
    runs = contenders(x, fraction)
    answers = {name: float(run()) for name, run in runs.items()}
    if len(set(answers.values())) != 1:
        raise AssertionError(f"{distribution}, n = {n}: the thresholds differ: {answers}")
    if _harness.on_gpu():
        del runs["numpy.partition"]
    rows = _harness.compare(_harness.interleaved_seconds(runs, repeats=repeats), "sharpjax")
    passes = int(search([[jnp.asarray(x)]], fraction, x.dtype)[1])
    case = {"distribution": distribution, "n": n, "passes": passes}
    return [case | row for row in rows]


def compare_scopes(n: int, fraction: float, repeats: int) -> list[dict[str, Any]]:
    """Clipping a tree of many tensors, at one threshold for all and at one for each."""
    tree = [
        jnp.asarray(part)
        for part in np.split(draw("heavy tail", n)[: n // TENSORS * TENSORS], TENSORS)
    ]
    runs, memory = {}, {}
    for scope in ("global", "tensor"):
        clip = jax.jit(lambda tree, scope=scope: clip_top_fraction(tree, fraction, scope=scope))
        compiled = clip.lower(tree).compile()
        runs[scope] = lambda compiled=compiled: compiled(tree)
        memory[scope] = compiled.memory_analysis().temp_size_in_bytes
    rows = _harness.compare(_harness.interleaved_seconds(runs, repeats=repeats), "global")
    return [
        {"n": n, "tensors": TENSORS} | row | {"temporary_bytes": memory[row["name"]]}
        for row in rows
    ]


def peak_memory(n: int, fraction: float) -> list[dict[str, Any]]:
    """Peak memory of a process that computes one threshold, above that of a small one beside it.

    Handing the input over may briefly hold it twice, which hides up to one input's size for every
    contender; `temporary_bytes` of the scopes has XLA's own figure.
    """
    names = ("sharpjax", "numpy.partition", "torch.kthvalue", "torch.sort")

    def peak(name: str, measured: bool) -> float:
        # Drawn in float32: a float64 draft would be the peak of all. The small run loads code.
        return _harness.peak_mebibytes(
            "import numpy as np\n"
            "from benchmarks.threshold import contenders\n"
            f"x = np.random.default_rng(0).standard_normal({n}, dtype=np.float32)\n"
            f"small, runs = contenders(x[:1000], {fraction}), contenders(x, {fraction})\n"
            f"float({'runs' if measured else 'small'}[{name!r}]())\n"
        )

    peaks = {name: peak(name, True) - peak(name, False) for name in names}
    return [
        {"n": n, "name": name, "extra_MiB": peak, "times_input": peak * 2**20 / (4 * n)}
        for name, peak in peaks.items()
    ]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks threshold", description=__doc__)
    parser.add_argument("--fraction", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes: a smoke test")
    parser.add_argument("--out", help="write the rows to this JSON file")
    options = parser.parse_args(arguments)

    sizes = (1000, 10_000) if options.quick else (10**6, 10**7, 6 * 10**7)
    middle, largest = sizes[-2], sizes[-1]
    cases = [("heavy tail", n) for n in sizes]
    cases += [(name, middle) for name in DISTRIBUTIONS if name != "heavy tail"]
    peers = []
    for distribution, n in cases:
        rows = compare_peers(distribution, n, options.fraction, options.repeats)
        _harness.print_table(rows, f"Threshold at fraction {options.fraction}")
        peers += rows
    scopes = compare_scopes(largest, options.fraction, options.repeats)
    _harness.print_table(scopes, "Clipping a tree, by scope")
    memory = [] if options.quick else peak_memory(largest, options.fraction)
    _harness.print_table(memory, "Peak memory beyond the input")
    if options.out:
        more = {"scopes": scopes, "memory": memory, "fraction": options.fraction}
        _harness.write_json(options.out, "threshold", peers, **more)
