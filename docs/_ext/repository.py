"""The repository's own documents as pages: their links lead to the pages that they have become."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Path in the repository -> page of the site; what has no page is named and not linked.
PAGES = {
    "README.md": "index",
    "RESULTS.md": "study/results",
    "BENCHMARKS.md": "study/benchmarks",
    "CHANGELOG.md": "project/changelog",
    "CONTRIBUTING.md": "project/contributing",
    "docs/study/running.md": "study/running",
}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)\)")


def relink(text, source):
    """The text of a repository's file with its links to other such files changed."""

    def change(found):
        target = (source.parent / found[2]).resolve()
        if not target.is_relative_to(ROOT):
            return found[0]
        path = target.relative_to(ROOT).as_posix()
        if path in PAGES:
            return f"[{found[1]}](/{PAGES[path]}.md)"
        return found[0] if path.startswith("docs/") else found[1]

    return _LINK.sub(change, text)


def on_read(app, name, content):
    """Pages that are files of the repository as well."""
    source = Path(app.srcdir, f"{name}.md")
    if f"docs/{name}.md" in PAGES:
        content[0] = relink(content[0], source)


def on_include(app, path, name, content):
    """Files that a page includes."""
    source = (Path(app.srcdir) / path).resolve()
    if source.suffix == ".md":
        content[0] = relink(content[0], source)


def setup(app):
    app.connect("source-read", on_read)
    app.connect("include-read", on_include)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
