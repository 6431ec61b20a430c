"""The gate, attacked: without a password or a role, from other sites, by headers and by bodies."""

import pytest
from search_access import HERE, OTHER, PASSWORD, client_of, sign_in

from search.access.gate import Gate
from search.access.origins import Origins
from search.access.routes import ROUTES

COOKIE = "__Host-person-search"
JSON_HEADERS = {"Origin": HERE}


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
