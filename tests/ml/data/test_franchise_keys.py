"""Keys of franchises from titles. Titles are spelled as on MyAnimeList and in tables of other people."""

import time

import pytest

from ml.data.franchise_keys import franchise_key, rare_words, title_franchises


def keys_of(*titles: str) -> list[str]:
    return list(title_franchises({str(place): title for place, title in enumerate(titles)}).values())


@pytest.mark.parametrize(
    "titles",
    [
        ["Kimetsu no Yaiba", "Kimetsu no Yaiba: Yuukaku-hen", "Kimetsu no Yaiba Movie: Mugen Ressha-hen"],
        ["Overlord", "Overlord II", "Overlord Movie 3: Sei Oukoku-hen"],
        ["Kingdom 2nd Season", "Kingdom 5th Season", "Kingdom Season 6 Part 2"],
        ["Fairy Tail", "Fairy Tail (2014)", "Fairy Tail OVA"],
        ["Gintama", "Gintama'", "Gintama°", "Gintama. Specials"],
        ["Natsume Yuujinchou", "Zoku Natsume Yuujinchou", "Natsume Yūjinchō Roku"],
        ["Re:Zero kara Hajimeru Isekai Seikatsu", "Re:Zero kara Hajimeru Isekai Seikatsu - Memory Snow"],
        ["Initial D", "Initial D Fourth Stage", "Initial D Final Stage"],
        ["86", "86 Part 2"],
        ["K", "K: Missing Kings"],
        ["進撃の巨人", "進撃の巨人 第2期", "進撃の巨人2", "劇場版 進撃の巨人"],
        ["Pokémon 3: The Movie", "Pokemon the Movie 2000", "Pokemon"],
        ["The Godfather", "The Godfather Part II"],
        ["Kidou Senshi Gundam", "Kidou Senshi Zeta Gundam", "SD Gundam Force"],
        ["Dragon Ball", "Dragon Ball Z", "Dragon Ball Kai (2014)", "Dragon Ball Super: Broly"],
        ["Danball Senki", "Danball Senki Wars"],
        ["Higurashi no Naku Koro ni Kai", "Higurashi no Naku Koro ni Rei"],
        ["Sengoku Basara", "Mini Sengoku Basara Ni"],
        ["Yojouhan Shinwa Taikei", "Yojouhan Time Machine Blues"],
    ],
)
def test_franchise_is_shared_by_titles_that_begin_alike_or_contain_its_name(titles: list[str]) -> None:
    others = ["Mononoke", "Trigun", "Tetsuwan Birdy", "Ookami to Koushinryou", "Boku no Pico", "Love", "My Love"]
    keys = keys_of(*titles, *others)
    assert len(set(keys)) == 1 + len(set(keys_of(*others)))
    assert len(set(keys[: len(titles)])) == 1


@pytest.mark.parametrize(
    "titles",
    [
        [f"Film {number}" for number in range(1, 8)],
        ["Movie-00017", "Movie-00018"],
        ["Title 3", "Title 4", "Untitled", "OVA", "Season 2", "Episode IV"],
        ["poster_1", "poster_2"],
        ["☆", "♥", "...", "1", "2"],
        ["", ""],
        # A common word, and a beginning of many franchises.
        ["Love", "Love Hina", "Lost Love", "My Love", "True Love", "First Love", "Real Love Story"],
        [f"Mahou Shoujo {name}" for name in ("Ai", "Bu", "Chi", "Do", "Eri", "Fu", "Gin")],
    ],
)
def test_franchise_is_not_shared_by_words_that_name_none(titles: list[str]) -> None:
    assert len(set(keys_of(*titles))) == len(titles)


def test_franchise_key_of_a_title_of_symbols_is_the_title() -> None:
    assert franchise_key("☆") == "☆"


def test_rare_words_are_those_of_two_or_three_franchises() -> None:
    titles = ["Sousei no Aquarion", "Aquarion Evol", "Aquarion Logos", "Sousei no Onmyouji", "Trigun", "Trigun 2"]
    titles += [f"{name} Monogatari" for name in ("Bake", "Nise", "Hana", "Kizu")]
    by_id = {title: title for title in titles}
    words = rare_words(by_id, title_franchises(by_id))
    assert [title for title, found in words.items() if found == {"aquarion"}] == titles[:3]
    assert not any(words[title] for title in titles[3:])


def test_franchises_do_not_depend_on_the_order_of_titles() -> None:
    titles = ["Dragon Ball Z", "Super Dragon Ball Heroes", "New Super Dragon Ball Heroes", "Dragon Ball", "Heroes Ball"]
    forwards = dict(zip(titles, keys_of(*titles), strict=True))
    assert forwards == dict(zip(titles[::-1], keys_of(*titles[::-1]), strict=True))
    assert len({forwards[title] for title in titles[:4]}) == 1


def test_franchises_of_a_large_catalogue_take_seconds() -> None:
    syllables = ["ka", "shi", "mo", "ra", "te", "no", "ku", "ha"]
    words = [f"{a}{b}{c}".capitalize() for a in syllables for b in syllables for c in syllables]
    titles = {
        str(n): f"{words[n % 509]} {words[n * 7 % 503]} no {words[n * 13 % 499]} 2nd Season" for n in range(25_000)
    }
    start = time.process_time()
    franchise_of = title_franchises(titles)
    rare_words(titles, franchise_of)
    assert time.process_time() - start < 20
    assert len(set(franchise_of.values())) > 10_000
