"""The embedded corpus, against a checker that parses its sentences with rules of its own."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest

from experiments.data import lexicon
from experiments.data.embedded import pairs, paragraphs

SAMPLE = 10_240
VOWELS = "aàâeéèêiîïoôuûœh"
# Determiner: genders, numbers, and whether a vowel sound follows (None: either).
DETERMINERS = {
    "le": ("m", "s", False), "la": ("f", "s", False), "l'": ("mf", "s", True),
    "les": ("mf", "p", None), "un": ("m", "s", None), "une": ("f", "s", None),
    "des": ("mf", "p", None), "du": ("m", "s", False), "au": ("m", "s", False),
    "aux": ("mf", "p", None), "ce": ("m", "s", False), "cet": ("m", "s", True),
    "cette": ("f", "s", None), "ces": ("mf", "p", None), "plusieurs": ("mf", "p", None),
    **dict.fromkeys(("mon", "ton", "son"), ("m", "s", None)),
    **dict.fromkeys(("notre", "votre", "leur"), ("mf", "s", None)),
    **dict.fromkeys(("ma", "ta", "sa"), ("f", "s", False)),
    **dict.fromkeys(("mes", "tes", "ses", "nos", "vos", "leurs", "deux", "trois",
       "quatre", "cinq", "six", "dix", "huit", "onze"), ("mf", "p", None)),
}  # fmt: skip
TIMES = {"soir": "m", "matin": "m", "nuit": "f", "dimanche": "m"}
ETRE = ("suis", "es", "est", "sommes", "êtes", "sont")
AVOIR = ("ai", "as", "a", "avons", "avez", "ont")
ENDINGS = ("ais", "ais", "ait", "ions", "iez", "aient")
PERSONS = {
    "je": 0,
    "j'": 0,
    "tu": 1,
    "il": 2,
    "elle": 2,
    "nous": 3,
    "vous": 4,
    "ils": 5,
    "elles": 5,
}


def _tables():
    nouns, adjectives, before, forms, aspired = {}, {}, set(), {}, {"huit", "onze"}
    for table in ("PEOPLE", "ANIMALS", "THINGS", "FOODS", "PLACES"):
        for noun in getattr(lexicon, table):
            for number, form in zip("sp", noun.fr, strict=True):
                nouns.setdefault(form.strip("*"), set()).add((noun.gender, number))
                aspired |= {form.strip("*")} if form[0] == "*" else set()
    nouns |= {word: {(gender, "s")} for word, gender in TIMES.items()}
    for table in ("BEFORE", "AFTER"):
        for adjective in getattr(lexicon, table):
            words = [(form, gender, number) for gender in "mf"
                     for number, form in zip("sp", adjective.fr[gender], strict=True)]  # fmt: skip
            for form, gender, number in [*words, (adjective.liaison, "m", "s")]:
                adjectives.setdefault(form.strip("*"), set()).add((gender, number))
                aspired |= {form.strip("*")} if form[0] == "*" else set()
                before |= {form.strip("*")} if table == "BEFORE" else set()
    verbs = [
        v for table in ("TRANSITIVE", "DATIVE", "INTRANSITIVE") for v in getattr(lexicon, table)
    ]
    for person in range(6):
        present = {verb.present[person].strip("*") for verb in verbs}
        aspired |= {form for form in present if form.startswith("ha")}
        present |= {forms[person] for forms in (ETRE, AVOIR)}
        present |= {modal[person] for modal in lexicon.MODALS.values()}
        forms[person] = present
    aspired |= {"haïr", "haï", "haïssais", "haïssait", "haïssions", "haïssiez", "haïssaient"}
    return nouns, adjectives, before, forms, aspired


NOUNS, ADJECTIVES, BEFORE, FORMS, ASPIRED = _tables()


def _french_words(text):
    text = re.sub(r"(pommes?) de (terre)", r"\1_de_\2", text.lower())
    return re.findall(r"\w+'|[\w-]+|[.,?]", text)


def _vowel(word):
    return word[0] in VOWELS and word not in ASPIRED


def _noun_phrases(words):
    """(start, end, gender, number) of each determiner + adjectives + noun + adjective."""
    for start, word in enumerate(words):
        if word not in DETERMINERS:
            continue
        genders, numbers, vowel = DETERMINERS[word]
        assert vowel is None or vowel == _vowel(words[start + 1]), words[start : start + 2]
        fits = {(gender, number) for gender in genders for number in numbers}
        if word in ("mon", "ton", "son"):
            fits |= {("f", "s")} if _vowel(words[start + 1]) else set()
        end = start + 1
        while words[end] in BEFORE:
            fits &= ADJECTIVES[words[end]]
            end += 1
        assert words[end] in NOUNS, words[start : end + 1]
        fits &= NOUNS[words[end]]
        assert fits, words[start : end + 1]
        previous = words[end - 1]
        if _vowel(words[end]) and ("m", "s") in fits:
            assert previous not in ("beau", "nouveau", "vieux"), words[start : end + 1]
        elif previous in ("bel", "nouvel", "vieil"):
            raise AssertionError(words[start : end + 1])
        end += 1
        if words[end] in ADJECTIVES:
            fits &= ADJECTIVES[words[end]]
            assert fits, words[start : end + 1]
            end += 1
        yield start, end, {gender for gender, _ in fits}, {number for _, number in fits}


def _is_form(word, person):
    return word in FORMS[person] or word.endswith(ENDINGS[person])


@pytest.fixture(scope="module")
def sample():
    return pairs(SAMPLE)


def test_pairs_are_distinct_and_neither_empty_nor_unfinished(sample):
    assert len(sample) == len(set(sample)) == SAMPLE
    assert all(re.fullmatch(r"[A-Z][A-Za-z', ]+[.?]", en) for en, _ in sample)
    assert all(re.fullmatch(r"[A-ZÀÉÊŒ][a-zA-Zàâçéèêëîïôûùœ', -]+(\.| \?)", fr) for _, fr in sample)
    assert all("  " not in en + fr for en, fr in sample)


def test_the_first_pairs_do_not_depend_on_the_count_and_the_seed_decides(sample):
    assert pairs(100) == sample[:100]
    assert pairs(0) == []
    assert pairs(20, seed=1) == pairs(25, seed=1)[:20] != sample[:20]
    assert paragraphs(20) == paragraphs(30)[:20] != paragraphs(20, seed=-1)


def test_french_noun_phrases_agree(sample):
    assert sum(len(list(_noun_phrases(_french_words(fr)))) for _, fr in sample) > 2 * SAMPLE


def test_french_elides_and_contracts(sample):
    for _, fr in sample:
        words = _french_words(fr)
        for word, following in itertools.pairwise(words):
            if word in ("le", "la", "je", "ne", "de", "que"):
                assert not (_vowel(following) or following == "y"), fr
            if word.endswith("'"):
                assert _vowel(following) or following == "y", fr
            assert (word, following) not in {(a, b) for a in ("de", "à") for b in ("le", "les")}, fr


def test_french_verbs_agree_with_their_subject(sample):
    pronouns = phrases = 0
    for _, fr in sample:
        words = _french_words(fr)
        for word, *rest in zip(words, words[1:], words[2:], strict=False):
            if word in PERSONS:
                verb = rest[1] if rest[0] in ("ne", "n'") else rest[0]
                assert verb in ("y", "a", "avait") or _is_form(verb, PERSONS[word]), fr
                pronouns += 1
        for start, end, _, numbers in _noun_phrases(words):
            verb = words[end + 1] if words[end] in ("ne", "n'") else words[end]
            if start == 0 and any(verb in forms for forms in FORMS.values()):
                assert any(_is_form(verb, 2 if number == "s" else 5) for number in numbers), fr
                phrases += 1
    assert min(pronouns, phrases) > SAMPLE / 10


def test_french_predicates_and_participles_agree(sample):
    checked = 0
    for _, fr in sample:
        words = _french_words(fr)
        for pronoun, verb, word in zip(words, words[1:], words[2:], strict=False):
            if pronoun in ("il", "elle", "ils", "elles") and verb in ("est", "sont", "était"):
                gender, number = (
                    "f" if "elle" in pronoun else "m",
                    "p" if pronoun[-1] == "s" else "s",
                )
                if word in ADJECTIVES:
                    assert (gender, number) in ADJECTIVES[word], fr
                    checked += 1
                elif re.match("(rest|arriv|tomb|retourn|mort)", word):
                    ending = {"ms": "", "fs": "e", "mp": "s", "fp": "es"}[gender + number]
                    assert re.fullmatch(f"((rest|arriv|tomb|retourn)é|mort){ending}", word), fr
                    checked += 1
    assert checked > 100


def test_french_predicates_of_two_nouns_are_feminine_only_where_both_are(sample):
    checked = 0
    for _, fr in sample:
        words = _french_words(fr)
        phrases = list(_noun_phrases(words))[:2]
        if len(phrases) < 2 or phrases[0][0] > 0 or words[phrases[0][1]] != "et":
            continue
        (_, end, first, _), (start, after, second, _) = phrases
        rest = [word for word in words[after:] if word not in ("ne", "n'", "pas", "jamais", "plus")]
        if start == end + 1 and rest[0] in ("sont", "étaient") and rest[1] in ADJECTIVES:
            gender = "f" if first == second == {"f"} else "m"
            assert (gender, "p") in ADJECTIVES[rest[1]], fr
            checked += 1
    assert checked > 20


def test_french_negation_has_both_parts_and_de_for_the_indefinite_object(sample):
    negated = 0
    for en, fr in sample:
        words = _french_words(fr)
        before = sum(word in ("ne", "n'") for word in words)
        assert before == sum(word in ("pas", "jamais", "plus") for word in words), fr
        assert before == len(re.findall(r"\b(not|cannot|never|no longer)\b", en)), (en, fr)
        negated += before
    assert negated > SAMPLE / 4
    assert not any(re.search(r"n'y (a|avait) pas (un|une|des) ", fr) for _, fr in sample)
    assert any(re.search(r"\bpas d'", fr) for _, fr in sample)


def test_english_articles_numbers_and_verbs(sample):
    nouns = [noun.en for table in ("PEOPLE", "ANIMALS", "THINGS", "FOODS", "PLACES")
             for noun in getattr(lexicon, table)]  # fmt: skip
    singular, plural = ({pair[i] for pair in nouns} for i in (0, 1))
    verbs = [
        v for table in ("TRANSITIVE", "DATIVE", "INTRANSITIVE") for v in getattr(lexicon, table)
    ]
    bases, thirds, _ = ({form.split("_")[0] for form in forms} for forms in
                        zip(*(verb.en for verb in verbs), strict=True))  # fmt: skip
    adverbs = {
        "often",
        "always",
        "sometimes",
        "rarely",
        "really",
        "secretly",
        "never",
        "no",
        "longer",
    }
    consonant_sound = {"uniform", "useful", "unique", "university", "European"}
    silent_h = {"honest", "heir"}
    for en, _ in sample:
        words = re.findall(r"[\w]+", en)
        for article, word in itertools.pairwise(words):
            vowel = (word[0].lower() in "aeiou" and word not in consonant_sound) or word in silent_h
            assert article not in ("a", "A") or not vowel, en
            assert article not in ("an", "An") or vowel, en
            if article.lower() in ("this", "a", "an"):
                assert word not in plural - singular, en
            if article.lower() in ("these", "two", "three", "many", "several", "any", "some"):
                assert word not in singular - plural, en
        plain = [word for word in words if word not in adverbs]
        for subject, verb in itertools.pairwise(plain):
            if subject in ("he", "she", "it", "He", "She"):
                assert verb not in (bases - thirds) | {"are", "am", "were", "do", "want"} or (
                    verb in {v.en[2] for v in verbs} or en.endswith("?")
                ), en
            if subject in ("I", "we", "they", "We", "They"):
                assert verb not in thirds | {"is", "does", "wants"}, en
        for match in re.finditer(r"\b(does|do|did|must|can) not (\w+)(?: (\w+))?", en):
            verb = match[3] if match[2] in adverbs else match[2]
            assert verb in bases | {"use", "want"}, en


def test_inflections_by_hand():
    adjectives = {a.en: a for a in (*lexicon.BEFORE, *lexicon.AFTER)}
    gold = {
        "old": ("vieux", "vieux", "vieille", "vieilles", "vieil"),
        "beautiful": ("beau", "beaux", "belle", "belles", "bel"),
        "new": ("nouveau", "nouveaux", "nouvelle", "nouvelles", "nouvel"),
        "good": ("bon", "bons", "bonne", "bonnes", "bon"),
        "happy": ("heureux", "heureux", "heureuse", "heureuses", "heureux"),
        "light": ("léger", "légers", "légère", "légères", "léger"),
        "active": ("actif", "actifs", "active", "actives", "actif"),
        "loyal": ("loyal", "loyaux", "loyale", "loyales", "loyal"),
        "blue": ("bleu", "bleus", "bleue", "bleues", "bleu"),
        "white": ("blanc", "blancs", "blanche", "blanches", "blanc"),
        "cruel": ("cruel", "cruels", "cruelle", "cruelles", "cruel"),
        "Italian": ("italien", "italiens", "italienne", "italiennes", "italien"),
        "red": ("rouge", "rouges", "rouge", "rouges", "rouge"),
        "wide": ("large", "larges", "large", "larges", "large"),
    }
    for english, forms in gold.items():
        adjective = adjectives[english]
        assert (*adjective.fr["m"], *adjective.fr["f"], adjective.liaison) == forms
    nouns = {noun.en[0]: noun for noun in (*lexicon.PEOPLE, *lexicon.ANIMALS, *lexicon.THINGS,
             *lexicon.FOODS, *lexicon.PLACES)}  # fmt: skip
    for english, plurals in {
        "child": ("children", "enfants"), "horse": ("horses", "chevaux"), "son": ("sons", "fils"),
        "bird": ("birds", "oiseaux"), "city": ("cities", "villes"), "key": ("keys", "clefs"),
        "box": ("boxes", "boîtes"), "jewel": ("jewels", "bijoux"), "mouse": ("mice", "souris"),
        "watch": ("watches", "montres"), "newspaper": ("newspapers", "journaux"),
    }.items():  # fmt: skip
        assert (nouns[english].en[1], nouns[english].fr[1]) == plurals
    verbs = {v.en[0]: v for table in ("TRANSITIVE", "INTRANSITIVE", "DATIVE")
             for v in getattr(lexicon, table)}  # fmt: skip
    eat, finish, sell = verbs["eat"], verbs["finish"], verbs["sell"]
    assert eat.present == ("mange", "manges", "mange", "mangeons", "mangez", "mangent")
    assert finish.present == ("finis", "finis", "finit", "finissons", "finissez", "finissent")
    assert sell.present == ("vends", "vends", "vend", "vendons", "vendez", "vendent")
    assert [verb.participle for verb in (eat, finish, sell)] == ["mangé", "fini", "vendu"]
    imperfect = [lexicon.imperfect(eat.present[3], person) for person in range(6)]
    assert imperfect == ["mangeais", "mangeais", "mangeait", "mangions", "mangiez", "mangeaient"]
    assert lexicon.imperfect(verbs["move"].present[3], 2) == "déplaçait"
    assert lexicon.imperfect(verbs["move"].present[3], 3) == "déplacions"
    assert verbs["study"].en == ("study", "studies", "studied")
    assert verbs["look_for"].en == ("look_for", "looks_for", "looked_for")


@pytest.mark.parametrize("side", [0, 1])
def test_words_follow_zipfs_law(sample, side):
    """Frequency against rank, on log axes from rank 6 to 300: a slope between −1.25 and −0.85."""
    words = Counter(word for pair in sample for word in re.findall(r"\w+", pair[side].lower()))
    counts = np.sort(list(words.values()))[::-1]
    assert len(counts) > 600
    slope = np.polyfit(np.log(np.arange(6, 301)), np.log(counts[5:300]), 1)[0]
    assert -1.25 < slope < -0.85


def test_paragraphs_are_distinct_and_hold_three_to_six_sentences():
    found = paragraphs(500)
    assert len(set(found)) == 500
    assert {len(re.findall(r"[.?]( |$)", text)) for text in found} == {3, 4, 5, 6}
