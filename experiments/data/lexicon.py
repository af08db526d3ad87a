"""The lexicon of the embedded corpus, English beside French, and the inflection of its words.

The words are in words.toml, which says how they are written.
"""

import re
import tomllib
from bisect import bisect
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

_WORDS = tomllib.loads((Path(__file__).parent / "words.toml").read_text(encoding="utf-8"))
ETRE, AVOIR = _WORDS["etre"].split(), _WORDS["avoir"].split()
MODALS = {name: _WORDS[name].split() for name in ("can", "must", "want")}


class Noun(NamedTuple):
    en: tuple[str, str]  # Singular, plural.
    fr: tuple[str, str]
    gender: str  # "m" or "f".
    kind: str  # "a" person, "c" creature, "t" thing, "r" readable thing, "f" food, "p" place.


class Adjective(NamedTuple):
    en: str
    fr: dict[str, tuple[str, str]]  # By gender: singular, plural.
    liaison: str  # The masculine singular before a vowel: vieil, bel, nouvel.


class Verb(NamedTuple):
    en: tuple[str, str, str]  # Base, third person singular, past.
    infinitive: str
    present: tuple[str, ...]  # je, tu, il, nous, vous, ils.
    participle: str
    etre: bool  # Whether être is the auxiliary.
    objects: str  # The kinds of noun it takes.


class Phrase(NamedTuple):
    en: str
    fr: str
    person: int  # 0 to 5: je, tu, il, nous, vous, ils.
    gender: str
    noun: Noun | None  # None for a pronoun or a name.


class Zipf(tuple):
    """A table in order of rank; `draw` takes the word of rank r with probability ∝ 1/(r + 1)."""

    def draw(self, rng):
        bounds = _zipf_bounds(len(self))
        return self[bisect(bounds, rng.random() * bounds[-1])]


@cache
def _zipf_bounds(size: int) -> list[float]:
    return list(accumulate(1 / (rank + 1) for rank in range(size)))


def _english_s(word: str) -> str:
    """Plural of a regular noun, third person of a regular verb."""
    head, *tail = word.split("_")
    if re.search(r"[^aeiou]y$", head):
        head = head[:-1] + "ies"
    else:
        head += "es" if re.search(r"(s|x|z|ch|sh)$", head) else "s"
    return "_".join([head, *tail])


def _english_past(word: str) -> str:
    head, *tail = word.split("_")
    if re.search(r"[^aeiou]y$", head):
        head = head[:-1] + "i"
    return "_".join([head + ("d" if head.endswith("e") else "ed"), *tail])


def _french_plural(word: str) -> str:
    if word[-1] in "sxz":
        return word
    if word.endswith("al"):
        return word[:-1] + "ux"
    return word + ("x" if word.endswith("eau") else "s")


def _feminine(word: str) -> str:
    for ending, feminine in (
        ("e", "e"), ("eux", "euse"), ("er", "ère"), ("if", "ive"),
        ("el", "elle"), ("en", "enne"), ("on", "onne"),
    ):  # fmt: skip
        if word.endswith(ending):
            return word.removesuffix(ending) + feminine
    return word + "e"


def _nouns(table: str, kind: str) -> Iterator[Noun]:
    for entry in _WORDS[table].split(","):
        en, fr, gender = entry.split()
        en, fr = (en.split("/"), fr.split("/"))
        plurals = (en[1:] or [_english_s(en[0])]) + (fr[1:] or [_french_plural(fr[0])])
        readable = en[0] in ("book", "letter", "newspaper", "poem", "story", "notebook", "map")
        yield Noun((en[0], plurals[0]), (fr[0], plurals[1]), gender, "r" if readable else kind)


def _adjectives(table: str) -> Iterator[Adjective]:
    for entry in _WORDS[table].split(","):
        en, fr = entry.split()
        masculine, *other = fr.split("/")
        feminine = other[0] if other else _feminine(masculine)
        forms = {"m": (masculine, _french_plural(masculine)), "f": (feminine, feminine + "s")}
        yield Adjective(en, forms, other[1] if len(other) > 1 else masculine)


