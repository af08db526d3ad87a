"""Markdown whose numbers are filled in from elsewhere, between marks that a reader does not see.

`<!-- words -->` opens a block and `<!-- end -->` closes it; what stands between is replaced. A
block that opens a line is a table or the like and stands on lines of its own; one within a line is
a single number. Other comments, and all the prose, are left as they are.
"""

import itertools
import re
from collections.abc import Callable

_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
_LINE_START = re.compile(r"\s*(?:[-*>]|\d+\.)?\s*")


def fill(text: str, write: Callable[[str, bool], str]) -> str:
    """The document with every block written anew; filling it again changes nothing.

    Args:
      text: The document.
      write: `write(words, inline)` -> what belongs into the block.

    Raises:
      ValueError: `end` without a beginning, or a number within a line that a line break has moved
        to its front, where Markdown takes what follows for HTML.
    """
    made, position = [], 0
    comments = list(_COMMENT.finditer(text))
    for comment, after in itertools.zip_longest(comments, comments[1:]):
        line = text.count("\n", 0, comment.start()) + 1
        if comment[1] == "end":
            if comment.start() >= position:
                raise ValueError(f"line {line}: <!-- end --> without a beginning")
            continue
        if after is None or after[1] != "end":
            continue
        before = text[text.rfind("\n", 0, comment.start()) + 1 : comment.start()]
        inline = not _LINE_START.fullmatch(before)
        if not inline and "\n" not in text[comment.end() : after.start()]:
            raise ValueError(
                f"line {line}: a number must not open a line, nor a list's item: "
                f"Markdown takes the line for HTML ({comment[0]})"
            )
        content = write(comment[1], inline)
        made += [text[position : comment.end()], content if inline else f"\n\n{content}\n\n"]
        made += [after[0]]
        position = after.end()
    return "".join(made) + text[position:]


def contents(text: str) -> list[tuple[str, str]]:
    """(words, what stands there now) of every block, in the document's order."""
    comments = list(_COMMENT.finditer(text))
    return [
        (comment[1], text[comment.end() : after.start()].strip())
        for comment, after in itertools.pairwise(comments)
        if comment[1] != "end" and after[1] == "end"
    ]
