"""One self-contained HTML page of what was measured: `pip install 'sharpjax[report]'`.

    write_comparison                            the page of a `Comparison`
    write_page, Section, Figure, Table, Looks   a page of any tables and charts
    charts, frames                              the charts, and the tables that they draw

The page needs no network: its data, its charts (Vega-Lite, made with Altair) and the programs that
draw them are in the file. All charts follow the same choices: a point, and which optimizers are
shown. Without JavaScript it shows tables and static figures.
"""

try:
    import altair  # noqa: F401
    import jinja2  # noqa: F401
    import matplotlib  # noqa: F401
    import pandas  # noqa: F401
    import vl_convert  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"sharpjax.report needs {error.name}: pip install 'sharpjax[report]'"
    ) from error

from sharpjax.report import charts, frames
from sharpjax.report._comparison import write_comparison
from sharpjax.report._looks import Looks
from sharpjax.report._page import Figure, Section, Table, write_page

__all__ = [
    "Figure",
    "Looks",
    "Section",
    "Table",
    "charts",
    "frames",
    "write_comparison",
    "write_page",
]
