"""The directive `commands`: what each says to `--help`, as it is when the site is built."""

import contextlib
import io
import os
import re
from unittest import mock

from sphinx.util.docutils import SphinxDirective


class Commands(SphinxDirective):
    """The help of `python -m experiments`, then a section for each command."""

    def run(self):
        from experiments.commands import COMMANDS

        lines = _block([])
        for name in COMMANDS:
            lines += [f"## {name}", "", *_block([name])]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _block(words):
    return ["```none", *said(words).splitlines(), "```", ""]


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
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
