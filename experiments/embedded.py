"""The embedded corpus: a seeded English-French grammar, so that the demo needs no download.

Sentences are made, not quoted: a lexicon drawn by Zipf's law fills a dozen patterns, and both sides
agree the way the languages want it (gender, number, person, elision, contraction, do-support).
French words marked `*` begin with an aspirated h (or behave so): nothing is elided before them.
"""

import random
import re
from bisect import bisect
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from typing import NamedTuple

PEOPLE = """man/men homme m, woman/women femme f, child/children enfant m, friend ami m, king roi m,
girl fille f, boy garçon m, mother mère f, father père m, neighbour voisin m, doctor médecin m,
queen reine f, teacher professeur m, sister sœur f, brother frère m, hero/heroes *héros m, student
étudiant m, daughter fille f, son fils m, soldier soldat m, uncle oncle m, aunt tante f, worker
ouvrier m, farmer fermier m, captain capitaine m, merchant marchand m, singer chanteuse f, lawyer
avocat m, actress actrice f, stranger étranger m, sailor marin m, writer écrivain m, painter peintre
m, guest invité m, heir héritier m, judge juge m, baker boulanger m, nurse infirmière f, prince
prince m, princess princesse f, thief/thieves voleur m, witness témoin m, enemy ennemi m, cousin
cousine f, servant servante f, engineer ingénieur m, giant géant m, dwarf nain m"""
ANIMALS = """dog chien m, cat chat m, horse cheval m, bird oiseau m, wolf/wolves loup m, cow vache
f, owl *hibou/*hiboux m, mouse/mice souris f, sheep/sheep mouton m, fox renard m, bear ours m, bee
abeille f, rabbit lapin m, goose/geese oie f, animal animal m, donkey âne m, lion lion m, hedgehog
*hérisson m, eagle aigle m, spider araignée f, monkey singe m, swallow hirondelle f"""
THINGS = """book livre m, letter lettre f, key clef f, hat chapeau m, picture image f, table table
f, box boîte f, watch montre f, chair chaise f, lamp lampe f, coat manteau m, flower fleur f, boat
bateau m, knife/knives couteau m, window fenêtre f, car voiture f, axe *hache f, newspaper journal
m, bag sac m, tree arbre m, umbrella parapluie m, stone pierre f, dress robe f, ring anneau m,
mirror miroir m, bed lit m, shoe chaussure f, jewel bijou/bijoux m, map carte f, glass verre m, bell
cloche f, instrument instrument m, painting tableau m, bottle bouteille f, sword épée f, drum
tambour m, toy jouet m, candle bougie f, scarf/scarves écharpe f, harp *harpe f, clock horloge f,
needle aiguille f, basket panier m, bridge pont m, tool outil m, song chanson f, story histoire f,
poem poème m, uniform uniforme m, crown couronne f, ladder échelle f, machine machine f, cart
chariot m, notebook cahier m, statue statue f, feather plume f, blanket couverture f, rope corde f,
nail clou m"""
FOODS = """apple pomme f, cake gâteau m, egg œuf m, soup soupe f, orange orange f, cheese fromage m,
potato/potatoes pomme_de_terre/pommes_de_terre f, onion oignon m, pear poire f, fish/fish poisson m,
bean *haricot m, cherry cerise f, carrot carotte f, salad salade f, meal repas m, olive olive f,
pineapple ananas m, strawberry fraise f, lobster *homard m, almond amande f, tart tarte f"""
PLACES = """house maison f, garden jardin m, city ville f, room chambre f, school école f, street
rue f, village village m, forest forêt f, church église f, kitchen cuisine f, station gare f, hotel
hôtel m, castle château m, river rivière f, island île f, field champ m, mountain montagne f, market
marché m, port port m, hospital hôpital m, office bureau m, library bibliothèque f, park parc m,
lake lac m, factory usine f, tower tour f, hall *hall m, square place f, theatre théâtre m, shop
boutique f, hamlet *hameau m, university université f, inn auberge f, valley vallée f, cave grotte
f, farm ferme f, palace palais m, bakery boulangerie f, court tribunal m, attic grenier m, prison
prison f, mill moulin m"""
BEFORE = """little petit, big grand, old vieux/vieille/vieil, beautiful beau/belle/bel, good bon,
new nouveau/nouvelle/nouvel, young jeune, bad mauvais, pretty joli, large gros/grosse, former
ancien, long long/longue, tall *haut, vast vaste, true vrai"""
AFTER = """black noir, white blanc/blanche, happy heureux, red rouge, strange étrange, empty vide,
sad triste, rich riche, green vert, heavy lourd, honest honnête, blue bleu, poor pauvre, dirty sale,
useful utile, tired fatigué, famous célèbre, quiet tranquille, open ouvert, dangerous dangereux,
expensive cher, light léger, cold froid, dry sec/sèche, grey gris, hungry affamé, round rond, royal
royal, odd bizarre, important important, simple simple, modern moderne, yellow jaune, soft
doux/douce, active actif, solid solide, curious curieux, proud fier, national national, foreign
étranger, elegant élégant, bold *hardi, ugly laid, weak faible, secret secret/secrète, unique
unique, clean propre, wide large, cruel cruel, public public/publique, Italian italien, European
européen, natural naturel, fresh frais/fraîche, loyal loyal, broken cassé, narrow étroit, ripe mûr,
silent silencieux, invisible invisible"""
# English[/past] infinitive [kinds of object] [present forms, participle].
TRANSITIVE = """see/saw voir atp vois,vois,voit,voyons,voyez,voient,vu; find/found trouver atf; love
aimer atfp; know/knew connaître ap connais,connais,connaît,connaissons,connaissez,connaissent,connu;
take/took prendre tf prends,prends,prend,prenons,prenez,prennent,pris; look_for chercher atp; watch
regarder at; eat/ate manger f; read/read lire r lis,lis,lit,lisons,lisez,lisent,lu; hear/heard
entendre a; wait_for attendre a; keep/kept garder t; lose/lost perdre t; carry porter tf; open
ouvrir t ouvre,ouvres,ouvre,ouvrons,ouvrez,ouvrent,ouvert; buy/bought acheter tf
achète,achètes,achète,achetons,achetez,achètent,acheté; help aider a; choose/chose choisir tf;
leave/left quitter ap; call appeler a appelle,appelles,appelle,appelons,appelez,appellent,appelé;
hate *haïr a *hais,*hais,*hait,*haïssons,*haïssez,*haïssent,*haï; draw/drew dessiner atp; visit
visiter p; build/built construire p
construis,construis,construit,construisons,construisez,construisent,construit; follow suivre a
suis,suis,suit,suivons,suivez,suivent,suivi; break/broke casser t; cross traverser p; hide/hid
cacher atf; wash laver atf; admire admirer atp; accept accepter t; paint peindre atp
peins,peins,peint,peignons,peignez,peignent,peint; describe décrire atp
décris,décris,décrit,décrivons,décrivez,décrivent,décrit; finish finir r; forget/forgot oublier atp;
cook préparer f; move déplacer t; share partager tf; avoid éviter ap; steal/stole voler tf; repair
réparer t; burn brûler t; touch toucher at; punish punir a; photograph photographier atp; study
étudier r; imitate imiter a; examine examiner at"""
DATIVE = """give/gave donner; show/showed montrer; send/sent envoyer
envoie,envoies,envoie,envoyons,envoyez,envoient,envoyé; lend/lent prêter; sell/sold vendre;
bring/brought apporter; offer offrir offre,offres,offre,offrons,offrez,offrent,offert"""
# `+`: the auxiliary is être, and the participle agrees with the subject.
INTRANSITIVE = """sleep/slept dormir dors,dors,dort,dormons,dormez,dorment,dormi; work travailler;
walk marcher; sing/sang chanter; stay +rester; arrive +arriver; talk parler; dance danser; cry
pleurer; play jouer; fall/fell +tomber; return +retourner; hesitate hésiter; wait attendre; laugh
rire ris,ris,rit,rions,riez,rient,ri; shout crier; swim/swam nager; dream rêver; die/died +mourir
meurs,meurs,meurt,mourons,mourez,meurent,mort"""
ADVERBS = """often souvent, always toujours, sometimes parfois, rarely rarement,
really vraiment, secretly secrètement"""
TIMES = {
    "in the evening": "le soir", "every day": "chaque jour", "in the morning": "le matin",
    "in summer": "en été", "in winter": "en hiver", "at night": "la nuit",
    "in autumn": "en automne", "on Sundays": "le dimanche", "in April": "en avril",
}  # fmt: skip
NAMES = "Paul m, Marie f, Alice f, Louis m, Julie f, Martin m, Emma f, Oscar m, Claire f, Adam m"
NUMBERS = (
    "two deux, three trois, four quatre, five cinq, six six, ten dix, eight *huit, eleven *onze"
)
PREPOSITIONS = """in dans p, near près_de pa, behind derrière pa, with avec a, in_front_of devant
pa, on sur t, under sous t, without sans a, for pour a"""

