import csv
import io
import re
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from ml.data.splits import (
    LEFT_OUT,
    SUSPECT,
    TEST,
    TRAIN,
    VALIDATION,
    PartTable,
    draw_part,
    franchises,
    relations_notice,
    without_suspects,
)
from ml.errors import DatasetError


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


def test_part_table_redrawn_keeps_the_part_of_franchises_that_have_one() -> None:
    old = PartTable({str(n): (f"old {n}", (TEST, TRAIN)[n % 2]) for n in range(400)})
    same = {str(n): f"same {n}" for n in range(200)}
    joined = {str(n): f"joined {n // 2}" for n in range(200, 400)}
    new = old.redrawn({**same, **joined, "new": "same 0"})
    assert all(new.rows[id] == (franchise, old.rows[id][1]) for id, franchise in same.items())
    assert new.rows["new"] == ("same 0", TEST)
    assert all(part == draw_part(franchise) for franchise, part in list(new.rows.values())[-201:-1] if "j" in franchise)
    assert LEFT_OUT not in new.assign({**same, **joined}).values()


def test_test_titles_with_a_possible_sibling_in_training_are_suspects_until_a_page_is_known() -> None:
    titles = {"1": "Sousei no Aquarion", "2": "Aquarion Evol", "3": "Trigun", "4": "Bebop Aquarion"}
    franchise_of = {"1": "sosei", "2": "aquarion", "3": "trigun", "4": "bebop"}
    parts = {"1": TEST, "2": TRAIN, "3": TEST, "4": TEST}
    assert without_suspects(parts, titles, franchise_of, ()) == {**parts, "1": SUSPECT, "4": SUSPECT}
    assert without_suspects(parts, titles, franchise_of, {"1"}) == {**parts, "4": SUSPECT}
    assert without_suspects(parts, titles, franchise_of, {"2"}) == parts
    assert without_suspects(parts, titles, franchise_of, named={"1"}) == {**parts, "1": SUSPECT, "4": SUSPECT}
    assert without_suspects(parts, titles, franchise_of, named={"2"}) == {**parts, "1": SUSPECT, "4": SUSPECT}
    assert without_suspects(parts, titles, franchise_of, named={"1", "2"}) == {**parts, "4": SUSPECT}
    assert without_suspects(parts, titles, dict.fromkeys(titles, "one"), ()) == parts


def test_relations_that_the_keys_did_not_use_estimate_what_titles_alone_miss() -> None:
    titles = {
        "1": "Kumo",
        "2": "Hitsuji",
        "3": "Sousei no Aquarion",
        "4": "Aquarion Evol",
        "5": "Bebop",
        "6": "Bebop 2",
    }
    franchise_of = franchises(titles)
    drawn = {id: draw_part(franchise) for id, franchise in franchise_of.items()}
    test = [id for id, part in drawn.items() if part == TEST]
    apart = [pair for pair in (("1", "2"), ("3", "4"), ("5", "6")) if drawn[pair[0]] != drawn[pair[1]]]
    related = {"1": ["2"], "2": ["1", "elsewhere"], "4": ["3"], "5": ["6"]}
    notice = relations_notice(titles, related, drawn, {"1"})
    missed = len(set(apart) & {("1", "2")})
    assert notice.startswith(f"Titles alone put {len(apart)} of 3 known relations in different parts, {missed} unsusp")
    assert f"The relations of {len(set(test) - {'1'})} of {len(test)} test titles are unknown" in notice
    assert relations_notice(titles, {}, drawn, ()).startswith("The relations of")


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
