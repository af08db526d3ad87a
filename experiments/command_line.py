"""Words to a command, and its end to an exit code and one line."""

import contextlib
import dataclasses
import functools
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from experiments.algorithms import AlgorithmError
from experiments.commands import COMMANDS, DEFAULTS, WITHOUT_CONFIG, Command
from experiments.config import Config
from experiments.errors import DataError, RefusedError
from experiments.presets import PRESETS
from experiments.run import memory
from experiments.run.progress import Interrupted, Watch

PROGRAM = "python -m experiments"
HELP = {"-h", "--help"}


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 is success, 2 a bad value, 1 a failure, 130 an interruption.

    Args:
      arguments: The words behind the program's name; None takes the process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # Not every console can print every sign.
    watch = Watch()
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
    except ValueError as error:
        return _fail(error, 2)
    try:
        _keep_compiled_programs()
        memory.give_back_after_compiling()
        command(watch)
    except Interrupted as stop:
        print(f"{stop}; the same command continues.", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("stopped at once; the same command continues.", file=sys.stderr)
        return 130
    except (AlgorithmError, DataError, RefusedError) as error:
        return _fail(error, 2)
    except OSError as error:
        return _fail(error, 1)
    return 0


def parse(arguments: Sequence[str]) -> Command:
    """The command with its configuration, every value of it checked.

    Raises:
      ValueError: a bad word; one line says which.
      SystemExit: with code 0, after `--help`.
    """
    preset, words = _take_preset(arguments)
    name, rest = (words[0], words[1:]) if words else (None, [])
    if name not in COMMANDS:
        if HELP & set(words):
            every = {name: _with_defaults(made, preset) for name, made in COMMANDS.items()}
            return _cli(every, None, ["--help"])
        first = "first, one of" if name and name.startswith("-") else "one of"
        got = repr(name) if name else "nothing"
        raise ValueError(f"the command must be {first} {', '.join(COMMANDS)}, got {got}")
    command = COMMANDS[name]
    if preset is not None and command in WITHOUT_CONFIG:
        raise ValueError(f"{name} takes no --preset: it reads what is recorded")
    return _cli(_with_defaults(command, preset), name, rest)


def _take_preset(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The preset, which may stand anywhere, and the other words."""
    found, others, words = [], [], iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--preset":
            found.append(value if equals else next(words, ""))
        else:
            others.append(word)
    for value in found:
        if value not in PRESETS:
            raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {value!r}")
    if len(found) > 1:
        raise ValueError(f"--preset is given {len(found)} times: {', '.join(found)}")
    return (found[0] if found else None), others


def _with_defaults(command: Callable[..., Command], preset: str | None) -> Callable[..., Command]:
    if command in WITHOUT_CONFIG:
        return command
    config: Config = dataclasses.replace(PRESETS[preset or "demo"], **DEFAULTS.get(command, {}))
    return functools.partial(command, config=config)


def _cli(made_from: Callable | dict[str, Callable], name: str | None, words: list[str]) -> Command:
    """What tyro makes of the words; its framed complaint as a ValueError of one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if isinstance(made_from, dict):
                return tyro.extras.subcommand_cli_from_dict(
                    made_from,
                    prog=PROGRAM,
                    description="The study of “Toward Understanding Why Adam Converges Faster "
                    "Than SGD for Transformers”, on Flax T5 and RoBERTa.",
                    args=words,
                )
            return tyro.cli(made_from, prog=f"{PROGRAM} {name}", args=words)
    except SystemExit as exit:
        if not exit.code:
            raise
        raise ValueError(_one_line(said.getvalue())) from None
    except OverflowError as error:
        raise ValueError(f"a number is too large ({error})") from error


def _one_line(box: str) -> str:
    """The first message of tyro's framed error; that of a dataclass of ours as it was raised."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box).strip()
    below_title = [line.strip("│| \t") for line in text.splitlines()[1:]]
    # Rules also where no frame is; a console that is not UTF-8 draws them with dashes.
    ruled = re.split(r"\n\+?[─-]{2,}\+?\n", "\n" + "\n".join(below_title))
    found = " ".join(next((part for part in ruled if part.strip()), text).split())
    return re.sub(r"^Error parsing (__tyro\S*|options): ", "", found)


def _keep_compiled_programs() -> None:
    import jax

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", Path.home() / ".cache" / "sharpjax")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _fail(error: Exception, code: int) -> int:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code