ETRE = "suis es est sommes êtes sont"
AVOIR = "ai as a avons avez ont"
MODALS = {
    "can": "peux,peux,peut,pouvons,pouvez,peuvent",
    "must": "dois,dois,doit,devons,devez,doivent",
    "want": "veux,veux,veut,voulons,voulez,veulent",
}
OWNERS = (("my", "m"), ("your", "t"), ("his", "s"), ("her", "s"), ("our", "n"), ("your", "v"),
          ("their", "leur"))  # fmt: skip
VOWEL = "[aàâeéèêëiîïoôuùûœhAEIO]"


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
    for entry in table.split(","):
        en, fr, gender = entry.split()
        en, fr = (en.split("/"), fr.split("/"))
        plurals = (en[1:] or [_english_s(en[0])]) + (fr[1:] or [_french_plural(fr[0])])
        readable = en[0] in ("book", "letter", "newspaper", "poem", "story", "notebook", "map")
        yield Noun((en[0], plurals[0]), (fr[0], plurals[1]), gender, "r" if readable else kind)


def _adjectives(table: str) -> Iterator[Adjective]:
    for entry in table.split(","):
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
    for entry in table.split(";"):
        en, fr, *rest = entry.split()
        base, _, past = en.partition("/")
        infinitive = fr.removeprefix("+")
        kinds = rest.pop(0) if rest and "," not in rest[0] else objects
        *present, participle = rest[0].split(",") if rest else _conjugate(infinitive)
        english = (base, _english_s(base), past or _english_past(base))
        yield Verb(english, infinitive, tuple(present), participle, fr[0] == "+", kinds)


