"""What ends a command with one line: each says what was found, and what to do if it is known."""


class RefusedError(ValueError):
    """What was asked for cannot be done as it was asked, or not in this directory: exit code 2."""


class DataError(ValueError):
    """A text, tokenizer or checkpoint that cannot be used; names file, column and row: exit 2."""


class DamagedError(OSError):
    """A file of a run that cannot be read or written as it should be: exit code 1.

    When the cause is mended, the same command continues.
    """