def _conjugate(infinitive: str) -> tuple[str, ...]:
    """Present tense and past participle of a regular verb in -er, -ir (like finir) or -re."""
    stem, ending = infinitive[:-2], infinitive[-2:]
    if ending == "ir":
        return (*(stem + e for e in ["is", "is", "it", "issons", "issez", "issent", "i"]),)
    if ending == "re":
        return (*(stem + e for e in ["s", "s", "", "ons", "ez", "ent", "u"]),)
    soft = stem + "e" if stem[-1] == "g" else stem[:-1] + "ç" if stem[-1] == "c" else stem
    endings = ("e", "es", "e", "ez", "ent", "é")
    forms = [stem + e for e in endings]
    return (*forms[:3], soft + "ons", *forms[3:])


def _verbs(table: str, objects: str) -> Iterator[Verb]:
    for entry in _WORDS[table].split(";"):
        en, fr, *rest = entry.split()
        base, _, past = en.partition("/")
        infinitive = fr.removeprefix("+")
        kinds = rest.pop(0) if rest and "," not in rest[0] else objects
        *present, participle = rest[0].split(",") if rest else _conjugate(infinitive)
        english = (base, _english_s(base), past or _english_past(base))
        yield Verb(english, infinitive, tuple(present), participle, fr[0] == "+", kinds)


def _words(table: str) -> Zipf:
    return Zipf(tuple(entry.split()) for entry in _WORDS[table].split(","))


PEOPLE = Zipf(_nouns("people", "a"))
ANIMALS = Zipf(_nouns("animals", "c"))
THINGS, FOODS = Zipf(_nouns("things", "t")), Zipf(_nouns("foods", "f"))
READABLE = Zipf(noun for noun in THINGS if noun.kind == "r")
PLACES = Zipf(_nouns("places", "p"))
OBJECTS = {"a": PEOPLE, "t": THINGS, "r": READABLE, "f": FOODS, "p": PLACES}
BEFORE, AFTER = Zipf(_adjectives("before")), Zipf(_adjectives("after"))
TRANSITIVE, DATIVE = Zipf(_verbs("transitive", "t")), Zipf(_verbs("dative", "tf"))
INTRANSITIVE = Zipf(_verbs("intransitive", ""))
NAMES, NUMBERS, ADVERBS = _words("names"), _words("numbers"), _words("adverbs")
PREPOSITIONS, TIMES = _words("prepositions"), _words("times")
PREDICATES = Zipf((*BEFORE[:8], *AFTER))


# Verb groups and pronouns -------------------------------------------------------------------------


class Group(NamedTuple):
    """A finite verb: English `auxiliary main`, or `plain` where do-support is not needed."""

    auxiliary: str
    main: str
    plain: str  # Empty: the auxiliary always shows.
    finite: str  # French.
    rest: str = ""  # French infinitive or participle.


def imperfect(first_plural: str, person: int) -> str:
    stem = first_plural[:-3]
    ending = ("ais", "ais", "ait", "ions", "iez", "aient")[person]
    if ending[0] == "i":
        stem = re.sub("ge$", "g", stem).replace("ç", "c")
    return stem + ending


def verb_group(verb: Verb, subject: Phrase, tense: str) -> Group:
    person = subject.person
    base, third, past = verb.en
    auxiliary, plain = ("does", third) if person == 2 else ("do", base)
    if tense == "present":
        return Group(auxiliary, base, plain, verb.present[person])
    if tense == "imperfect":
        finite = imperfect(verb.present[3], person)
        return Group("did", f"use to {base}", f"used to {base}", finite)
    if tense == "past":
        participle = verb.participle
        if verb.etre:
            participle += "e" * (subject.gender == "f") + "s" * (person > 2)
        return Group("did", base, past, (ETRE if verb.etre else AVOIR)[person], participle)
    finite = MODALS[tense][person]
    if tense == "want":
        plain = f"wants to {base}" if person == 2 else f"want to {base}"
        return Group(auxiliary, f"want to {base}", plain, finite, verb.infinitive)
    return Group(tense, base, "", finite, verb.infinitive)


def be(subject: Phrase, tense: str) -> Group:
    person = subject.person
    if tense == "present":
        english = "am" if person == 0 else "is" if person == 2 else "are"
        return Group(english, "", "", ETRE[person])
    return Group("was" if person in (0, 2) else "were", "", "", imperfect("étons", person))


def pronoun_of(person: int, gender: str, human: bool = True) -> Phrase:
    feminine = gender == "f"
    third = ("she" if feminine else "he") if human else "it"
    english = ("I", "you", third, "we", "you", "they")[person]
    il = "elle" if feminine else "il"
    french = ("je", "tu", il, "nous", "vous", f"{il}s")
    return Phrase(english, french[person], person, gender, None)