def _words(table: str) -> Zipf:
    return Zipf(tuple(entry.split()) for entry in table.split(","))


_PEOPLE = Zipf(_nouns(PEOPLE, "a"))
_ANIMALS = Zipf(_nouns(ANIMALS, "c"))
_THINGS, _FOODS = Zipf(_nouns(THINGS, "t")), Zipf(_nouns(FOODS, "f"))
_READABLE = Zipf(noun for noun in _THINGS if noun.kind == "r")
_PLACES = Zipf(_nouns(PLACES, "p"))
_OBJECTS = {"a": _PEOPLE, "t": _THINGS, "r": _READABLE, "f": _FOODS, "p": _PLACES}
_BEFORE, _AFTER = Zipf(_adjectives(BEFORE)), Zipf(_adjectives(AFTER))
_TRANSITIVE, _DATIVE = Zipf(_verbs(TRANSITIVE, "t")), Zipf(_verbs(DATIVE, "tf"))
_INTRANSITIVE = Zipf(_verbs(INTRANSITIVE, ""))
_NAMES, _NUMBERS, _ADVERBS = _words(NAMES), _words(NUMBERS), _words(ADVERBS)
_PREPOSITIONS, _TIMES = _words(PREPOSITIONS), Zipf(TIMES.items())
_PREDICATES = Zipf((*_BEFORE[:8], *_AFTER))
_DETERMINERS = Zipf(["the", "a", "possessive", "genitive", "this", "number", "many"])


