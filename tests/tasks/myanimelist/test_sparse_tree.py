"""The tree of a few elements of a page."""

from tasks.myanimelist.sparse_tree import sparse_tree

PAGE = '<html><body><div class="card">a<p>b<i>c</i></p><br><b>d <u>e</u> f</b></div><i>g</i></body></html>'


def test_what_is_not_wanted_leaves_its_wanted_content_to_the_element_around_it() -> None:
    tree = sparse_tree(PAGE, lambda name, attributes: name == "i" or attributes.get("class") == "card")
    assert str(tree) == '<div class="card">a<i>c</i></div><i>g</i>'


def test_all_that_is_wanted_is_the_tree_of_the_whole_page() -> None:
    assert str(sparse_tree(PAGE, lambda name, attributes: True)) == PAGE.replace("<br>", "<br/>")


def test_nothing_wanted_is_an_empty_tree() -> None:
    assert str(sparse_tree(PAGE, lambda name, attributes: False)) == ""


def test_a_page_longer_than_a_piece_of_the_parsers_is_read_whole() -> None:
    page = f"<html><body>{'<p>é☆</p>' * 50_000}</body></html>"
    assert len(sparse_tree(page, lambda name, attributes: name == "p").find_all("p")) == 50_000
