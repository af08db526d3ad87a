"""`python -m benchmarks NAME …` runs one benchmark; each has `--help`."""

import importlib
import os
import sys

NAMES = (
    *("threshold", "compile", "directions", "scaling", "anatomy", "train", "monitor", "study"),
    *("remat", "plan", "paper", "demo", "scan", "accelerator", "report"),
)


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: python -m benchmarks {{{','.join(NAMES)}}} [--help] …")
        return 0
    if not arguments or arguments[0] not in NAMES:
        given = repr(arguments[0]) if arguments else "nothing"
        print(f"benchmark must be one of {', '.join(NAMES)}, got {given}", file=sys.stderr)
        return 2
    # PyTorch's peers share a GPU: JAX takes what it needs, and half of its memory at most.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    if arguments[0] == "accelerator":
        # Trying kernels out would take most of the time; what was set is recorded.
        flags = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
        os.environ.setdefault("XLA_FLAGS", flags)
    # Imported on demand: each benchmark needs other peers installed.
    return importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:]) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
