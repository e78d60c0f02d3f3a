"""Franchises from titles alone: keys that titles of a franchise share, and words of titles that may be one franchise.

The keys join what names the same franchise: the same title without season and subtitle, the same leading words, or a
title within another one. A rare word that two titles share elsewhere only makes them suspects, because joining by such
words runs away: a few chains would join a large part of a catalogue.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

RARE = 3
"""A word is rare if at most so many franchises have it."""
_LONG = 5
"""Shorter words are seldom names."""
_SHARED_BEGINNING = {1: 6, 2: 6, 3: 12}
"""Leading words name a franchise if at most so many keys share them, by the number of words. More keys share common
words ("mahou shoujo"). Four words or more always name one."""

_ACCENTS = re.compile(r"[\u0300-\u036F]")
# Systems of romanisation write long vowels differently: "Yūgiō", "Yuugiou", "Yugioh".
_LONG_VOWELS = ((re.compile(r"ou|oo|oh(?![aeiouy])"), "o"), (re.compile("uu"), "u"), (re.compile(r"\bwo\b"), "o"))
# A subtitle follows ": ", " - ", a tilde or a bracket. "Re:Zero" and "Fate/stay night" have none.
_SUBTITLE = re.compile(r"(?<=.)(?::\s|\s[-\u2013\u2014]+\s|\s?[~〜(\[「『【<]).*")
# The following patterns are for titles with short vowels (see `fold`): "cour" is "cor" there.
_NUMBER = r"(?:s?\d+|[ivx]+|[一二三四五六七八九十]+)"
_ORDINAL = r"(?:\d+(?:st|nd|rd|th)|first|second|third|forth|fifth|sixth|seventh|(?:the )?final|last|dai \w+|sono \w+)"
_FORM = (
    r"(?:movies?|films?|gekijoban|gekijo ban|eiga|ova|oad|ona|tv|specials?|recaps?|soshuhen|picture drama|pilot|"
    r"seasons?|series|stage|parts?|cor|vol|volumes?|chapters?|episodes?|ep|arc|act|maku|"
    r"saison|temporada|stagione|staffel|teil|partie|parte|capitulo|pelicula)"
)
_LEADING = re.compile(
    r"^(?:(?:the|an?)\s+(?=\w{2})|(?:gekijoban|gekijo ban|eiga|zoku|shin|tv anime|anime)\s+(?=.{5})"
    r"|劇場版\s*|映画\s*|극장판\s*)"
)
_TRAILING = re.compile(
    rf"\s+(?:{_ORDINAL} {_FORM}|{_FORM} {_NUMBER}|(?:the )?{_FORM}|the animation|animation|final|next|new|finale"
    r"|zoku sho|the|2nd|3rd|[4-9]th|s?\d+|[ivx]{2,}|[rsxz])$"
    r"|\s*(?:第\s*[0-9一二三四五六七八九十]+\s*(?:期|季|部|章|クール|シーズン)|[0-9]+\s*期|シーズン\s*[0-9]*|시즌\s*[0-9]*|劇場版)$"
    r"|(?<=[^\W\d_a-z])\d+$"
)
# Words that name no franchise, alone or with a numeral.
_GENERIC = rf"(?:{_FORM}|{_ORDINAL}|new|no|title|untitled|poster|image|video|item|anime|show|name|sample|test)"
_ONLY_GENERIC = re.compile(rf"(?:{_NUMBER} )?{_GENERIC}(?: (?:{_GENERIC}|{_NUMBER}|[a-z]))*")
# Franchises with many titles that do not begin alike.
_NAMES = re.compile(
    r"\b(aikatsu|anpanman|bang dream|cardcaptor sakura|conan|cyborg 009|digimon|doraemon|evangelion|gegege no kitaro|"
    r"gundam|hello kitty|idolmaster|kinnikuman|love live|lupin|macross|ojamajo doremi|patlabor|pokemon|precure|"
    r"pretty rhythm|queens blade|sailor moon|shimajiro|tenchi muyo|tetsujin 28|tetsuwan atom|time bokan|transformers|"
    r"ultraman|yu gi o)\b"
)
_PARTICLES = {"no", "ni", "o", "wa", "ga", "de", "to", "mo", "e", "ya", "na"}
_PARTICLES |= {"the", "a", "an", "of", "and", "in", "on", "for", "x", "vs"}


def franchise_key(title: str) -> str:
    """The franchise that a title names: the title without season, part, form, numeral and subtitle.

    Titles with the same key count as one franchise. A key that is too broad makes the parts a little less balanced,
    but a key that is too narrow leaks, so the rules prefer broad keys. A title that is only a form and a numeral, such
    as "Film 1", names no franchise and is its own key.
    """
    folded = fold(title)
    whole = _words(folded)
    if name := _NAMES.search(whole):
        return name[1]
    key = _LEADING.sub("", _words(_SUBTITLE.sub("", folded)))
    while (shorter := _TRAILING.sub("", key)) != key:
        key = shorter
    if not key or _ONLY_GENERIC.fullmatch(key):
        key = whole
    return key or folded.strip()


def fold(title: str) -> str:
    """A title in lower case, without accents, and with the same spelling of long vowels in all romanisations."""
    text = unicodedata.normalize("NFKD", title.replace("\u2019", "'")).casefold()
    text = unicodedata.normalize("NFC", _ACCENTS.sub("", text)).replace("'", "")
    for pattern, vowel in _LONG_VOWELS:
        text = pattern.sub(vowel, text)
    return text.strip()


def title_franchises(titles: Mapping[str, str]) -> dict[str, str]:
    """The franchise key of each title by id, where keys that begin with the same name are one franchise.

    A key joins another one that is its beginning in whole words, keys that alone share its leading words, or else a key
    that it contains. Each key joins one other, so chains cannot run away. The key of an empty title is its id.
    """
    keys = {id: franchise_key(title) or id for id, title in titles.items()}
    roots = _roots(set(keys.values()))
    return {id: roots[key] for id, key in keys.items()}


def _roots(keys: set[str]) -> dict[str, str]:
    """The shortest beginning of each key that names a franchise, else another key that it contains, else itself."""
    beginnings = Counter(beginning for key in keys for beginning in _beginnings(key))
    with_word = Counter(word for key in keys for word in set(key.split()))

    def names_franchise(beginning: str) -> bool:
        *before, last = beginning.split()
        if last in _PARTICLES or beginning.isdigit() or _ONLY_GENERIC.fullmatch(beginning):
            return False
        if beginning in keys and (before or 2 * beginnings[beginning] >= with_word[last]):
            return True
        few = 1 < beginnings[beginning] <= _SHARED_BEGINNING.get(1 + len(before), len(keys))
        return few and (bool(before) or with_word[last] <= _SHARED_BEGINNING[1]) and len(beginning) > 3

    roots = {key: next(filter(names_franchise, _beginnings(key)), key) for key in keys}
    for key in sorted(keys, key=len):  # a key contains only shorter ones, whose roots are final
        if roots[key] == key and (inner := next((part for part in _inner(key) if part in keys), None)):
            roots[key] = roots[inner]
    return roots


def _inner(key: str) -> Iterable[str]:
    """The parts of a key with two or more words that do not begin it, long ones first; no particles at their ends."""
    words = key.split()
    for length in range(len(words) - 1, 1, -1):
        for start in range(1, len(words) - length + 1):
            if _PARTICLES.isdisjoint((words[start], words[start + length - 1])):
                yield " ".join(words[start : start + length])


def _beginnings(key: str) -> Iterable[str]:
    """The first word of a key, the first two words, and so on, the whole key last."""
    words = key.split()
    return (" ".join(words[:length]) for length in range(1, len(words) + 1))


def rare_words(titles: Mapping[str, str], franchise_of: Mapping[str, str]) -> dict[str, set[str]]:
    """The rare words of each title by id: long words that two or more franchises have, but only a few.

    Two titles of different franchises that share one are suspects: they may be siblings.
    """
    words_of = {
        id: {word for word in _words(fold(title)).split() if len(word) >= _LONG and not word.isdigit()}
        for id, title in titles.items()
    }
    franchises: defaultdict[str, set[str]] = defaultdict(set)
    for id, words in words_of.items():
        for word in words:
            franchises[word].add(franchise_of[id])
    return {id: {word for word in words if 1 < len(franchises[word]) <= RARE} for id, words in words_of.items()}


def _words(text: str) -> str:
    """The letters and digits of a text, with single spaces between words."""
    return " ".join(re.findall(r"\w+", text))
