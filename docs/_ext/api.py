"""The directive `api`: a table of names, then each name's signature and docstring.

    ```{api} sharpjax
    compare
    Comparison
    ```

Docstrings are Google's style with Markdown's habits: $…$ is a formula, and |x| a magnitude, where
reStructuredText would see a substitution.
"""

import importlib
import inspect
import re

from sphinx.util.docutils import SphinxDirective

# What is code, or a formula, or an escape already, is left as it is.
_KEPT = re.compile(r"(``.+?``|`[^`]*`|\$\$.+?\$\$|\$[^$]+\$)", re.DOTALL)


class Api(SphinxDirective):
    """Documents the names in its content, which are attributes of the module in its argument."""

    required_arguments = 1
    has_content = True

    def run(self):
        """Nodes of `autosummary` and of `autofunction` or `autoclass` for each name."""
        module = self.arguments[0]
        names = [line.strip() for line in self.content if line.strip()]
        lines = [f".. currentmodule:: {module}", "", ".. autosummary::", ""]
        lines += [f"   {name}" for name in names] + [""]
        found = importlib.import_module(module)
        for name in names:
            is_class = inspect.isclass(getattr(found, name))
            lines += [f".. auto{'class' if is_class else 'function'}:: {name}"]
            lines += ["   :members:"] * is_class + [""]
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *lines, "```"]))


def as_rst(app, what, name, obj, options, lines):
    """Rewrites a docstring's Markdown habits in place; examples are left as they are."""
    pieces = re.split(r"(\n[ ]*>>> .*?(?=\n[ ]*\n|\Z))", "\n".join(lines), flags=re.DOTALL)
    for i in range(0, len(pieces), 2):
        parts = _KEPT.split(pieces[i])
        for j, part in enumerate(parts):
            if j % 2 == 0:
                parts[j] = part.replace("|", "\\|")
            elif part.startswith("$"):
                parts[j] = f":math:`{' '.join(part.strip('$').split())}`"
        pieces[i] = "".join(parts)
    lines[:] = "".join(pieces).split("\n")


def without_constructor(app, what, name, obj, options, signature, returns):
    """Results are made by the functions that return them: their fields say what is in them."""
    return ("", None) if what == "class" else None


def setup(app):
    app.add_directive("api", Api)
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # Before napoleon.
    app.connect("autodoc-process-signature", without_constructor)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
