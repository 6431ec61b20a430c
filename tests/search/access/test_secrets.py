"""Files of users and tokens: what they hold tells no secret, others cannot read them, and they are made by commands."""

import json
import statistics
import threading
import time

import pytest
from in_process import call
from search_access import OTHER, PASSWORD

from search.__main__ import main
from search.access import commands, passwords, tokens
from search.access.attempts import BUCKETS, LIMITS, LoginRateLimiter, network_of
from search.access.passwords import check_password, read_users, set_password
from search.access.private_files import ReloadingFile
from utils.errors import Unavailable, UserError


def test_a_password_is_kept_as_a_hash_alone(tmp_path):
    file = tmp_path / "people.json"
    assert set_password(file, "anna", PASSWORD, ["forget", "search", "search"])
    assert file.stat().st_mode & 0o777 == 0o600
    said = file.read_text()
    assert PASSWORD not in said and PASSWORD.encode().hex() not in said
    (kept,) = json.loads(said)["users"].values()
    assert kept["roles"] == ["search", "forget"]
    assert (kept["password"]["n"], kept["password"]["r"], kept["password"]["p"]) == (2**15, 8, 3)
    users = read_users(file)
    assert check_password(users, "anna", PASSWORD) == users["anna"]
    assert check_password(users, "anna", OTHER) is None and check_password(users, "Anna", PASSWORD) is None
    assert not set_password(file, "anna", OTHER, ["search"])  # changed, not added
    assert read_users(file)["anna"].password.salt != kept["password"]["salt"]


def test_an_unknown_user_takes_as_long_as_a_wrong_password(tmp_path):
    set_password(tmp_path / "people.json", "anna", PASSWORD, ["search"])
    users = read_users(tmp_path / "people.json")

    def seconds(name, password):
        """Of the processor, which other processes do not lengthen."""
        taken = []
        for _ in range(5):
            start = time.process_time()
            assert check_password(users, name, password) is None
            taken.append(time.process_time() - start)
        return statistics.median(taken)

    known, unknown, empty = seconds("anna", OTHER), seconds("nobody", OTHER), seconds("", "")
    assert 0.5 < unknown / known < 2 and 0.5 < empty / known < 2 and known > 0.01


@pytest.mark.parametrize("what", ["users", "tokens"])
def test_of_changes_at_once_none_is_lost(tmp_path, cheap, monkeypatch, what):
    file, names = tmp_path / "secrets.json", [f"name{number}" for number in range(8)]
    module = passwords if what == "users" else tokens
    read = getattr(module, f"read_{what}")

    def read_slowly(path):
        found = read(path)
        time.sleep(0.05)  # within which others read the same
        return found

    def add(name):
        if what == "users":
            set_password(file, name, PASSWORD, ["search"])
        else:
            tokens.new_token(file, name, ["search"])

    add("first")
    monkeypatch.setattr(module, f"read_{what}", read_slowly)
    threads = [threading.Thread(target=add, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read(file)) == {"first", *names}


@pytest.mark.parametrize(
    ("name", "password", "words"),
    [
        ("anna", "short", "a password has 12 to 1024 characters, this one 5"),
        ("anna", "x" * 1025, "12 to 1024 characters"),
        ("anna", "aaaaaaaaaaaa", "would be guessed"),
        ("annaannaanna", "AnnaAnnaAnna", "would be guessed"),
        ("", PASSWORD, "cannot be a name"),
        ("anna\n", PASSWORD, "cannot be a name"),
        ("anna otto", PASSWORD, "cannot be a name"),
        ("x" * 65, PASSWORD, "cannot be a name"),
    ],
)
def test_names_and_passwords_that_are_none_are_told(tmp_path, name, password, words):
    with pytest.raises(UserError, match=words) as told:
        set_password(tmp_path / "people.json", name, password, ["search"])
    assert password not in str(told.value) or (not password and not (tmp_path / "people.json").exists())


def kept(**more):
    """What a file of one user holds, with something else in it."""
    password = {"n": 16, "r": 8, "p": 1, "salt": "0" * 32, "hash": "0" * 64, **more.pop("password", {})}
    return json.dumps({"format": 1, "users": {"anna": {"roles": ["search"], "password": password, **more}}})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not valid JSON"),
        ("[]", "was not written by `python -m search password`"),
        (kept(roles=["admin"]), r"users.anna.roles.0"),
        (kept(roles=[]), "users.anna.roles"),
        (kept(more=1), "users.anna.more"),
        (kept(password={"n": 2**40}), "users.anna.password.n"),
        (kept(password={"hash": ""}), "users.anna.password.hash"),
        ("x" * (2**20 + 1), "more than 1 MiB"),
    ],
)
def test_a_file_that_is_another_one_is_told(tmp_path, content, words):
    file = tmp_path / "people.json"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(UserError, match=words) as told:
        read_users(file)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666, 0o601])
