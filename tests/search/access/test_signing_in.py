"""Signing in, attacked: by guessing, and with stolen, forged, planted and ended sessions."""

import pytest
from search_access import HERE, OTHER, PASSWORD, client_of, lines, sign_in

from search.access import passwords, sessions
from search.access.logins import MAX_WAITING

COOKIE = "__Host-person-search"
JSON_HEADERS = {"Origin": HERE}


# ---- signing in ------------------------------------------------------------------------


def test_who_signs_in_gets_in_and_out(guarded, client):
    assert client.get("/", headers={"Accept": "text/html"}).headers["location"] == "/login"
    form = client.get("/login")
    assert form.status_code == 200 and "http" not in form.text  # nothing is loaded from anywhere
    assert "default-src 'none'" in form.headers["content-security-policy"]
    answer = sign_in(client)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert cookie.partition("; ")[2] == "Path=/; HttpOnly; SameSite=Strict; Secure"
    assert client.get("/").json()["who"] == "anna"
    assert "You are signed in as anna and may: search" in client.get("/account").text
    stolen = client.cookies[COOKIE]
    assert client.post("/logout", headers=JSON_HEADERS).headers["location"] == "/login"
    again = client_of(guarded.gate, cookies={COOKIE: stolen})
    assert again.get("/").status_code == 401
    assert [line["action"] for line in lines(guarded)] == ["login", "logout"]


def test_without_tls_a_cookie_is_not_secure_and_has_another_name(guarded):
    cookie = sign_in(client_of(guarded.gate, "http://photos.example")).headers["set-cookie"]
    assert cookie.startswith("person-search=") and "Secure" not in cookie


@pytest.mark.parametrize(
    ("user", "password"),
    [("anna", OTHER), ("nobody", PASSWORD), ("", ""), ("anna", ""), ("anna", PASSWORD.upper()), ("anna\n", PASSWORD)],
)
def test_wrong_users_and_passwords_are_told_alike(guarded, client, user, password):
    answer = sign_in(client, user, password)
    assert answer.status_code == 401 and "the user or the password is wrong" in answer.text
    assert "set-cookie" not in answer.headers and "wrong horse" not in guarded.audit.read_text()
    (line,) = lines(guarded)
    assert line["action"] == "login refused" and line["who"] == ("anna" if user == "anna" else None)


@pytest.mark.parametrize(
    "form",
    [b"", b"user=anna", b"user=anna&user=otto&password=x", b"\xff\xfe", b"user=anna&password=%ff", b"a&b&c&d&e", b"{}"],
)
def test_a_form_that_is_none_is_refused(client, form):
    kind = {"Content-Type": "application/x-www-form-urlencoded", **JSON_HEADERS}
    assert client.post("/login", content=form, headers=kind).status_code == 400


def test_a_name_is_found_as_it_is_typed_on_any_keyboard(guarded, client):
    passwords.set_password(guarded.users, "zoë", "pässwort pässwort", ["search"])
    assert sign_in(client, "zoe\u0308", "pa\u0308sswort pa\u0308sswort").status_code == 303
    assert client.get("/").json()["who"] == "zoë"


# ---- guessing --------------------------------------------------------------------------


def test_guessing_at_a_user_ends_soon(guarded, client):
    for _ in range(10):
        assert sign_in(client, password=OTHER).status_code == 401
    refused = sign_in(client, password=PASSWORD)  # even the right one, or guessing would go on
    assert refused.status_code == 429 and 0 < int(refused.headers["retry-after"]) <= 900
    assert sign_in(client_of(guarded.gate, client=("192.0.2.9", 1)), password=PASSWORD).status_code == 303
    assert sign_in(client, "otto").status_code == 303  # another user of the same address
    for _ in range(200):
        assert sign_in(client, password=OTHER).status_code == 429
    told = [line for line in lines(guarded) if line["action"] == "logins refused unseen"]
    assert len(told) == 1  # nobody fills the disk


def test_attempts_that_nobody_looked_at_are_no_guesses(guarded, client):
    guarded.logins.waiting = MAX_WAITING
    assert [sign_in(client).status_code for _ in range(12)] == [429] * 12
    guarded.logins.waiting = 0
    guarded.users.chmod(0o644)
    assert [sign_in(client).status_code for _ in range(12)] == [503] * 12
    guarded.users.chmod(0o600)
    assert sign_in(client).status_code == 303


def test_guessing_at_many_users_ends_soon(guarded, client):
    answers = [sign_in(client, f"user{n}", OTHER).status_code for n in range(40)]
    assert answers == [401] * 30 + [429] * 10


def test_guessing_from_many_addresses_ends_too(guarded):
    def guess(number):
        return sign_in(client_of(guarded.gate, client=(f"192.0.2.{number}", 1)), password=OTHER).status_code

    assert [guess(number) for number in range(60)] == [401] * 50 + [429] * 10


def test_addresses_of_one_network_of_ipv6_are_one(guarded):
    def guess(number):
        return sign_in(client_of(guarded.gate, client=(f"2001:db8:1:2::{number:x}", 1)), password=OTHER).status_code

    assert [guess(number) for number in range(12)] == [401] * 10 + [429] * 2


