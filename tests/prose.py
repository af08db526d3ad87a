"""What prose must not have."""

import re

from experiments.report import blocks


def unmarked_numbers(text: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """Decimal numbers of the prose that stand in no block: nothing keeps them true.

    Code and the targets of links do not count, nor do the numbers `allowed` (the design's).
    """
    text = blocks.fill(text, lambda words, inline: "")
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for dropped in (r"(?s)<!--.*?-->", r"`[^`]*`", r"\]\([^)]*\)"):
        text = re.sub(dropped, "", text)
    numbers = re.findall(r"(?<![\w.])\d+\.\d+(?:×10[⁻⁰¹²³⁴-⁹]+)?(?!\.\d)|\d×10[⁻⁰¹²³⁴-⁹]+", text)
    return [number for number in numbers if number not in allowed]
