"""What follows a value changes with it, in the order in which one depends on another; what can't be followed is refused."""

import pytest

from lightning_evo.genome import Boolean, Integer, SearchSpace, SpaceError
from lightning_evo.genome.links import expanded, followers, origin, read_links, with_single_paths


def link(source, target):
    return {"from": source, "to": target}


def test_a_gene_at_several_paths_is_one_at_the_first():
    written = {"a.x, b.y,c.z": Integer(1, 8), "d": Boolean(when={"b.y": [3]}), "e": Boolean(when={"a.x, b.y,c.z": [4]})}
    genes, links = with_single_paths(written)
    assert {path: gene.when for path, gene in genes.items()} == {"a.x": {}, "d": {"a.x": [3]}, "e": {"a.x": [4]}}
    assert written["d"].when == {"b.y": [3]}
    SearchSpace(genes)
    assert expanded({"a.x": 2, "d": True}, links) == {"a.x": 2, "d": True, "b.y": 2, "c.z": 2}


def test_links_are_followed_in_their_order_whatever_theirs_in_the_file():
    links = read_links([link("b", "c, d"), link("a", "b"), link("s.t", "e")], ["a", "s"])
    assert expanded({"a": 1, "s": {"t": 2}}, links) == {"a": 1, "s": {"t": 2}, "b": 1, "c": 1, "d": 1}
    assert followers("a", links) == ["b", "c", "d"]
    assert followers("s", links) == ["e"]
    assert (origin("d", links), origin("x", links)) == ("a", "x")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (["a"], r"links\[0\]: 'a' is not a link; give \{from: CONFIG_PATH, to: CONFIG_PATH\}"),
        ([{"from": "a"}], "is not a link"),
        ([{**link("a", "b"), "compute": "c"}], "is not a link"),
        ([link("a", " ")], "is not a link"),
        ([link("a", 3)], "is not a link"),
        ([link("b", "a")], r"links\[0\]: a can't follow b: it has a gene, a"),
        ([link("b", "m")], r"m can't follow b: it has a gene, m\.n"),
        ([link("a", "b"), link("c", "b")], r"links\[1\]: b follows a already \(evolution\.links\[0\]\)"),
        ([link("a", "b"), link("c", "b.d")], r"b\.d follows a already"),
        ([link("b", "b")], "go in a circle: b follows b"),
        ([link("b", "b.c")], "go in a circle"),
        ([link("b", "c"), link("c", "d"), link("d", "b")], "go in a circle: c follows b, d follows c, b follows d"),
    ],
)
def test_what_cannot_be_followed_is_refused(written, said):
    with pytest.raises(SpaceError, match=said):
        read_links(written, ["a", "m.n"])


def test_two_genes_at_one_path_are_refused():
    with pytest.raises(SpaceError, match="a, b: there are two genes for a"):
        with_single_paths({"a": Boolean(), "a, b": Boolean()})
    genes, links = with_single_paths({"b": Boolean(), "a, b": Boolean()})
    with pytest.raises(SpaceError, match=r"evolution\.space\.a, b: b can't follow a: it has a gene, b"):
        read_links([], genes, links)
