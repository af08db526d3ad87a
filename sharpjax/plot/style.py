"""How optimizers look and are called in every figure: one colour each, what is clipped dashed.

Families that the paper compares have fixed colours (Okabe and Ito's, distinct to colour-blind
readers); all others take those that follow, in alphabetical order, and a marker on the line once
the colours have gone round. A clipped form has the colour and marker of its family.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

COLOURS = {
    "sgd": "#d55e00",
    "normalized_sgd": "#0072b2",
    "adafactor": "#b0549a",
    "adam": "#009e73",
}
"""Family -> colour of the paper's optimizers, in the order of legends."""

MORE_COLOURS = ("#e69f00", "#56b4e9", "#7a4f2a", "#000000", "#9a8f00", "#8a7bd8", "#d6779f")
"""The colours of all others, taken in turn."""

NEUTRAL = "#444444"
"""The colour of what is no optimizer: the gradient, a span, a density."""

_EVERYTHING = tuple(COLOURS.values()) + MORE_COLOURS
# Without the dot, which is everybody's where a line has marks anyway.
_MARKERS = "sD^vP*X<>hd"
_DASHES = {  # What is clipped: the gradient, the update.
    (False, False): "-",
    (True, False): (0, (4, 1.8)),
    (False, True): (0, (1.2, 1.2)),
    (True, True): (0, (4, 1.4, 1.2, 1.4)),
}
_CLIPS = re.compile(r"^(?P<base>.+?)(?P<gradient>_clip)?(?P<update>_clip_update)?(?::(?P<of>.+))?$")
_WORDS = {
    word.lower(): word
    for word in (
        *("SGD", "Adam", "AdamW", "NAdam", "NAdamW", "RAdam", "AMSGrad", "AdaBelief", "AdaGrad"),
        *("AdaDelta", "RMSProp", "LAMB", "LARS", "SM3", "SOAP", "DoG", "DoWG", "COCOB", "AdEMAMix"),
    )
} | {"lbfgs": "L-BFGS"}


def family(name: str) -> str:
    """The name without what is clipped.

    Example:
        >>> family("sgd_clip:0.1"), family("lion_clip_update"), family("adam")
        ('sgd', 'lion', 'adam')
    """
    found = _CLIPS.match(name)
    clips = found and (found["gradient"] or found["update"])
    return found["base"] if found and clips else name


def clipped(name: str) -> tuple[bool, bool]:
    """Whether an optimizer's gradient is clipped, and whether its update is."""
    found = _CLIPS.match(name)
    return (bool(found["gradient"]), bool(found["update"])) if found else (False, False)


def label(name: str) -> str:
    """A name as tables and legends print it; one that is not `like_this` stays as it is.

    Example:
        >>> label("normalized_sgd_clip"), label("sgd_clip:0.1"), label("My net, lr=0.1")
        ('Normalized SGD, clipped', 'SGD, clipped 10 %', 'My net, lr=0.1')
    """
    base = family(name)
    said = base
    if re.fullmatch("[a-z][a-z0-9_]*", base):
        said = " ".join(_WORDS.get(word, word) for word in base.split("_"))
        said = said[0].upper() + said[1:]
    gradient, update = clipped(name)
    if gradient or update:
        what = f"{'gradient and ' * gradient}update clipped" if update else "clipped"
        said += f", {what}{_fraction(name)}"
    return said


def _fraction(name: str) -> str:
    _, _, text = name.rpartition(":") if ":" in name else ("", "", "")
    try:
        return f" {100 * float(text):g} %"
    except ValueError:
        return f" {text}" if text else ""


class Style:
    """Colours, lines and markers of a set of optimizers, no two of them alike.

    Make one of all names that several figures show, so that the figures agree.

    Example:
        >>> style = Style(["sgd", "sgd_clip", "lion"])
        >>> style.colour("sgd") == style.colour("sgd_clip") != style.colour("lion")
        True
    """

    def __init__(self, names: Iterable[str]):
        self.names = tuple(dict.fromkeys(names))
        others = sorted({family(n) for n in self.names} - {*COLOURS})
        looks = zip(others, _looks(), strict=False)
        self._looks = {f: (c, "") for f, c in COLOURS.items()} | dict(looks)
        self._dashes: dict[str, Any] = {}
        seen: dict[tuple, int] = {}
        for name in sorted(self.names):
            kind = family(name), clipped(name)
            repeat = seen[kind] = seen.get(kind, -1) + 1
            self._dashes[name] = _longer(_DASHES[kind[1]], repeat)

    def colour(self, name: str) -> str:
        """Its family's; `NEUTRAL` for a name that is none of the style's."""
        return self._looks.get(family(name), (NEUTRAL, ""))[0]

    def marker(self, name: str) -> str:
        """The marker that tells families of one colour apart; empty while colours suffice."""
        return self._looks.get(family(name), (NEUTRAL, ""))[1]

    def line(self, name: str, points: int = 0) -> dict[str, Any]:
        """Keywords of `Axes.plot` for a line of so many points, where markers would crowd."""
        look = {"color": self.colour(name), "linestyle": self._dashes.get(name, "-")}
        if marker := self.marker(name):
            look |= {"marker": marker, "markersize": 4.5}
            if points > 20:
                step = points // 7
                look["markevery"] = (_number(name) % step, step)
        return look

    def dot(self, name: str, marker: str = "o") -> dict[str, Any]:
        """Keywords of `Axes.plot` for one filled marker."""
        return {"marker": marker, "color": self.colour(name), "linestyle": ""}

    def hollow(self, name: str, marker: str) -> dict[str, Any]:
        """Keywords of `Axes.plot` for one marker with an edge only."""
        edge = {"markeredgecolor": self.colour(name), "markeredgewidth": 1.3}
        return {"marker": marker, "markersize": 6, "markerfacecolor": "white", "ls": "", **edge}

    def ordered(self, names: Iterable[str]) -> list[str]:
        """Families together, the paper's first, each before its clipped forms."""
        families = list(self._looks)
        rank = {f: i for i, f in enumerate(families)}
        return sorted(set(names), key=lambda n: (rank.get(family(n), len(rank)), n))


def _number(name: str) -> int:
    """A number from a name, the same in every process, which `hash` is not."""
    return sum(i * ord(letter) for i, letter in enumerate(name, start=1))


def _looks() -> Iterator[tuple[str, str]]:
    """(colour, marker) without end and without repeats; letters when the shapes are used up."""
    yield from ((colour, "") for colour in MORE_COLOURS)
    letters = (f"${n}$" for n in itertools.count(1))
    for marker in itertools.chain(_MARKERS, letters):
        yield from ((colour, marker) for colour in _EVERYTHING)


def _longer(dashes: Any, repeat: int) -> Any:
    """The dashes of a family's second, third … form of one kind; a solid line has one form."""
    if isinstance(dashes, str) or not repeat:
        return dashes
    start, lengths = dashes
    return start, (lengths[0] + 3 * repeat, *lengths[1:])
