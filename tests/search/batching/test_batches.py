"""Searches that wait for the model are answered together, as each would be alone, and nobody waits for good."""

import http.client
import json
import threading
import time
from contextlib import contextmanager

import pytest

from search.batching.batching_lock import Abandoned, BatchingLock, BatchJob
from search.encoder import Encoder
from search.gallery.gallery import open_gallery
from search.gallery.indexing import index
from search.searcher import Searcher
from utils.errors import UserError

pytest.importorskip("pymilvus")

ASKED = [
    {"text": "A woman in a red coat, grey jeans and white sneakers."},
    {"text": "a man with a black backpack", "candidates": 3},
    {"text": "A woman in a red coat, grey jeans and white sneakers.", "candidates": 0, "top": 30},
    {"text": "somebody in a blue shirt and a green hat with a white bag", "where": "camera == 'c1'"},
    {"text": "a man in a white shirt", "group": "camera"},
    {"text": "a woman in a green dress with long hair", "group": "alike", "where": "camera != 'c0'"},
    {"text": "a man with a black hat", "candidates": 1000, "top": 1000},
]
LONG = 60  # seconds, for which nothing here takes


def found(answer):
    """What must not depend on who else asks; numbers may differ as products of more rows round them."""
    hits = [(hit.id, hit.path, len(hit.moments)) for hit in answer.hits]
    numbers = [number for hit in answer.hits for number in (hit.similarity, hit.score) if number is not None]
    return answer.query.read_as, hits, answer.missing, Numbers(numbers)


class Numbers(list):
    """Equal to others that are within 1e-5 of them."""

    def __eq__(self, other):
        return list(self) == pytest.approx(list(other), abs=1e-5)

    __hash__ = None


@contextmanager
def waiting(searcher, calls):
    """Run calls in threads of their own, in order, while the model is busy until the block ends; then all are done."""
    outcomes, threads = [None] * len(calls), []

    def run(number, call):
        try:
            outcomes[number] = call()
        except Exception as error:
            outcomes[number] = error

    with searcher.model_lock:
        for number, call in enumerate(calls):
            threads.append(threading.Thread(target=run, args=(number, call), daemon=True))
            threads[-1].start()
            wait_until(lambda: len(searcher.model_lock.waiting) == len(threads))
        yield outcomes
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def wait_until(holds):
    end = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def batches(searcher, monkeypatch):
    """The sentences of each batch that the searcher answers."""
    seen, real = [], searcher.batches.run
    monkeypatch.setattr(searcher.batches, "run", lambda jobs: seen.append([job.text for job in jobs]) or real(jobs))
    return seen


def searches(searcher, asked=ASKED):
    return [lambda one=one: searcher.search(**one) for one in asked]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_found_together_is_what_is_found_alone(trained, photos, tmp_path, precision):
    encoder = Encoder.open(trained, overrides=[f"precision={precision}"])
    with open_gallery(str(tmp_path / "gallery"), encoder, photos) as gallery:
        names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
        index(gallery, encoder, {name: {"camera": f"c{place % 3}"} for place, name in enumerate(names)})
        searcher = Searcher(encoder, gallery)
        alone = [found(searcher.search(**one)) for one in ASKED]
        sizes, real = [], searcher.batches.run
        searcher.batches.run = lambda jobs: sizes.append(len(jobs)) or real(jobs)
        for cold in (True, False):
            if cold:
                searcher.tokens.cache.tokens.clear()
            with waiting(searcher, searches(searcher)) as together:
                pass
            assert [found(one) for one in together] == alone
        assert sizes == [len(ASKED), len(ASKED)]
        assert alone[0][1] and alone[3][1] and alone[4][1][0][2]  # there are hits, and moments


def test_a_search_that_finds_nobody_waiting_begins_at_once(searcher, batches):
    searcher.search(**ASKED[0])
    searcher.search(**ASKED[1])
    assert batches == [[ASKED[0]["text"]], [ASKED[1]["text"]]]


def test_without_batching_each_is_answered_by_itself(searcher, monkeypatch):
    one_by_one = Searcher(searcher.encoder, searcher.gallery, together=False)
    sizes, real = [], one_by_one.batches.run
    monkeypatch.setattr(one_by_one.batches, "run", lambda jobs: sizes.append(len(jobs)) or real(jobs))
    expected = [found(searcher.search(**one)) for one in ASKED[:3]]
    with waiting(one_by_one, searches(one_by_one, ASKED[:3])) as answers:
        pass
    assert sizes == [1, 1, 1] and [found(one) for one in answers] == expected


def test_a_fault_of_one_search_is_that_of_this_one_alone(searcher, monkeypatch):
    expected, real = found(searcher.search(**ASKED[0])), searcher.encoder.model.embed_text
    length = len(searcher.encoder.tokenize("poison").encoded.ids)

    def embed(text):
        if text.ids.shape[1] == length:
            raise RuntimeError("not enough memory")
        return real(text)

    monkeypatch.setattr(searcher.encoder.model, "embed_text", embed)
    wrong = [
        {"text": " ?!"},
        {"text": "a man", "where": "camera = 5 or"},
        {"text": "a man", "where": "bogus == 'c1'"},
        {"text": "a man", "group": "bogus"},
        {"text": "poison"},
    ]
    with waiting(searcher, searches(searcher, [ASKED[0], *wrong, ASKED[0]])) as answers:
        pass
    assert found(answers[0]) == found(answers[-1]) == expected
    for answer, words in zip(answers[1:5], ["no word", "not understood", "no metadata", "no metadata"], strict=True):
        assert isinstance(answer, UserError) and words in str(answer)
    assert isinstance(answers[5], RuntimeError)
    assert found(searcher.search(**ASKED[0])) == expected  # and the next one is answered