def test_wrong_tokens_are_counted_and_right_ones_are_not(guarded):
    client = client_of(guarded.gate)
    right = {"Authorization": f"Bearer {guarded.camera}"}
    answers = [client.get("/", headers={"Authorization": "Bearer search_x"}).status_code for _ in range(32)]
    assert answers == [401] * 30 + [429] * 2
    assert client.post("/api/images", content=b"x", headers=right).json()["who"] == "camera"


# ---- sessions --------------------------------------------------------------------------


@pytest.mark.parametrize("identity", ["", "x", "0" * 43, "../../etc/passwd", "é", "a" * 5000, '"; DROP TABLE'])
def test_forged_sessions_open_nothing(guarded, identity):
    client = client_of(guarded.gate)
    answer = client.get("/", headers={"Cookie": f"{COOKIE}={identity}".encode()})
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"


def test_a_session_ends_when_it_is_idle_and_when_it_is_old(guarded, anna):
    now = [0.0]
    guarded.logins.sessions.clock = lambda: now[0]
    assert sign_in(anna).status_code == 303
    now[0] = sessions.IDLE - 1
    assert anna.get("/").status_code == 200
    now[0] += sessions.IDLE - 1
    assert anna.get("/").status_code == 200
    now[0] += sessions.IDLE
    assert anna.get("/").status_code == 401
    assert sign_in(anna).status_code == 303
    for _ in range(sessions.LONGEST // (sessions.IDLE - 60)):
        now[0] += sessions.IDLE - 60
        assert anna.get("/").status_code == 200
    now[0] += sessions.IDLE - 60
    assert anna.get("/").status_code == 401  # however busy it is


def test_signing_in_gives_another_session_and_ends_the_one_before(guarded, anna):
    before = anna.cookies[COOKIE]
    sign_in(anna)
    assert anna.cookies[COOKIE] != before and anna.get("/").status_code == 200
    assert client_of(guarded.gate, cookies={COOKIE: before}).get("/").status_code == 401


def test_a_session_that_an_attacker_planted_is_not_taken(guarded):
    planted = "attackers-choice-attackers-choice-attackers"
    client = client_of(guarded.gate, cookies={COOKIE: planted})
    assert planted not in sign_in(client).headers["set-cookie"]
    assert client_of(guarded.gate, cookies={COOKIE: planted}).get("/").status_code == 401


def test_of_two_cookies_none_counts(guarded, anna):
    own = anna.cookies[COOKIE]
    fresh = client_of(guarded.gate)
    assert fresh.get("/", headers={"Cookie": f"{COOKIE}={own}"}).status_code == 200
    assert fresh.get("/", headers={"Cookie": f"{COOKIE}=planted; {COOKIE}={own}"}).status_code == 401


def test_who_is_removed_or_has_another_password_is_out_at_once(guarded, client):
    sign_in(client)
    passwords.set_password(guarded.users, "anna", PASSWORD + "!", ["search"])
    assert client.get("/").status_code == 401
    assert sign_in(client, password=PASSWORD + "!").status_code == 303 and client.get("/").status_code == 200
    passwords.remove_user(guarded.users, "anna")
    assert client.get("/").status_code == 401


def test_a_file_that_cannot_be_read_lets_nobody_in(guarded, anna):
    guarded.users.chmod(0o644)
    assert anna.get("/").status_code == 503 and str(guarded.users) not in anna.get("/").text
    guarded.users.chmod(0o600)
    assert anna.get("/").status_code == 200
    guarded.users.write_text("{")
    assert anna.get("/").status_code == 503
    guarded.users.unlink()
    assert anna.get("/").status_code == 503


def test_a_stream_ends_with_its_session(guarded, anna):
    whole = anna.get("/gradio_api/queue/data").text
    assert whole.split() == [str(number) for number in range(50)]

    def removed(number):
        if number == 3:
            passwords.remove_user(guarded.users, "anna")

    guarded.gate.site.state.each = removed
    assert anna.get("/gradio_api/queue/data").text.split() == ["0", "1", "2", "3"]


def test_sessions_are_few(guarded):
    held = guarded.logins.sessions
    user = passwords.read_users(guarded.users)["anna"]
    first = held.begin("anna", user)
    for _ in range(sessions.MAX_PER_USER):
        held.begin("anna", user)
    assert held.find(first) is None and len(held.held) == sessions.MAX_PER_USER
    for number in range(sessions.MAX_SESSIONS + 10):
        held.begin(f"user{number}", user)
    assert len(held.held) == sessions.MAX_SESSIONS


# ---- the log ---------------------------------------------------------------------------


def test_nobody_signs_in_unrecorded(guarded, client):
    guarded.audit.chmod(0o644)
    answer = sign_in(client)
    assert answer.status_code == 503 and "set-cookie" not in answer.headers
    assert client.get("/").status_code == 401 and not guarded.logins.sessions.held
