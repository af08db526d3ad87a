"""The lexicon of the embedded corpus, English beside French, and the inflection of its words.

Tables are in order of frequency. French words marked `*` begin with an aspirated h (or behave so):
nothing is elided before them. `_` stands for a space within an entry.
"""

import re
from bisect import bisect
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from typing import NamedTuple

_PEOPLE = """man/men homme m, woman/women femme f, child/children enfant m, friend ami m, king roi
m, girl fille f, boy garçon m, mother mère f, father père m, neighbour voisin m, doctor médecin m,
queen reine f, teacher professeur m, sister sœur f, brother frère m, hero/heroes *héros m, student
étudiant m, daughter fille f, son fils m, soldier soldat m, uncle oncle m, aunt tante f, worker
ouvrier m, farmer fermier m, captain capitaine m, merchant marchand m, singer chanteuse f, lawyer
avocat m, actress actrice f, stranger étranger m, sailor marin m, writer écrivain m, painter peintre
m, guest invité m, heir héritier m, judge juge m, baker boulanger m, nurse infirmière f, prince
prince m, princess princesse f, thief/thieves voleur m, witness témoin m, enemy ennemi m, cousin
cousine f, servant servante f, engineer ingénieur m, giant géant m, dwarf nain m"""
_ANIMALS = """dog chien m, cat chat m, horse cheval m, bird oiseau m, wolf/wolves loup m, cow vache
f, owl *hibou/*hiboux m, mouse/mice souris f, sheep/sheep mouton m, fox renard m, bear ours m, bee
abeille f, rabbit lapin m, goose/geese oie f, animal animal m, donkey âne m, lion lion m, hedgehog
*hérisson m, eagle aigle m, spider araignée f, monkey singe m, swallow hirondelle f"""
_THINGS = """book livre m, letter lettre f, key clef f, hat chapeau m, picture image f, table table
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
_FOODS = """apple pomme f, cake gâteau m, egg œuf m, soup soupe f, orange orange f, cheese fromage
m, potato/potatoes pomme_de_terre/pommes_de_terre f, onion oignon m, pear poire f, fish/fish poisson
m, bean *haricot m, cherry cerise f, carrot carotte f, salad salade f, meal repas m, olive olive f,
pineapple ananas m, strawberry fraise f, lobster *homard m, almond amande f, tart tarte f"""
_PLACES = """house maison f, garden jardin m, city ville f, room chambre f, school école f, street
rue f, village village m, forest forêt f, church église f, kitchen cuisine f, station gare f, hotel
hôtel m, castle château m, river rivière f, island île f, field champ m, mountain montagne f, market
marché m, port port m, hospital hôpital m, office bureau m, library bibliothèque f, park parc m,
lake lac m, factory usine f, tower tour f, hall *hall m, square place f, theatre théâtre m, shop
boutique f, hamlet *hameau m, university université f, inn auberge f, valley vallée f, cave grotte
f, farm ferme f, palace palais m, bakery boulangerie f, court tribunal m, attic grenier m, prison
prison f, mill moulin m"""
_BEFORE = """little petit, big grand, old vieux/vieille/vieil, beautiful beau/belle/bel, good bon,
new nouveau/nouvelle/nouvel, young jeune, bad mauvais, pretty joli, large gros/grosse, former
ancien, long long/longue, tall *haut, vast vaste, true vrai"""
_AFTER = """black noir, white blanc/blanche, happy heureux, red rouge, strange étrange, empty vide,
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
_TRANSITIVE = """see/saw voir atp vois,vois,voit,voyons,voyez,voient,vu; find/found trouver atf;
love aimer atfp; know/knew connaître ap
connais,connais,connaît,connaissons,connaissez,connaissent,connu; take/took prendre tf
prends,prends,prend,prenons,prenez,prennent,pris; look_for chercher atp; watch regarder at; eat/ate
manger f; read/read lire r lis,lis,lit,lisons,lisez,lisent,lu; hear/heard entendre a; wait_for
attendre a; keep/kept garder t; lose/lost perdre t; carry porter tf; open ouvrir t
ouvre,ouvres,ouvre,ouvrons,ouvrez,ouvrent,ouvert; buy/bought acheter tf
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
_DATIVE = """give/gave donner; show/showed montrer; send/sent envoyer
envoie,envoies,envoie,envoyons,envoyez,envoient,envoyé; lend/lent prêter; sell/sold vendre;
bring/brought apporter; offer offrir offre,offres,offre,offrons,offrez,offrent,offert"""
# `+`: the auxiliary is être, and the participle agrees with the subject.
_INTRANSITIVE = """sleep/slept dormir dors,dors,dort,dormons,dormez,dorment,dormi; work travailler;
walk marcher; sing/sang chanter; stay +rester; arrive +arriver; talk parler; dance danser; cry
pleurer; play jouer; fall/fell +tomber; return +retourner; hesitate hésiter; wait attendre; laugh
rire ris,ris,rit,rions,riez,rient,ri; shout crier; swim/swam nager; dream rêver; die/died +mourir
meurs,meurs,meurt,mourons,mourez,meurent,mort"""
_ADVERBS = """often souvent, always toujours, sometimes parfois, rarely rarement,
really vraiment, secretly secrètement"""
_TIMES = {
    "in the evening": "le soir", "every day": "chaque jour", "in the morning": "le matin",
    "in summer": "en été", "in winter": "en hiver", "at night": "la nuit",
    "in autumn": "en automne", "on Sundays": "le dimanche", "in April": "en avril",
}  # fmt: skip
_NAMES = "Paul m, Marie f, Alice f, Louis m, Julie f, Martin m, Emma f, Oscar m, Claire f, Adam m"
_NUMBERS = (
    "two deux, three trois, four quatre, five cinq, six six, ten dix, eight *huit, eleven *onze"
)
_PREPOSITIONS = """in dans p, near près_de pa, behind derrière pa, with avec a, in_front_of devant
pa, on sur t, under sous t, without sans a, for pour a"""
ETRE = "suis es est sommes êtes sont"
AVOIR = "ai as a avons avez ont"
MODALS = {
    "can": "peux,peux,peut,pouvons,pouvez,peuvent",
    "must": "dois,dois,doit,devons,devez,doivent",
    "want": "veux,veux,veut,voulons,voulez,veulent",
}


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


PEOPLE = Zipf(_nouns(_PEOPLE, "a"))
ANIMALS = Zipf(_nouns(_ANIMALS, "c"))
THINGS, FOODS = Zipf(_nouns(_THINGS, "t")), Zipf(_nouns(_FOODS, "f"))
READABLE = Zipf(noun for noun in THINGS if noun.kind == "r")
PLACES = Zipf(_nouns(_PLACES, "p"))
OBJECTS = {"a": PEOPLE, "t": THINGS, "r": READABLE, "f": FOODS, "p": PLACES}
BEFORE, AFTER = Zipf(_adjectives(_BEFORE)), Zipf(_adjectives(_AFTER))
TRANSITIVE, DATIVE = Zipf(_verbs(_TRANSITIVE, "t")), Zipf(_verbs(_DATIVE, "tf"))
INTRANSITIVE = Zipf(_verbs(_INTRANSITIVE, ""))
NAMES, NUMBERS, ADVERBS = _words(_NAMES), _words(_NUMBERS), _words(_ADVERBS)
PREPOSITIONS, TIMES = _words(_PREPOSITIONS), Zipf(_TIMES.items())
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
        return Group("did", base, past, (ETRE if verb.etre else AVOIR).split()[person], participle)
    finite = MODALS[tense].split(",")[person]
    if tense == "want":
        plain = f"wants to {base}" if person == 2 else f"want to {base}"
        return Group(auxiliary, f"want to {base}", plain, finite, verb.infinitive)
    return Group(tense, base, "", finite, verb.infinitive)


def be(subject: Phrase, tense: str) -> Group:
    person = subject.person
    if tense == "present":
        english = "am" if person == 0 else "is" if person == 2 else "are"
        return Group(english, "", "", ETRE.split()[person])
    return Group("was" if person in (0, 2) else "were", "", "", imperfect("étons", person))


def pronoun_of(person: int, gender: str, human: bool = True) -> Phrase:
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
