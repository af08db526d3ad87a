"""The command line: `python -m experiments --help`, or `python PATH/experiments` from anywhere."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # Run by its path: Python then looks for modules inside of this folder.
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0 is success, 2 a bad value, 1 a failure, 130 an interruption.

    Args:
      arguments: The words behind the program's name; None takes the process's own.
    """
    try:
        from experiments.interrupts import at_once

        with at_once():
            from experiments import command_line
        return command_line.run(arguments)
    except KeyboardInterrupt:
        print("stopped at once.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # As in `… --help | head`; Python would say it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        print(
            f"error: {error.name} is not installed; from the checkout: "
            "python -m pip install --editable '.[experiments]'",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
