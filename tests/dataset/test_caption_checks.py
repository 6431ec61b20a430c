"""Captions that cannot be right are warned of, and others are not."""

import pytest

from dataset.annotation_entries import RawEntry
from dataset.caption_checks import FRAGMENT, SCRIPT, SHARED, SHORT, odd_captions

ENGLISH = [f"A man with {number} bags walks." for number in range(20)]
CHINESE = [f"一位穿红色外套的女士{number}" for number in range(20)]


def found_in(captions, others=ENGLISH):
    """(category, text) of every warning for captions beside others, each of a person of its own."""
    entries = [RawEntry(f"row {n}", None, None, n, (caption,)) for n, caption in enumerate([*captions, *others])]
    return [(problem.category, str(problem)) for problem in odd_captions(entries)]


@pytest.mark.parametrize("others", [ENGLISH, CHINESE, ENGLISH + CHINESE, []])
def test_ordinary_captions_bring_no_warning(others):
    assert found_in([], others) == []


@pytest.mark.parametrize(
    "caption",
    [
        "An élégante woman, 5'9\" tall, in a T-shirt (size M/L).",
        'A man\'s coat & hat; he is #1 & says: "hello"!',
        "A <person> in red walks, black&white; 100% wool.",
        "He has a 10 µm ring, the 2º one; [left] arm up.",
        "A man <20 years> in green\\blue and eyeglasses>",
        "«A mulher de manhã», não »é« alta.",
        "She smiles 🙂 and has a 👜 ...",
        "\uff21 man in red",
    ],
)
def test_unusual_captions_bring_no_warning(caption):
    assert found_in([caption]) == []


@pytest.mark.parametrize(
    ("caption", "fragment"),
    [
        ("A man <br> in red coat", "<br>"),
        ("<p class='x'>A man in red</p>", "<p class='x'>"),
        ("A man in a red coat</div>", "</div>"),
        ("A man in red <|endoftext|>", "<|endoftext|>"),
        ("A man &amp; his dog", "&amp;"),
        ("A man &#39;in red", "&#39;"),
        ('{"caption": "a man in red"}', "{"),
        ("A man in {color} coat", "{"),
        ('["a man in red"', '["'),
        ('caption": "a man in red', '": "'),
        ("A man in [MASK] coat", "[MASK]"),
        ("A man.\\nHe wears red", "\\n"),
        ("caf\\u00e9 man in red", "\\u00e9"),
        ('He says \\"hello\\" to us', '\\"'),
        ("see https://example.org/a.jpg for him", "https://"),
        ("see www.example.org for him", "www.e"),
        ("write to me@example.org about him", "me@example.o"),
        ("A man in a cafÃ© in red", "Ã©"),
        ("The manâ€™s coat is red", "â€"),
        ("The man\ufffds coat is red", "\ufffd"),
    ],
)
def test_fragments_of_code_are_named(caption, fragment):
    ((category, text),) = found_in([caption])
    assert category == FRAGMENT and text.startswith("row 0: ") and text.endswith(f" holds {fragment!r}")


@pytest.mark.parametrize(
    ("caption", "others", "letters"),
    [
        ("Женщина в красном пальто", ENGLISH, "Женщинавкрасномпальт"),
        ("一位穿红色外套的女士", ENGLISH, "一位穿红色外套的女士"),
        ("A m\u0430n in a red coat", ENGLISH, "\u0430"),  # a Cyrillic letter that looks like a Latin one
        ("مرد با کت قرمز", CHINESE, "مردباکتقرمز"),
        ("A man in a red coat", CHINESE, "Amaninaredcoat"),
    ],
)
def test_another_script_than_that_of_most_captions_is_a_warning(caption, others, letters):
    ((category, text),) = found_in([caption], others)
    assert category == SCRIPT and repr(letters) in text


@pytest.mark.parametrize("caption", ["一位穿T恤的女士", "穿Nike鞋子的男人", "赤いコートを着た女性"])
def test_words_of_two_scripts_that_go_together_are_no_warning(caption):
    assert found_in([caption], CHINESE) == []


@pytest.mark.parametrize("caption", ["man", "a man", "A man!", "todo", "x - y", "12", "女士"])
def test_fewer_than_three_words_are_a_warning(caption):
    assert SHORT in dict(found_in([caption]))


def test_a_sentence_of_several_people_is_counted():
    same = ["A man in red.", "a man in red", "A MAN, in red!", "A man in red."]
    entries = [RawEntry(f"row {n}", "train", f"{n}.jpg", n // 2 or "x", (caption,)) for n, caption in enumerate(same)]
    expected = "'A man in red.' stands for 2 people: identity 'x' in row 0, identity 1 in row 2"
    assert [(problem.category, str(problem)) for problem in odd_captions(entries)] == [(SHARED, expected)]
    assert odd_captions(entries[:2]) == []  # of one person
    found = found_in(["A girl in blue.", *same])
    assert [category for category, _ in found] == [SHARED]
    assert "stands for 4 people: identity 1 in row 1, identity 2 in row 2, identity 3 in row 3, ..." in found[0][1]