def test_a_file_that_others_can_use_is_refused(tmp_path, mode):
    for name, read in (("people.json", read_users), ("tokens.json", tokens.read_tokens)):
        (tmp_path / name).write_text(kept())
        (tmp_path / name).chmod(mode)
        with pytest.raises(UserError, match="can be used by others: chmod 600"):
            read(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, words in (
        (tmp_path, "is not a file|Is a directory"),
        (tmp_path / "pipe", "is not a file"),
        (tmp_path / "x", "exist"),
    ):
        with pytest.raises(UserError, match=words):
            read_users(path)


def test_a_file_is_read_again_when_it_changes(tmp_path, cheap):
    file = tmp_path / "people.json"
    set_password(file, "anna", PASSWORD, ["search"])
    watched = ReloadingFile(file, read_users)
    assert list(watched.current()) == ["anna"]
    set_password(file, "otto", PASSWORD, ["search"])
    assert list(watched.current()) == ["anna", "otto"]
    file.chmod(0o644)
    for _ in range(2):
        with pytest.raises(Unavailable, match="chmod 600"):
            watched.current()
    file.chmod(0o600)
    assert list(watched.current()) == ["anna", "otto"]


# ---- tokens ----------------------------------------------------------------------------


def test_a_token_is_known_and_its_file_does_not_tell_it(tmp_path):
    file = tmp_path / "tokens.json"
    camera, desk = tokens.new_token(file, "camera", ["upload"]), tokens.new_token(file, "desk", ["search"])
    assert file.stat().st_mode & 0o777 == 0o600 and camera not in file.read_text() and len(camera) >= 43
    held = tokens.read_tokens(file)
    name, entry = tokens.check_token(held, camera)
    assert (name, entry.roles) == ("camera", ("upload",)) and tokens.check_token(held, desk)[0] == "desk"
    for wrong in ("", camera[:-1], camera + "x", camera.upper(), entry.sha256, "é\ud800"):
        assert tokens.check_token(held, wrong) is None
    again = tokens.new_token(file, "camera", ["upload"])
    assert tokens.check_token(tokens.read_tokens(file), camera) is None
    tokens.remove_token(file, "camera")
    assert tokens.check_token(tokens.read_tokens(file), again) is None


# ---- counting attempts -----------------------------------------------------------------


def test_attempts_are_forgotten_after_a_while():
    now = [0.0]
    attempts = LoginRateLimiter(clock=lambda: now[0])
    names = {"user": "anna"}
    for _ in range(LIMITS["user"]):
        assert attempts.try_acquire(names) == 0
    assert attempts.try_acquire(names) == attempts.window and attempts.try_acquire({"user": "otto"}) == 0
    now[0] = 100
    assert attempts.try_acquire(names) == attempts.window - 100
    now[0] = attempts.window + 1
    assert attempts.try_acquire(names) == 0


def test_a_right_attempt_does_not_count():
    attempts = LoginRateLimiter()
    for _ in range(1000):
        assert attempts.try_acquire({"user": "anna"}) == 0
        attempts.refund({"user": "anna"})


def test_memory_of_attempts_is_bounded():
    attempts = LoginRateLimiter()
    for number in range(100_000):
        attempts.try_acquire({"address": f"a{number}", "user": f"u{number}", "address and user": f"{number}"})
    assert len(attempts.buckets) <= BUCKETS
    assert max(len(bucket.times) for bucket in attempts.buckets.values()) <= max(LIMITS.values())


def test_what_counts_as_one_address():
    assert network_of("192.0.2.7") == network_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db8:0:1::1")
    assert network_of("no address") == "no address"


# ---- the commands ----------------------------------------------------------------------


@pytest.fixture
def typed(monkeypatch):
    """What standard input holds."""
    import io

    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_the_command_reads_a_password_from_standard_input(tmp_path, typed, cheap):
    file = tmp_path / "people.json"
    typed(PASSWORD + "\n")
    done = call(main, "password", file, "anna", "--role", "search", "upload")
    assert done.code == 0 and "anna is added" in done.output and "search, upload" in done.output
    assert PASSWORD not in done.output + done.errors and file.stat().st_mode & 0o777 == 0o600
    assert check_password(read_users(file), "anna", PASSWORD).roles == ("search", "upload")
    typed(OTHER)
    assert "anna is changed" in call(main, "password", file, "anna").output
    assert call(main, "password", file, "anna", "--remove").code == 0 and not read_users(file)


def test_the_command_asks_twice_in_a_terminal(tmp_path, monkeypatch, cheap):
    answers = [PASSWORD, PASSWORD, PASSWORD, OTHER]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(commands.getpass, "getpass", lambda prompt: answers.pop(0))
    assert call(main, "password", tmp_path / "people.json", "anna").code == 0
    done = call(main, "password", tmp_path / "people.json", "anna")
    assert done.code == 2 and "these are two passwords; nothing is changed" in done.errors


@pytest.mark.parametrize(
    ("arguments", "text", "words"),
    [
        (("people.json", "anna"), "", "standard input holds no password"),
        (("people.json", "anna"), "short\n", "a password has 12"),
        (("people.json", "a b"), PASSWORD, "cannot be a name"),
        (("people.json", "anna", "--role", "admin"), PASSWORD, "invalid choice: 'admin'"),
        (("people.json", "anna", "--remove"), "", "does not exist"),
        (("people.json", "anna", "--remove", "--role", "search"), "", "not allowed with"),
        (("open.json", "anna"), PASSWORD, "chmod 600"),
        ((".", "anna"), PASSWORD, "is a folder"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(tmp_path, typed, monkeypatch, arguments, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "open.json").write_text(kept())
    typed(text)
    done = call(main, "password", *arguments)
    assert done.code == 2 and words in done.errors and len(done.errors.splitlines()) == 1
    assert "Traceback" not in done.errors and PASSWORD not in done.errors


def test_the_command_prints_a_token_once(tmp_path):
    file = tmp_path / "tokens.json"
    done = call(main, "token", file, "camera", "--role", "upload")
    token = done.output.strip()
    assert done.code == 0 and token.startswith("search_") and token not in file.read_text() + done.errors
    assert tokens.check_token(tokens.read_tokens(file), token)[0] == "camera"
    assert call(main, "token", file, "camera", "--remove").code == 0
    assert "has no token 'camera'; it has none" in call(main, "token", file, "camera", "--remove").errors
