"""Formulas as MathML, which browsers draw themselves: no script and no font is fetched."""

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError


def _write(translator, node, block):
    try:
        formula = tex2mathml(node.astext(), as_block=block)
    except Exception as error:  # docutils raises several kinds.
        raise ExtensionError(f"no MathML for {node.astext()!r}: {error}") from error
    translator.body.append(formula)


def _visit_inline(translator, node):
    _write(translator, node, block=False)
    raise SkipNode


def _visit_block(translator, node):
    translator.body.append('<div class="math">')
    _write(translator, node, block=True)
    translator.body.append("</div>")
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
