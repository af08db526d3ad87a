"""The embedded corpus: a seeded English-French grammar, so that the demo needs no download.

Sentences are made, not quoted: a lexicon drawn by Zipf's law fills a dozen patterns, and both sides
agree the way the languages want it (gender, number, person, elision, contraction, do-support).
"""

import random
import re

from experiments.data.lexicon import (
    ADVERBS,
    AFTER,
    ANIMALS,
    BEFORE,
    DATIVE,
    FOODS,
    INTRANSITIVE,
    MODALS,
    NAMES,
    NUMBERS,
    OBJECTS,
    PEOPLE,
    PREDICATES,
    PREPOSITIONS,
    THINGS,
    TIMES,
    TRANSITIVE,
    Phrase,
    Verb,
    Zipf,
    be,
    pronoun_of,
    verb_group,
)

OWNERS = (("my", "m"), ("your", "t"), ("his", "s"), ("her", "s"), ("our", "n"), ("your", "v"),
          ("their", "leur"))  # fmt: skip
VOWEL = "[aàâeéèêëiîïoôuùûœhAEIO]"
_DETERMINERS = Zipf(["the", "a", "possessive", "genitive", "this", "number", "many"])


class _Grammar:
    """The sentences of one seed, in order. Every choice is one call of `random.Random.random`."""

    def __init__(self, seed: str):
        self.rng = random.Random(seed)

    def chance(self, probability):
        return self.rng.random() < probability

    def choose(self, *options):
        return options[int(self.rng.random() * len(options))]

    def noun_phrase(self, noun, determiner=None, negated=False) -> Phrase:
        """Determiner, adjectives, noun. Objects of a `negated` clause have "de" for "un", "des"."""
        kind = determiner or _DETERMINERS.draw(self.rng)
        plural = kind in ("number", "many") or self.chance(0.3)
        en, fr, gender = noun.en[plural], noun.fr[plural], noun.gender
        if self.chance(0.3):
            adjective = AFTER.draw(self.rng)
            en, fr = f"{adjective.en} {en}", f"{fr} {adjective.fr[gender][plural]}"
        before = self.chance(0.25)
        if before:
            adjective = BEFORE.draw(self.rng)
            liaison = gender == "m" and not plural and re.match(VOWEL, fr)
            form = adjective.liaison if liaison else adjective.fr[gender][plural]
            en, fr = f"{adjective.en} {en}", f"{form} {fr}"
        vowel = re.match(VOWEL, fr) is not None
        masculine = gender == "m" or vowel
        article = "les" if plural else "le" if gender == "m" else "la"
        if kind == "a":
            english = ("any" if negated else "some") if plural else "a"
            indefinite = ("de" if before else "des") if plural else "un" if gender == "m" else "une"
            en, fr = f"{english} {en}", f"{'de' if negated else indefinite} {fr}"
        elif kind == "possessive":
            english, stem = self.choose(*OWNERS)
            if stem == "leur":
                french = "leurs" if plural else "leur"
            elif stem in "nv":
                french = f"{stem}os" if plural else f"{stem}otre"
            else:
                french = stem + ("es" if plural else "on" if masculine else "a")
            en, fr = f"{english} {en}", f"{french} {fr}"
        elif kind == "genitive":
            owner = (
                self.noun_phrase(PEOPLE.draw(self.rng), "the") if self.chance(0.7) else self.name()
            )
            mark = "'" if owner.person == 5 and owner.en.endswith("s") else "'s"
            en, fr = f"{owner.en}{mark} {en}", f"{article} {fr} de {owner.fr}"
        elif kind == "this":
            french = "ces" if plural else "cette" if gender == "f" else "cet" if vowel else "ce"
            en, fr = f"{'these' if plural else 'this'} {en}", f"{french} {fr}"
        elif kind == "number":
            english, french = NUMBERS.draw(self.rng)
            en, fr = f"{english} {en}", f"{french} {fr}"
        elif kind == "many":
            english, french = self.choose(("many", "beaucoup_de"), ("several", "plusieurs"))
            en, fr = f"{english} {en}", f"{french} {fr}"
        else:
            en, fr = f"the {en}", f"{article} {fr}"
        return Phrase(en, fr, 5 if plural else 2, gender, noun)

    def name(self) -> Phrase:
        name, gender = NAMES.draw(self.rng)
        return Phrase(name, name, 2, gender, None)

    def animate(self):
        return (PEOPLE if self.chance(0.65) else ANIMALS).draw(self.rng)

    def subject(self) -> Phrase:
        roll = self.rng.random()
        if roll < 0.2:
            return pronoun_of(self.choose(0, 1, 2, 2, 3, 4, 5), self.choose("m", "f"))
        if roll < 0.32:
            return self.name()
        phrase = self.noun_phrase(self.animate())
        if roll < 0.38:
            other = self.noun_phrase(self.animate())
            gender = "f" if phrase.gender == other.gender == "f" else "m"
            return Phrase(
                f"{phrase.en} and {other.en}", f"{phrase.fr} et {other.fr}", 5, gender, None
            )
        return self.relative(phrase) if self.chance(0.12) else phrase

    def relative(self, phrase: Phrase) -> Phrase:
        """The phrase with a relative clause, whose subject (qui) or object (que) it is."""
        noun, tense = phrase.noun, self.choose("present", "imperfect")
        verbs = [v for v in (TRANSITIVE.draw(self.rng) for _ in range(4)) if noun.kind in v.objects]
        if verbs and (noun.kind not in "ac" or self.chance(0.4)):
            doer = self.noun_phrase(self.animate(), "the")
            group = verb_group(verbs[0], doer, tense)
            en, fr = f"that {doer.en} {group.plain}", f"que {doer.fr} {group.finite}"
        elif noun.kind in "ac":
            verb = TRANSITIVE.draw(self.rng)
            group, thing = verb_group(verb, phrase, tense), self.object(verb, False)
            en = f"{'who' if noun.kind == 'a' else 'that'} {group.plain} {thing.en}"
            fr = f"qui {group.finite} {thing.fr}"
        else:
            return phrase
        return phrase._replace(en=f"{phrase.en} {en}", fr=f"{phrase.fr} {fr}")

    def object(self, verb: Verb, negated: bool) -> Phrase:
        noun = OBJECTS[self.choose(*verb.objects)].draw(self.rng)
        return self.noun_phrase(noun, negated=negated)

    def place(self, *prepositions):
        en, fr, kinds = self.choose(*prepositions) if prepositions else PREPOSITIONS.draw(self.rng)
        phrase = self.noun_phrase(OBJECTS[self.choose(*kinds)].draw(self.rng))
        return f" {en} {phrase.en}", f" {fr} {phrase.fr}"

    def predicate(self, subject: Phrase, negated: bool):
        """A verb group for the subject, and what follows it in English and in French."""
        roll = self.rng.random()
        if roll < 0.2:
            group = be(subject, self.choose("present", "present", "past"))
            if self.chance(0.25):
                return group, *self.place(*PREPOSITIONS[:3])
            adjective = PREDICATES.draw(self.rng)
            en, fr = adjective.en, adjective.fr[subject.gender][subject.person > 2]
            if self.chance(0.2):
                other = self.noun_phrase(self.animate(), self.choose("the", "possessive", "this"))
                return group, f" as {en} as {other.en}", f" aussi {fr} que {other.fr}"
            return group, f" {en}", f" {fr}"
        tense = self.choose("present", "present", "present", "past", "past", "imperfect", *MODALS)
        if roll < 0.4:
            group = verb_group(INTRANSITIVE.draw(self.rng), subject, tense)
            return group, *(self.place() if self.chance(0.8) else ("", ""))
        verb = (DATIVE if roll < 0.5 else TRANSITIVE).draw(self.rng)
        group, thing = verb_group(verb, subject, tense), self.object(verb, negated)
        if roll < 0.5:
            receiver = self.noun_phrase(PEOPLE.draw(self.rng))
            return group, f" {thing.en} to {receiver.en}", f" {thing.fr} à {receiver.fr}"
        if self.chance(0.08):
            thing = self.relative(thing)
        en, fr = self.place() if self.chance(0.2) else ("", "")
        return group, f" {thing.en}{en}", f" {thing.fr}{fr}"

    def clause(self, subject: Phrase):
        polarity = self.choose("", "", "", "", "", "pas", "pas", "jamais", "plus")
        group, en, fr = self.predicate(subject, negated=polarity != "")
        adverb, adverbe = ADVERBS.draw(self.rng) if self.chance(0.12) else ("", "")
        if polarity in ("jamais", "plus"):
            adverb, adverbe = {"jamais": "never", "plus": "no longer"}[polarity], ""
        if polarity == "pas":
            english = (
                ("cannot" if group.auxiliary == "can" else f"{group.auxiliary} not"),
                adverb,
                group.main,
            )
        elif group.plain:
            english = adverb, group.plain
        else:
            english = group.auxiliary, adverb, group.main
        french = "ne" if polarity else "", group.finite, polarity, adverbe, group.rest
        return _join(subject.en, *english) + en, _join(subject.fr, *french) + fr

    def question(self, subject: Phrase):
        word, mot = self.choose(("", ""), ("", ""), ("why", "pourquoi"), ("when", "quand"))
        group, en, fr = self.predicate(subject, negated=False)
        english = _join(word, group.auxiliary, subject.en, group.main) + en
        return english, _join(mot, "est-ce_que", subject.fr, group.finite, group.rest) + fr

    def there_is(self):
        negated, past = self.chance(0.3), self.chance(0.3)
        table = self.choose(PEOPLE, ANIMALS, THINGS, FOODS)
        thing = self.noun_phrase(table.draw(self.rng), self.choose("a", "number"), negated)
        verb = be(thing, "past" if past else "present").auxiliary
        en, fr = self.place(*PREPOSITIONS[:3])
        verbe = "avait" if past else "a"
        french = f"il n'y {verbe} pas" if negated else f"il y {verbe}"
        return f"there {verb}{' not' * negated} {thing.en}{en}", f"{french} {thing.fr}{fr}"

    def sentence(self, subject: Phrase | None = None) -> tuple[str, str, Phrase | None]:
        """English, French, and a pronoun for the subject, should the next sentence want one."""
        roll = self.rng.random()
        if subject is None and roll < 0.07:
            en, fr = self.there_is()
            return _english(en + "."), _french(fr + "."), None
        subject = subject or self.subject()
        person = subject.noun is None or subject.noun.kind == "a"
        pronoun = pronoun_of(subject.person, subject.gender, person and subject.en != "it")
        if roll < 0.17:
            en, fr = self.question(subject)
            return _english(en + "?"), _french(fr + " ?"), pronoun
        en, fr = self.clause(subject)
        if roll < 0.4:
            word, mot = self.choose(
                ("and", "et"), ("but", "mais"), ("because", "parce_que"), ("when", "quand")
            )
            other = self.clause(pronoun if self.chance(0.5) else self.subject())
            en, fr = f"{en} {word} {other[0]}", f"{fr} {mot} {other[1]}"
        elif roll < 0.5:
            time, temps = TIMES.draw(self.rng)
            en, fr = f"{time}, {en}", f"{temps}, {fr}"
        return _english(en + "."), _french(fr + "."), pronoun