class _Group(NamedTuple):
    """A finite verb: English `auxiliary main`, or `plain` where do-support is not needed."""

    auxiliary: str
    main: str
    plain: str  # Empty: the auxiliary always shows.
    finite: str  # French.
    rest: str = ""  # French infinitive or participle.


def _imperfect(first_plural: str, person: int) -> str:
    stem = first_plural[:-3]
    ending = ("ais", "ais", "ait", "ions", "iez", "aient")[person]
    if ending[0] == "i":
        stem = re.sub("ge$", "g", stem).replace("ç", "c")
    return stem + ending


def _group(verb: Verb, subject: Phrase, tense: str) -> _Group:
    person = subject.person
    base, third, past = verb.en
    auxiliary, plain = ("does", third) if person == 2 else ("do", base)
    if tense == "present":
        return _Group(auxiliary, base, plain, verb.present[person])
    if tense == "imperfect":
        finite = _imperfect(verb.present[3], person)
        return _Group("did", f"use to {base}", f"used to {base}", finite)
    if tense == "past":
        participle = verb.participle
        if verb.etre:
            participle += "e" * (subject.gender == "f") + "s" * (person > 2)
        return _Group("did", base, past, (ETRE if verb.etre else AVOIR).split()[person], participle)
    finite = MODALS[tense].split(",")[person]
    if tense == "want":
        plain = f"wants to {base}" if person == 2 else f"want to {base}"
        return _Group(auxiliary, f"want to {base}", plain, finite, verb.infinitive)
    return _Group(tense, base, "", finite, verb.infinitive)


def _be(subject: Phrase, tense: str) -> _Group:
    person = subject.person
    if tense == "present":
        english = "am" if person == 0 else "is" if person == 2 else "are"
        return _Group(english, "", "", ETRE.split()[person])
    return _Group("was" if person in (0, 2) else "were", "", "", _imperfect("étons", person))