def test_all_else_comes_after_one_batch_and_large_searches_by_themselves(searcher, batches, monkeypatch):
    monkeypatch.setattr(searcher.model_lock, "max_batch_size", 300)
    texts = [f"a man in a {colour} shirt" for colour in ("red", "green", "blue", "white", "black")]
    order = []

    def upload():
        with searcher.model_lock:
            order.append(len(batches))

    def search(text, candidates):
        return lambda: searcher.search(text, candidates=candidates)

    calls = [search(texts[0], 100), upload, search(texts[1], 100), search(texts[2], 1000), search(texts[3], 100)]
    with waiting(searcher, calls):
        pass
    assert batches == [texts[:2], [texts[2]], [texts[3]]]
    assert order == [1]


def test_a_search_that_nobody_waits_for_is_dropped(searcher, batches):
    left = threading.Event()
    calls = [*searches(searcher, ASKED[:1]), lambda: searcher.search("a man", abandoned=left.is_set)]
    with waiting(searcher, [calls[1], calls[0], calls[1]]) as answers:
        left.set()
    assert [type(one) for one in answers[::2]] == [Abandoned, Abandoned] and answers[1].hits
    assert batches == [[ASKED[0]["text"]]]


def test_a_client_that_has_left_is_not_searched_for(searcher, batches):
    pytest.importorskip("gradio")
    import uvicorn

    from search.access.addresses import open_sockets
    from search.site import build_site

    (socket,) = open_sockets("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_site(searcher), log_level="critical"))
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()

    def ask(text):
        client = http.client.HTTPConnection("127.0.0.1", socket.getsockname()[1], timeout=LONG)
        client.request("POST", "/api/search", json.dumps({"text": text}), {"Content-Type": "application/json"})
        return client

    try:
        with searcher.model_lock:
            leaves, stays = ask("a man who leaves"), ask(ASKED[0]["text"])
            wait_until(lambda: len(searcher.model_lock.waiting) == 2)
            jobs = [job for job in searcher.model_lock.waiting if job.text == "a man who leaves"]
            leaves.close()
            wait_until(jobs[0].abandoned)
        answer = stays.getresponse()
        assert answer.status == 200 and json.load(answer)["hits"]
        assert batches == [[ASKED[0]["text"]]]
    finally:
        server.should_exit = True
        thread.join(LONG)


@pytest.mark.parametrize("wanted", [{}, {"group": "camera"}, {"group": "alike"}, {"candidates": 0}])
def test_an_image_that_is_erased_while_it_is_found_is_left_out(searcher, monkeypatch, wanted):
    before, real = searcher.search(**ASKED[0], **wanted).hits, searcher.gallery.store.search_all
    gone = before[0].path

    def search_all(*arguments):
        answers = real(*arguments)
        searcher.gallery.records.remove([gone])
        return answers

    monkeypatch.setattr(searcher.gallery.store, "search_all", search_all)
    found = searcher.search(**ASKED[0], **wanted)
    assert found.hits and gone not in found.missing
    assert gone not in [hit.path for best in found.hits for hit in (best, *best.moments)]


# ---- the lock itself --------------------------------------------------------------------


def test_the_queue_is_fair_and_may_be_entered_twice():
    queue, order, threads = BatchingLock(1), [], []

    def take(number):
        with queue, queue:
            order.append(number)
            if number % 2:
                raise UserError("it is released all the same")

    def run(number):
        with pytest.raises(UserError) if number % 2 else contextmanager(lambda: iter([None]))():
            take(number)

    with queue:
        for number in range(6):
            threads.append(threading.Thread(target=run, args=(number,), daemon=True))
            threads[-1].start()
            wait_until(lambda: len(queue.waiting) == len(threads))
        assert order == []
    for thread in threads:
        thread.join(LONG)
    assert order == list(range(6)) and queue.holder is None and not queue.waiting


def test_an_interruption_of_who_computes_lets_the_others_go_on():
    queue, outcomes = BatchingLock(10), []

    def work(jobs):
        if len(outcomes) == 0:
            raise KeyboardInterrupt
        for job in jobs:
            job.finish()

    def run():
        try:
            queue.run(BatchJob(1), work)
            outcomes.append("done")
        except KeyboardInterrupt:
            outcomes.append("interrupted")

    threads = [threading.Thread(target=run, daemon=True) for _ in range(3)]
    with queue:
        for count, thread in enumerate(threads, 1):
            thread.start()
            wait_until(lambda: len(queue.waiting) == count)  # noqa: B023
    for thread in threads:
        thread.join(LONG)
    assert outcomes == ["interrupted"] * 3 and queue.holder is None
    queue.run(BatchJob(1), lambda jobs: jobs[0].finish())


def test_an_empty_gallery_has_no_groups(searcher):
    searcher.gallery.forget(list(searcher.gallery.records.by_path))
    assert searcher.search("a man in a white shirt", group="alike").hits == []
    assert searcher.search("a man in a white shirt").hits == []
