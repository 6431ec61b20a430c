"""Captions of a report: those that re-ranking changes, counted and shown, then some at random."""

import numpy as np
import pytest
from PIL import Image
from report_output import Page, change_arrays, write_evaluation

from evaluation import report
from evaluation.report import write_report
from evaluation.reporting.examples import CHANGES, changes_of, choose_changed, choose_queries, sheet_rows
from evaluation.results import read_rankings

# of 12 captions: 4 gain, 2 lose, 3 are right in both stages, 3 in none
BEFORE = [2, 3, 2, 6, 1, 1, 1, 1, 1, 2, 2, 5]
AFTER = [1, 1, 1, 1, 2, 4, 1, 1, 1, 2, 3, 2]
GAINED, LOST = {0, 1, 2, 3}, {4, 5}


@pytest.fixture
def run(tmp_path):
    return write_evaluation(tmp_path / "run", tmp_path, stage1=BEFORE, reranked=AFTER)


@pytest.fixture
def rankings(run):
    return read_rankings(run / "rankings.npz")


def test_changes_are_of_the_first_image(rankings):
    assert changes_of(rankings).tolist() == [1, 1, 1, 1, -1, -1, *[0] * 6]


def test_the_page_counts_what_re_ranking_changes(run):
    text = Page(write_report(run) / "index.html").text
    assert "Of 12 captions, re-ranking brings 4 to rank 1 and takes 2 from there;" in text
    assert "right in both stages for 3 and in none for 3." in text
    assert "3 that gained and 2 that lost, drawn at random" in text


def test_gains_and_losses_are_shown_with_both_stages_side_by_side(run):
    page = (write_report(run) / "index.html").read_text()
    changed = page[page.index("<h2>What re-ranking changes") : page.index("<h2>Rankings")]
    cards = changed.split("<article")[1:]
    assert len(cards) == 5 and [' class="hit"' in card[:20] for card in cards] == [True] * 3 + [False] * 2
    for card in cards:
        caption = int(card.partition(">caption ")[2].partition("<")[0])
        name = "gained" if caption in GAINED else "lost"
        assert f"{name}: first right image {BEFORE[caption]} → {AFTER[caption]}" in card
        before, after = card.split('<ol class="strip">')[1:]
        for strip, ranks in ((before, BEFORE), (after, AFTER)):
            marks = [part[:5] for part in strip.split('<li class="')[1:]]
            assert marks == ["right" if rank == ranks[caption] else "wrong" for rank in range(1, 6)]
        assert "By embeddings" in card and "Re-ranked" in card


def test_other_seeds_draw_other_captions():
    changes = np.array([1, -1, 0] * 200)
    one, other = (choose_changed(changes, 3, seed) for seed in (0, 1))
    assert one == choose_changed(changes, 3, 0) != other
    for name, captions in one.items():
        assert len(set(captions)) == 3 and all(changes[caption] == CHANGES[name] for caption in captions)


def test_no_change_is_counted_and_nothing_shown(tmp_path):
    run = write_evaluation(tmp_path / "run", tmp_path, stage1=AFTER, reranked=AFTER)
    page = (write_report(run) / "index.html").read_text()
    assert "re-ranking brings 0 to rank 1 and takes 0 from there" in page
    assert "Below are" not in page and 'class="note"' not in page


def test_losses_alone_are_shown_as_such(tmp_path):
    run = write_evaluation(tmp_path / "run", tmp_path, stage1=[1] * 12, reranked=[1] * 11 + [2])
    assert "Below are 1 that lost, drawn at random" in (write_report(run) / "index.html").read_text()


def test_a_run_of_one_stage_says_nothing_of_re_ranking(tmp_path):
    run = write_evaluation(tmp_path / "run", tmp_path, stage1=BEFORE)
    assert "What re-ranking changes" not in Page(write_report(run) / "index.html").text
    rows, about = sheet_rows(read_rankings(run / "rankings.npz"), 8, 0)
    assert len(rows) == 8 and not any(row.note for row in rows) and about.startswith("by embeddings, 8 of 12 captions")


def test_ranks_behind_the_images_kept_are_known_from_the_ranks(run, rankings):
    kept = {f"{stage}_{part}": getattr(rankings, part)[stage][:, :3] for stage in rankings.indices for part in PARTS}
    change_arrays(run, **kept)
    cut = read_rankings(run / "rankings.npz")
    assert cut.first_right("stage1", 3) == 6 and cut.first_right("reranked", 3) == 1
    change_arrays(run, stage1_ranks=None)
    assert read_rankings(run / "rankings.npz").first_right("stage1", 3) is None
    rows, _ = sheet_rows(read_rankings(run / "rankings.npz"), 12, 0)
    assert "gained: first right image further behind → 1" in [row.note for row in rows]


PARTS = ("indices", "scores")


def test_the_sheet_has_gains_losses_and_random_rows_once_each(rankings):
    rows, about = sheet_rows(rankings, 8, 0)
    captions = [row.caption for row in rows]
    assert len(set(captions)) == 8
    notes = [row.note.partition(":")[0] for row in rows]
    assert notes[:4] == ["gained", "gained", "lost", "lost"]
    for row, note in zip(rows, notes, strict=True):
        caption = int(row.caption.removeprefix("caption "))
        assert note == ("gained" if caption in GAINED else "lost" if caption in LOST else "")
    assert about == "re-ranked, 2 gained, 2 lost and 4 others of 12 captions, R@1 58.33 %"


def test_the_sheet_of_a_report_is_drawn_of_these_rows(run, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "ranking_sheet", lambda rows, path, columns, title: drawn.append((rows, title)))
    write_report(run, seed=2)
    [(rows, title)] = drawn
    assert {row.note.partition(":")[0] for row in rows} == {"gained", "lost", ""}
    assert title.startswith("run: re-ranked, ")


def test_random_captions_stay_a_fair_sample():
    hits = np.arange(100) < 75
    assert hits[choose_queries(hits, 8)].sum() == 6


def test_the_page_of_photos_stays_moderate(tmp_path, monkeypatch):
    """Ten images in each stage and four to find, with more detail than photos have, and large pictures of studies."""
    rng = np.random.default_rng(0)
    people = 12

    def photo(path, width, height, detail):
        coarse = Image.fromarray(rng.integers(40, 216, (height // detail, width // detail, 3), dtype=np.uint8))
        coarse.resize((width, height)).save(path)

    for number in range(people):
        photo(tmp_path / f"{number}.png", 88, 192, 4)
    before = [2, 3, 2, 6, 1, 1, 1, 1, 1, 2, 2, 5] * 2
    run = write_evaluation(tmp_path / "run", tmp_path, people=people, stage1=before, reranked=AFTER * 2)
    (run / "studies").mkdir()
    for name in ("gradcam", "reconstruction"):
        photo(run / "studies" / f"{name}.png", 1200, 1900, 16)
        (run / "studies" / f"{name}.json").write_text('{"checkpoint": "checkpoint_best.pth"}')
    monkeypatch.setattr(report, "ranking_sheet", lambda *arguments: None)  # a file of its own
    page = write_report(run) / "index.html"
    assert len(Page(page).sources) > 6 * 20 and page.stat().st_size < 2_000_000
