import csv
import io
import re
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from ml.data.splits import (
    LEFT_OUT,
    TEST,
    TRAIN,
    VALIDATION,
    PartTable,
    draw_part,
    franchise_key,
    franchises,
)
from ml.errors import DatasetError


@pytest.mark.parametrize(
    ("titles", "key"),
    [
        (
            ["Kimetsu no Yaiba", "Kimetsu no Yaiba: Yuukaku-hen", "Kimetsu no Yaiba Movie: Mugen Ressha-hen"],
            "kimetsu no yaiba",
        ),
        (["Overlord", "Overlord II", "Overlord Movie 3: Sei Oukoku-hen"], "overlord"),
        (["Kingdom 2nd Season", "Kingdom 5th Season", "Kingdom Season 6 Part 2"], "kingdom"),
        (["Fairy Tail", "Fairy Tail (2014)", "Fairy Tail OVA"], "fairy tail"),
        (["Gintama", "Gintama'", "Gintama°", "Gintama. Specials"], "gintama"),
        (["Natsume Yuujinchou", "Zoku Natsume Yuujinchou"], "natsume yuujinchou"),
        (["Re:Zero kara Hajimeru Isekai Seikatsu - Memory Snow"], "re zero kara hajimeru isekai seikatsu"),
        (["86", "86 Part 2"], "86"),
        (["☆"], "☆"),
    ],
)
def test_franchise_key_is_shared_by_titles_of_a_franchise(titles: list[str], key: str) -> None:
    assert {franchise_key(title) for title in titles} == {key}


def test_franchise_key_differs_for_titles_with_a_common_beginning() -> None:
    assert franchise_key("Mononoke") != franchise_key("Mononoke Hime")
    assert franchise_key("Another") != franchise_key("Another World")


def test_franchise_joins_titles_related_through_an_unknown_one() -> None:
    titles = {"1": "Shingeki no Kyojin", "2": "Attack", "3": "Bebop"}
    keys = franchises(titles, {"1": ["9"], "2": ["9"]})
    assert keys == {"1": "attack", "2": "attack", "3": "bebop"}


def test_franchise_joins_titles_whose_posters_look_alike() -> None:
    titles = {"1": "Bebop", "2": "Attack", "3": "Cowboy", "4": "Cowboy: Sequel", "5": "Trigun"}
    keys = franchises(titles, {"1": ["2"]}, [("2", "4")])
    assert keys == {"1": "attack", "2": "attack", "3": "attack", "4": "attack", "5": "trigun"}
    assert {draw_part(keys[id]) for id in "1234"} == {draw_part("attack")}


def test_franchise_of_an_empty_title_is_its_id() -> None:
    assert franchises({"1": "", "2": ""}) == {"1": "1", "2": "2"}


def test_part_is_drawn_70_15_15_and_reproducible() -> None:
    drawn = [draw_part(f"franchise {number}") for number in range(4000)]
    share = {part: count / 4000 for part, count in Counter(drawn).items()}
    assert share[TRAIN] == pytest.approx(0.70, abs=0.03)
    assert share[VALIDATION] == pytest.approx(0.15, abs=0.02)
    assert share[TEST] == pytest.approx(0.15, abs=0.02)
    assert [draw_part("cowboy bebop"), draw_part("overlord"), draw_part("gintama")] == [TEST, TEST, TRAIN]


def test_part_of_a_new_title_is_that_of_its_franchise() -> None:
    table = PartTable({"1": ("a", TEST)})
    assert table.assign({"1": "a", "2": "a"}) == {"1": TEST, "2": TEST}
    assert table.rows["2"] == ("a", TEST)


def test_part_of_a_new_title_is_that_of_siblings_no_longer_in_the_catalogue() -> None:
    table = PartTable({"1": ("a", VALIDATION)})
    assert table.assign({"2": "a"}) == {"2": VALIDATION}


def test_part_test_is_kept_if_franchises_turn_out_to_be_one() -> None:
    table = PartTable({"1": ("a", TEST), "2": ("b", TRAIN), "3": ("c", VALIDATION)})
    parts = table.assign({"1": "a", "2": "a", "3": "a", "4": "a"})
    assert parts == {"1": TEST, "2": LEFT_OUT, "3": LEFT_OUT, "4": TEST}
    assert table.rows["2"] == ("b", TRAIN)


def test_part_table_only_grows() -> None:
    table = PartTable()
    table.assign({str(number): f"franchise {number}" for number in range(30)})
    before = table.text()
    again = PartTable.parse(before)
    again.assign({str(number): f"franchise {number // 2}" for number in range(40)})
    assert again.text().startswith(before)
    assert len(again.rows) == 40


def test_part_table_keeps_bytes_and_words_that_pandas_reads_as_missing() -> None:
    text = 'id,franchise,part\n1,null,train\nNA,nan,test\n007,"a, ""b""",validation\n'
    table = PartTable.parse(text)
    assert table.rows == {"1": ("null", TRAIN), "NA": ("nan", TEST), "007": ('a, "b"', VALIDATION)}
    assert table.text() == text
    assert PartTable().text() == "id,franchise,part\n"


def test_part_table_that_is_damaged_is_refused() -> None:
    with pytest.raises(DatasetError, match="the columns id, franchise, part"):
        PartTable.parse("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="damaged: No columns"):
        PartTable.parse("")
    with pytest.raises(DatasetError, match="damaged at the title '7'"):
        PartTable.parse("id,franchise,part\n7,a,elsewhere\n")


def test_franchises_of_the_real_catalogue_keep_sequels_in_one_part(real_data: Path) -> None:
    with zipfile.ZipFile(real_data / "posters" / "anime.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith("anime.csv"))
        rows = list(csv.DictReader(io.StringIO(archive.read(name).decode())))
    titles = {row["mal_id"]: row["title"] for row in rows}
    parts = PartTable().assign(franchises(titles))
    by_title = {title: parts[id] for id, title in titles.items()}
    # Sequels found by other means: "X: subtitle", "X II", "X 2nd Season", where X is a title itself.
    sequel = re.compile(r"(.+?)(?:: .+| II+| \d\w\w Season| Season \d| OVA| Movie.*)")
    pairs = [
        (part, by_title[match[1]])
        for title, part in by_title.items()
        if (match := sequel.fullmatch(title)) and match[1] in by_title
    ]
    assert len(pairs) > 150
    assert all(part == first for part, first in pairs)
    assert all(count > 100 for count in Counter(parts.values()).values())