def _pronoun(person: int, gender: str, human: bool = True) -> Phrase:
    feminine = gender == "f"
    third = ("she" if feminine else "he") if human else "it"
    english = ("I", "you", third, "we", "you", "they")[person]
    french = (
        "je",
        "tu",
        "elle" if feminine else "il",
        "nous",
        "vous",
        "elles" if feminine else "ils",
    )
    return Phrase(english, french[person], person, gender, None)


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
            adjective = _AFTER.draw(self.rng)
            en, fr = f"{adjective.en} {en}", f"{fr} {adjective.fr[gender][plural]}"
        before = self.chance(0.25)
        if before:
            adjective = _BEFORE.draw(self.rng)
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
                self.noun_phrase(_PEOPLE.draw(self.rng), "the") if self.chance(0.7) else self.name()
            )
            mark = "'" if owner.person == 5 and owner.en.endswith("s") else "'s"
            en, fr = f"{owner.en}{mark} {en}", f"{article} {fr} de {owner.fr}"
        elif kind == "this":
            french = "ces" if plural else "cette" if gender == "f" else "cet" if vowel else "ce"
            en, fr = f"{'these' if plural else 'this'} {en}", f"{french} {fr}"
        elif kind == "number":
            english, french = _NUMBERS.draw(self.rng)
            en, fr = f"{english} {en}", f"{french} {fr}"
        elif kind == "many":
            english, french = self.choose(("many", "beaucoup_de"), ("several", "plusieurs"))
            en, fr = f"{english} {en}", f"{french} {fr}"
        else:
            en, fr = f"the {en}", f"{article} {fr}"
        return Phrase(en, fr, 5 if plural else 2, gender, noun)

    def name(self) -> Phrase:
        name, gender = _NAMES.draw(self.rng)
        return Phrase(name, name, 2, gender, None)

    def animate(self):
        return (_PEOPLE if self.chance(0.65) else _ANIMALS).draw(self.rng)

    def subject(self) -> Phrase:
        roll = self.rng.random()
        if roll < 0.2:
            return _pronoun(self.choose(0, 1, 2, 2, 3, 4, 5), self.choose("m", "f"))
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
        verbs = [
            v for v in (_TRANSITIVE.draw(self.rng) for _ in range(4)) if noun.kind in v.objects
        ]
        if verbs and (noun.kind not in "ac" or self.chance(0.4)):
            doer = self.noun_phrase(self.animate(), "the")
            group = _group(verbs[0], doer, tense)
            en, fr = f"that {doer.en} {group.plain}", f"que {doer.fr} {group.finite}"
        elif noun.kind in "ac":
            verb = _TRANSITIVE.draw(self.rng)
            group, thing = _group(verb, phrase, tense), self.object(verb, False)
            en = f"{'who' if noun.kind == 'a' else 'that'} {group.plain} {thing.en}"
            fr = f"qui {group.finite} {thing.fr}"
        else:
            return phrase
        return phrase._replace(en=f"{phrase.en} {en}", fr=f"{phrase.fr} {fr}")

    def object(self, verb: Verb, negated: bool) -> Phrase:
        noun = _OBJECTS[self.choose(*verb.objects)].draw(self.rng)
        return self.noun_phrase(noun, negated=negated)

    def place(self, *prepositions):
        en, fr, kinds = self.choose(*prepositions) if prepositions else _PREPOSITIONS.draw(self.rng)
        phrase = self.noun_phrase(_OBJECTS[self.choose(*kinds)].draw(self.rng))
        return f" {en} {phrase.en}", f" {fr} {phrase.fr}"

    def predicate(self, subject: Phrase, negated: bool):
        """A verb group for the subject, and what follows it in English and in French."""
        roll = self.rng.random()
        if roll < 0.2:
            group = _be(subject, self.choose("present", "present", "past"))
            if self.chance(0.25):
                return group, *self.place(*_PREPOSITIONS[:3])
            adjective = _PREDICATES.draw(self.rng)
            en, fr = adjective.en, adjective.fr[subject.gender][subject.person > 2]
            if self.chance(0.2):
                other = self.noun_phrase(self.animate(), self.choose("the", "possessive", "this"))
                return group, f" as {en} as {other.en}", f" aussi {fr} que {other.fr}"
            return group, f" {en}", f" {fr}"
        tense = self.choose("present", "present", "present", "past", "past", "imperfect", *MODALS)
        if roll < 0.4:
            group = _group(_INTRANSITIVE.draw(self.rng), subject, tense)
            return group, *(self.place() if self.chance(0.8) else ("", ""))
        verb = (_DATIVE if roll < 0.5 else _TRANSITIVE).draw(self.rng)
        group, thing = _group(verb, subject, tense), self.object(verb, negated)
        if roll < 0.5:
            receiver = self.noun_phrase(_PEOPLE.draw(self.rng))
            return group, f" {thing.en} to {receiver.en}", f" {thing.fr} à {receiver.fr}"
        if self.chance(0.08):
            thing = self.relative(thing)
        en, fr = self.place() if self.chance(0.2) else ("", "")
        return group, f" {thing.en}{en}", f" {thing.fr}{fr}"

    def clause(self, subject: Phrase):
        polarity = self.choose("", "", "", "", "", "pas", "pas", "jamais", "plus")
        group, en, fr = self.predicate(subject, negated=polarity != "")
        adverb, adverbe = _ADVERBS.draw(self.rng) if self.chance(0.12) else ("", "")
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
        table = self.choose(_PEOPLE, _ANIMALS, _THINGS, _FOODS)
        thing = self.noun_phrase(table.draw(self.rng), self.choose("a", "number"), negated)
        verb = _be(thing, "past" if past else "present").auxiliary
        en, fr = self.place(*_PREPOSITIONS[:3])
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
        pronoun = _pronoun(subject.person, subject.gender, person and subject.en != "it")
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
            time, temps = _TIMES.draw(self.rng)
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
