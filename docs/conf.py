"""The site: `make docs` builds it without a network, and every tutorial runs while it is built."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]
# The tutorials show what a laptop shows, whatever machine builds the site.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # Most of the time is compilation.
os.environ["PYTHONPATH"] = str(HERE.parent)  # The kernels run this checkout.

import sharpjax

project = "sharpjax"
author = "The sharpjax authors"
copyright = author
release = version = sharpjax.__version__
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "api",  # These are in _ext.
    "command_line",
    "columns",
    "mathml",
    "repository",
]
exclude_patterns = ["_build", "_ext"]
default_role = (
    "py:obj"  # `name` in a docstring links where there is such a name, and is code elsewhere.
)

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"
autosummary_generate = False
python_maximum_signature_line_length = 88
napoleon_custom_sections = [("Warns", "returns_style")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600

html_theme = "sphinx_book_theme"
html_title = "sharpjax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "navbar_persistent": [],  # The sidebar has the search.
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_context = {"default_mode": "auto"}
html_math_renderer = "mathml"
