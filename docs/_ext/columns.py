"""The directive `columns`: every record's columns, from its dataclass and the comments in it."""

import dataclasses
import inspect

from sphinx.util.docutils import SphinxDirective

from experiments import (  # The only place that knows where they are.
    anatomy_rows,
    horizon_rows,
    rows,
)

TABLES = {"study": (*rows.TABLES, *horizon_rows.TABLES), "anatomy": anatomy_rows.TABLES}

# What a column means that has no comment of its own, where its table has nothing else to say.
_NAMES = {
    **dict.fromkeys(("batch", "seed", "task", "trajectory", "algorithm"), "As in `sharpness.csv`."),
    **dict.fromkeys(("slope", "sharpness", "predicted_decrease"), "As in `sharpness.csv`."),
    **dict.fromkeys(("best_step", "best_decrease"), "As in `search.csv`."),
    **dict.fromkeys(("loss", "learning_rate", "diverged"), "As in `convergence.csv`."),
    **dict.fromkeys(("count", "coordinates", "probes", "parameters", "blocks"), "How many."),
    **dict.fromkeys(("high", "unbiased_high"), "The interval’s upper end."),
    **dict.fromkeys(("layer", "kind"), "Of the first block; as in `anatomy_blocks.csv`."),
    **dict.fromkeys(("other", "other_layer", "other_kind"), "The second of the pair."),
    **dict.fromkeys(("cosine", "curvature"), "vᵢᵀvⱼ, and vᵢᵀHvⱼ."),
    **dict.fromkeys(("gauss_newton", "residual"), "What the formula above says."),
    **dict.fromkeys(("sharpness_without", "best_decrease_without"), "Of the rest of the update."),
    "correlation": "Spearman’s.",
    "distance": "The distance above.",
    "eigenvalue": "As Lanczos’s iteration or the eigenproblem has it.",
    "fraction": "Of the coordinates that are clipped.",
}


def described(table):
    """(name, type, meaning) of each column of a table, those of its bases first."""
    comments = {}
    for cls in reversed(table.__mro__):
        if dataclasses.is_dataclass(cls):
            comments |= _comments(cls)
    for field in dataclasses.fields(table):
        kind = field.type if isinstance(field.type, str) else field.type.__name__
        error = "Its standard error." if field.name.endswith("_se") else ""
        yield field.name, kind, comments.get(field.name) or _NAMES.get(field.name, error)


def _comments(cls):
    """Field -> the comment behind it, or else the lines above it or above its neighbours."""
    fields = {field.name for field in dataclasses.fields(cls)}
    found, above, begun = {}, [], False
    for line in inspect.getsource(cls).splitlines():
        code, _, comment = (part.strip() for part in line.partition("#"))
        name = code.partition(":")[0]
        if comment and not code:
            above, begun = [*above, comment] if begun else [comment], True
            continue
        begun = False
        if name in fields:
            found[name] = comment or " ".join(above)
    return found


class Columns(SphinxDirective):
    """The tables of one kind of record."""

    required_arguments = 1

    def run(self):
        """A heading, the key and a table for each CSV file."""
        lines = []
        for table in TABLES[self.arguments[0]]:
            lines += [f"**`{table.FILE}`**", "", inspect.getdoc(table), ""]
            lines += ["A row’s key: " + ", ".join(f"`{name}`" for name in table.KEY) + ".", ""]
            lines += ["| column | type | meaning |", "|---|---|---|"]
            for name, kind, meaning in described(table):
                lines.append(f"| `{name}` | {kind} | {meaning.replace('|', chr(92) + '|')} |")
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app):
    app.add_directive("columns", Columns)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
