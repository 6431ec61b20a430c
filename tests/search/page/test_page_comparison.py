"""Two sentences side by side: which hits are common, and by how much their ranks differ."""

import pytest

pytest.importorskip("gradio")
pytest.importorskip("pymilvus")

from search.gallery.grouping import ALIKE
from search.page.comparison import compare, comparison_as_html, comparison_summary, moved
from search.searcher import Hit


def hit(path, moments=(), **metadata):
    return Hit(path, 0.5, None, metadata, tuple(Hit(one, 0.4, None, metadata) for one in moments))


def test_ranks_of_common_hits():
    first = [hit(name) for name in "abcd"]
    second = [hit(name) for name in "cxa"]
    found = compare(first, second)
    assert found.others == ([3, None, 1, None], [3, None, 1])
    assert found.common == [(1, 3), (3, 1)]
    assert found.distance == 2  # (|1 - 3| + |3 - 1|) / 2


def test_nothing_in_common():
    found = compare([hit("a")], [hit("b")])
    assert (found.others, found.common, found.distance) == (([None], [None]), [], None)
    assert compare([], [hit("b")]).others == ([], [None])


def test_hits_of_a_group_are_the_same():
    first = [hit("a1", track=1), hit("b1", track=2), hit("c1")]
    second = [hit("b7", track=2), hit("c1"), hit("a9", track=1)]
    assert compare(first, second, "track").others == ([3, 1, 2], [2, 3, 1])
    assert compare(first, second).others == ([None, None, 2], [None, 3, None])
    alike = [hit("a1", ["a2", "a3"])], [hit("x"), hit("a3", ["a5"])]
    assert compare(*alike, ALIKE).others == ([2], [None, 1])


def test_a_hit_has_one_counterpart():
    first = [hit("a1", ["a2"]), hit("a3", ["a4"])]
    assert compare(first, [hit("a2", ["a3"])], ALIKE).others == ([1, None], [1])


@pytest.mark.parametrize(
    ("rank", "other", "said"),
    [
        (1, None, "only here"),
        (2, 2, "in both, same rank"),
        (2, 5, "in both, there 5 (3 lower)"),
        (5, 2, "in both, there 2 (3 higher)"),
    ],
)
def test_what_is_said_of_a_rank(rank, other, said):
    assert moved(rank, other) == said


def test_the_page_shows_both(searcher):
    sentences = "a woman in a red coat", "a man <b> in grey jeans"
    answers = tuple(searcher.search(text, top=5, candidates=0) for text in sentences)
    common = {one.path for one in answers[0].hits} & {one.path for one in answers[1].hits}
    page = comparison_as_html(searcher.gallery, answers, "")
    assert page.count("<img ") == 10 and page.count("class=common") == 2 * len(common)
    assert "&lt;b&gt;" in page and "<b> in" not in page
    assert comparison_summary(answers, "").startswith("5 results and 5 results in ")
    assert f" s. {len(common)} {'is' if len(common) == 1 else 'are'} in both" in comparison_summary(answers, "")
    alone = comparison_summary((answers[0], answers[0]), "")
    assert "5 are in both; their ranks differ by 0.0 in the mean." in alone
