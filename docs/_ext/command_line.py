"""The directive `help`: what a command says to `--help`, as it is when the site is built."""

import contextlib
import io
import os
import re
from unittest import mock

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class Help(SphinxDirective):
    """The help of `python -m experiments` and the words in its argument."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self):
        """A literal block."""
        return [nodes.literal_block("", said((self.arguments or [""])[0].split()), language="none")]


def said(words):
    """The help of these words, 80 columns wide and without colours."""
    from experiments import command_line

    out = io.StringIO()
    size = os.terminal_size((80, 24))
    with (
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
        mock.patch("shutil.get_terminal_size", return_value=size),
    ):
        command_line.parse([*words, "--help"])
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).strip()


def setup(app):
    app.add_directive("help", Help)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
