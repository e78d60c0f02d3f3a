"""The trees of a few elements of a page."""

from bs4 import BeautifulSoup

from tasks.myanimelist.sparse_trees import Layout, Part, SparseTree

TEXT = Part()
CARD = Part(text=False, is_root=True)
LAYOUT = Layout(
    ("div",),
    by_class={"card": CARD, "name": TEXT, "links": Part({"a": TEXT})},
    by_name={"title": TEXT},
    by_attribute={("itemprop", "image"): Part(text=False)},
)


def trees(body: str) -> list[SparseTree]:
    return list(LAYOUT.trees(f"<html><head><title>Page</title></head><body>{body}</body></html>"))


def cards(body: str) -> list[str]:
    return [str(tree.tag) for tree in trees(body) if tree.told_by == "card"]


def test_what_is_not_read_leaves_what_is_read_in_it_to_the_element_around() -> None:
    assert cards('<p>a</p><div class="card">b<p>c<b class="name">d</b></p><i>e</i></div><b class="name">f</b>') == [
        '<div class="card"><b class="name">d</b></div>'
    ]


def test_all_of_the_text_in_an_element_is_its_text() -> None:
    (found,) = cards('<div class="card"><p class="name">a <i>b<u> c</u></i> d<br>e</p></div>')
    assert found == '<div class="card"><p class="name">a b c de</p></div>'


def test_white_space_between_two_elements_keeps_their_texts_apart() -> None:
    (found,) = cards('<div class="card"><p class="links">\n<i>a</i>\n <i>b</i>\n<a>c</a>\n<a>d</a>\n</p></div>')
    assert found == '<div class="card"><p class="links"> a b <a>c</a> <a>d</a></p></div>'


def test_scripts_styles_and_comments_are_no_text() -> None:
    (found,) = cards('<div class="card"><p class="name">a<script>b</script><!-- c --><style>d</style>e</p></div>')
    assert found == '<div class="card"><p class="name">ae</p></div>'


def test_an_element_is_told_by_one_of_its_classes_wherever_that_stands() -> None:
    (found,) = trees('<div id="1" class="big\n\tcard new"><b title="x" class="my name"></b></div>')[1:]
    assert (found.told_by, found.tag["id"], found.tag["class"]) == ("card", "1", "big\n\tcard new")
    assert [tag["title"] for tag in found.parts["name"]] == ["x"]


def test_what_only_resembles_a_class_or_a_value_tells_nothing() -> None:
    assert len(trees('<div class="cards"></div><div class="Card"></div><div itemprop="images"></div>')) == 1


def test_a_root_is_told_by_its_name_or_an_attribute_too() -> None:
    found = trees('<div class="other" itemprop="image" content="x"></div><p class="card" itemprop="image"></p>')
    assert [(tree.told_by, tree.tag.name) for tree in found] == [("title", "title"), ("image", "div")]
    assert found[0].tag.string == "Page"


def test_the_first_part_of_a_class_is_at_hand() -> None:
    (found,) = trees('<div class="card"><b class="name">a</b><b class="name">b</b></div>')[1:]
    assert str(found.first("name")) == '<b class="name">a</b>'
    assert found.first("links") is None


def test_a_part_in_another_part_is_found() -> None:
    (found,) = trees('<div class="card"><div class="name">a<p class="links">b<a>c</a></p>d</div></div>')[1:]
    assert [str(tag) for tag in found.parts["links"]] == ['<p class="links">b<a>c</a></p>']
    assert found.tag.get_text() == "abcd"


def test_a_root_in_another_one_has_its_own_tree_after_that() -> None:
    inner = '<div class="card" id="{}"><b class="name">{}</b>'
    assert cards(inner.format(1, 1) + inner.format(2, 2) + "</div>" + inner.format(3, 3) + "</div></div>") == [
        f"{inner.format(number, number)}</div>" for number in (1, 2, 3)
    ]


def test_cards_that_are_never_closed_are_all_found_in_their_order() -> None:
    page = "".join(f'<div class="card" id="{number}">' for number in range(200))
    assert [tree.tag.get("id") for tree in trees(page)[1:]] == [str(number) for number in range(200)]


def test_what_follows_the_end_of_the_document_is_read() -> None:
    assert cards('</body></html><div class="card"><b class="name">a</b></div>') == [
        '<div class="card"><b class="name">a</b></div>'
    ]


def test_a_page_without_elements_has_no_trees() -> None:
    assert list(LAYOUT.trees("")) == list(LAYOUT.trees("<!-- nothing -->")) == []


def test_letters_of_all_scripts_are_read_whatever_the_page_says_of_its_encoding() -> None:
    page = '<html><head><meta charset="latin-1"><title>é☆漢🎴 &eacute;</title></head></html>'
    assert [tree.tag.string for tree in LAYOUT.trees(page)] == ["é☆漢🎴 é"]


def test_a_tree_can_be_searched_and_changed_as_any_of_beautifulsoup() -> None:
    html = '<div class="card"><b class="name">a</b><p class="links">b<a href="x">c</a>d<a>e</a></p></div>'
    (tree,) = trees(html)[1:]
    soup = BeautifulSoup(html, "lxml").div
    assert soup is not None
    assert str(tree.tag) == str(soup)
    assert [str(node) for node in tree.tag.descendants] == [str(node) for node in soup.descendants]
    for tag in (tree.tag, soup):
        link = tag.find("a", href="x")
        assert link is not None
        assert [str(node) for node in (link.parent, link.previous_sibling, link.next_element)] == [
            '<p class="links">b<a href="x">c</a>d<a>e</a></p>',
            "b",
            "c",
        ]
        link.extract()
    assert str(tree.tag) == str(soup) == '<div class="card"><b class="name">a</b><p class="links">bd<a>e</a></p></div>'
