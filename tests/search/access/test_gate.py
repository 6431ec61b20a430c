"""The gate, attacked: without a password, with stolen, forged and ended sessions, from other sites and by headers."""

import json

import pytest
from search_access import HERE, OTHER, PASSWORD, client_of, sign_in

from search.access import passwords, sessions
from search.access.gate import Gate
from search.access.origins import Origins
from search.access.routes import ROUTES

COOKIE = "__Host-person-search"
JSON_HEADERS = {"Origin": HERE}


@pytest.fixture
def client(guarded):
    return client_of(guarded.gate)


@pytest.fixture
def anna(client):
    assert sign_in(client).status_code == 303
    return client


def lines(guarded):
    return [json.loads(line) for line in guarded.audit.read_text().splitlines()]


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
    for _ in range(sessions.MOST_OF_USER):
        held.begin("anna", user)
    assert held.find(first) is None and len(held.held) == sessions.MOST_OF_USER
    for number in range(sessions.MOST + 10):
        held.begin(f"user{number}", user)
    assert len(held.held) == sessions.MOST


# ---- other sites -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://photos.example"},
        {"Origin": "https://photos.example:8443"},
        {"Origin": "https://sub.photos.example"},
        {"Origin": "https://photos.example.evil.example"},
        {"Origin": ""},
        {"Origin": HERE, "Sec-Fetch-Site": "cross-site"},
        {"Origin": HERE, "Sec-Fetch-Site": "same-site"},
        {},
    ],
)
def test_pages_of_other_sites_change_nothing(guarded, anna, headers):
    for method, path in (("POST", "/api/search"), ("POST", "/gradio_api/queue/join"), ("POST", "/logout")):
        assert anna.request(method, path, headers=headers).status_code == 403, path
    assert anna.get("/").status_code == 200
    fresh = client_of(guarded.gate)
    answer = fresh.post("/login", data={"user": "otto", "password": PASSWORD}, headers=headers)
    assert answer.status_code == 403 and "set-cookie" not in answer.headers  # nobody is signed in as somebody else


def test_pages_of_other_sites_read_nothing(anna):
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "null"}):
        answer = anna.get("/api/images/1", headers=headers)
        assert answer.status_code == 403 and not [n for n in answer.headers if n.startswith("access-control")]
    visit = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert anna.get("/", headers=visit).status_code == 200  # a link is followed
    assert anna.get("/", headers={**visit, "Sec-Fetch-Dest": "iframe"}).status_code == 403


def test_a_browser_is_told_to_keep_out_of_frames_and_caches(anna):
    for path in ("/", "/login", "/nothing"):
        headers = anna.get(path).headers
        assert headers["x-frame-options"] == "DENY" and "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"


# ---- routes and roles ------------------------------------------------------------------


def path_like(pattern):
    return (
        pattern.replace("[^/]+", "abc")
        .replace("[^?]+", "abc")
        .replace("/?", "")
        .replace(".+", "abc")
        .replace("(assets|static|svelte)", "assets")
    )


def test_each_role_may_do_what_the_table_says(guarded):
    clients = {"anna": client_of(guarded.gate), "otto": client_of(guarded.gate)}
    for name, one in clients.items():
        sign_in(one, name)
    for route in ROUTES:
        path = path_like(route.pattern)
        if path == "/logout":
            continue
        for name, one in clients.items():
            status = one.request(route.method, path, headers=JSON_HEADERS).status_code
            may = name == "otto" or route.needs in ("search", "anyone", "signed in")
            assert (status != 403) is may, (name, route, status)
        program = client_of(guarded.gate, headers={"Authorization": f"Bearer {guarded.camera}"})
        status = program.request(route.method, path).status_code
        assert (status != 403) is (route.needs in ("upload", "anyone", "signed in")), (route, status)


def test_nothing_of_the_table_answers_without_a_password(guarded):
    client = client_of(guarded.gate)
    for route in ROUTES:
        if route.needs != "anyone":
            answer = client.request(route.method, path_like(route.pattern), headers=JSON_HEADERS)
            assert answer.status_code == 401 and set(answer.json()) == {"error"}, route


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=http://169.254.169.254/"),
        ("GET", "/monitoring"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/run/predict"),
        ("PUT", "/api/images/1"),
        ("OPTIONS", "/api/search"),
        ("HEAD", "/"),
        ("TRACE", "/"),
        ("GET", "//api/gallery"),
        ("GET", "/api/gallery/"),
        ("GET", "/api/images/a/b"),
        ("GET", "/API/gallery"),
        ("GET", "/assets/%2e%2e/%2e%2e/etc/passwd"),
        ("GET", "/assets/..%5c..%5cetc%5cpasswd"),
        ("GET", "/login%2f..%2fapi%2fgallery"),
        ("GET", "/api/gallery%00"),
        ("GET", "/api/gallery%0a"),
        ("GET", "/nothing"),
    ],
)
def test_a_route_that_is_in_no_table_is_refused(guarded, method, path):
    otto = client_of(guarded.gate)
    sign_in(otto, "otto")
    for one, status in ((otto, 404), (client_of(guarded.gate), 401)):
        answer = one.request(method, path, headers=JSON_HEADERS)
        assert answer.status_code == status, (path, answer.text)