def _join(*words: str) -> str:
    return " ".join(word for word in words if word)


_AN = re.compile(r"\ba (?=(?!uni|use|eu)[aeiou]|hon|heir)", re.IGNORECASE)
_ELISION = re.compile(rf"(?<![^\s_])(l[ea]|[jnd]e|que) (?={VOWEL})")
_CONTRACTION = re.compile(r"(?<![^\s_])(de|à) (les?) ")
_CONTRACTED = {"de le": "du ", "de les": "des ", "à le": "au ", "à les": "aux "}


def _english(text: str) -> str:
    text = _AN.sub("an ", text).replace("_", " ")
    return text[0].upper() + text[1:]


def _french(text: str) -> str:
    text = _ELISION.sub(lambda match: match[1][:-1] + "'", text)
    text = _CONTRACTION.sub(lambda match: _CONTRACTED[f"{match[1]} {match[2]}"], text)
    text = text.replace("*", "").replace("_", " ")
    return text[0].upper() + text[1:]


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """The first `count` distinct (English, French) sentence pairs of a seed.

    Deterministic, and prefix-stable: the first pairs do not depend on `count`. About 30 µs a pair.
    """
    grammar, found = _Grammar(f"pairs {seed}"), {}
    while len(found) < count:
        en, fr, _ = grammar.sentence()
        found[en, fr] = None
    return list(found)


def paragraphs(count: int, seed: int = 0) -> list[str]:
    """The first `count` distinct English paragraphs of a seed: 3 to 6 sentences, one subject.

    Deterministic and prefix-stable like `pairs`.
    """
    grammar, found = _Grammar(f"paragraphs {seed}"), {}
    while len(found) < count:
        sentences, subject = [], None
        for _ in range(grammar.choose(3, 4, 5, 6)):
            en, _, pronoun = grammar.sentence(subject)
            sentences.append(en)
            subject = pronoun if grammar.chance(0.6) else None
        found[" ".join(sentences)] = None
    return list(found)