def test_there_are_no_websockets(guarded, anna):
    from starlette.websockets import WebSocketDisconnect

    for client in (client_of(guarded.gate), anna):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/gradio_api/queue/join"):
            pass


# ---- headers ---------------------------------------------------------------------------

SMUGGLED = {
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/login",
    "Forwarded": "for=127.0.0.1;host=evil.example",
    "X-Real-IP": "127.0.0.1",
    "X-Original-URL": "/api/gallery",
    "X-Rewrite-URL": "/api/gallery",
    "X-HTTP-Method-Override": "DELETE",
    "X-Gradio-Server": "https://evil.example",
    "X_Forwarded_For": "127.0.0.1",
}


def test_what_a_request_says_of_itself_is_not_believed(guarded, anna):
    seen = anna.get("/api/gallery", headers=SMUGGLED).json()
    assert seen["url"] == f"{HERE}/api/gallery" and seen["client"] == "testclient"
    assert not {name.lower() for name in SMUGGLED} & set(seen["headers"])
    assert client_of(guarded.gate).get("/login", headers=SMUGGLED).status_code == 200
    assert client_of(guarded.gate).get("/api/gallery", headers=SMUGGLED).status_code == 401
    guess = {**SMUGGLED}
    answers = []
    for number in range(12):  # another address for every guess
        guess["X-Forwarded-For"] = f"192.0.2.{number}"
        answers.append(sign_in(client_of(guarded.gate), password=OTHER, **guess).status_code)
    assert answers == [401] * 10 + [429] * 2


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("photos.example", 401),
        ("PHOTOS.example:7860", 401),
        ("192.0.2.7:7860", 401),
        ("[2001:db8::1]:7860", 401),
        ("localhost", 401),
        ("evil.example", 403),
        ("photos.example.evil.example", 403),
        ("photos.example@evil.example", 403),
        ("evil.example/photos.example", 403),
        ("photos.example\\.evil.example", 403),
        ("", 403),
        ("[::1", 403),
        ("photos.example, evil.example", 403),
    ],
)
def test_only_names_of_this_server_are_answered(guarded, host, status):
    answer = client_of(guarded.gate).get("/api/gallery", headers={"Host": host})
    assert answer.status_code == status, answer.text


def behind_proxy(guarded, **more):
    gate = Gate(guarded.gate.site, guarded.logins, Origins(["photos.example"], ["10.0.0.1"], **more), "/people")
    return lambda address="10.0.0.1": client_of(gate, "http://photos.example", client=(address, 1))


def test_a_proxy_says_who_asks_and_how(guarded):
    client = behind_proxy(guarded)()
    said = {"X-Forwarded-For": "6.6.6.6, 192.0.2.7", "X-Forwarded-Proto": "https"}
    assert client.get("/", headers={"Accept": "text/html", **said}).headers["location"] == "/people/login"
    answer = sign_in(client, Origin=HERE, **said)
    assert (
        answer.status_code == 303
        and answer.headers["location"] == "/people/"
        and "Secure" in answer.text + str(answer.headers)
    )
    cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    for path in ("/people/api/gallery", "/api/gallery"):  # whether the proxy takes its path away or not
        seen = client.get(path, headers={**said, **cookie}).json()
        assert (seen["who"], seen["client"], seen["url"]) == ("anna", "192.0.2.7", f"{HERE}/api/gallery")
    assert "action='/people/login'" in client.get("/people/login", headers=said).text


def test_nobody_but_the_proxy_is_believed(guarded):
    at = behind_proxy(guarded)
    said = {"X-Forwarded-For": "10.0.0.1", "X-Forwarded-Proto": "https"}
    assert at("192.0.2.66").get("/login", headers=said).status_code == 403
    assert at().get("/login").status_code == 403  # the proxy does not say that this is encrypted
    assert at().get("/login", headers={"X-Forwarded-Proto": "http"}).status_code == 403
    assert at().get("/login", headers={**said, "X-Forwarded-For": "no address"}).status_code == 400
    assert behind_proxy(guarded, encrypted=False)().get("/login").status_code == 200


# ---- bodies ----------------------------------------------------------------------------


def test_large_bodies_are_refused_before_they_are_read(guarded, anna):
    large = anna.post("/api/search", content=b"x" * (64 * 1024 + 1), headers=JSON_HEADERS)
    assert large.status_code == 413 and large.json()["error"] == "the body of this request may have at most 65536 bytes"
    assert anna.post("/api/search", content=b"x" * 64 * 1024, headers=JSON_HEADERS).json()["bytes"] == 64 * 1024

    def drops():
        for _ in range(100):
            yield b"x" * 1024

    assert anna.post("/api/search", content=drops(), headers=JSON_HEADERS).status_code == 413  # of no announced length
    assert anna.post("/login", content=b"x" * 5000, headers=JSON_HEADERS).status_code == 413
    for length in ("-1", "1e3", "9" * 30):
        assert anna.post("/api/search", headers={**JSON_HEADERS, "Content-Length": length}).status_code in (400, 413)


# ---- the log ---------------------------------------------------------------------------


def test_nobody_signs_in_unrecorded(guarded, client):
    guarded.audit.chmod(0o644)
    answer = sign_in(client)
    assert answer.status_code == 503 and "set-cookie" not in answer.headers
    assert client.get("/").status_code == 401 and not guarded.logins.sessions.held
