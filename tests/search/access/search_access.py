"""A site behind the gate, without a model: what it answers with shows what came through."""

import json
import re
import subprocess
import sys

import pytest
from benchmark_data import REPOSITORY, environment
from preloaded import Popen

pytest.importorskip("fastapi")

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from search.access.callers import current_caller

PASSWORD, OTHER = "correct horse battery", "wrong horse battery"
HERE = "https://photos.example"


def stub_site():
    """Answers every route of the table, and some that are in none, with who asks and what the request says."""
    site = FastAPI(openapi_url=None)
    site.state.each = lambda number: None

    @site.get("/gradio_api/queue/data")
    async def stream():
        async def parts():
            for number in range(50):
                yield f"{number}\n"
                site.state.each(number)

        return StreamingResponse(parts())

    @site.api_route("/{path:path}", methods=["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE"])
    async def answer(request: Request):
        caller = current_caller()
        body = await request.body()
        return {
            "who": caller.name if caller else None,
            "url": str(request.url),
            "client": request.client.host,
            "headers": dict(request.headers),
            "bytes": len(body),
        }

    return site


def client_of(gate, base=HERE, **more):
    return TestClient(gate, base_url=base, follow_redirects=False, **more)


def sign_in(client, user="anna", password=PASSWORD, **headers):
    """The answer to the form of the login page, sent as a browser does."""
    given = {"Origin": str(client.base_url).rstrip("/"), **headers}
    return client.post("/login", data={"user": user, "password": password}, headers=given)


def start(*options):
    """A server, and the scheme and port that it says it serves on; before that it says what it has read."""
    command = [sys.executable, "-m", "search", "serve", "--port", "0", *map(str, options)]
    process = Popen(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = ""
    for line in process.stdout:
        said += line.decode()
        if found := re.match(r"(https?)://.*:(\d+) \(page\)", line.decode()):
            return process, found[1], int(found[2])
    raise AssertionError(said)


def lines(guarded) -> list[dict]:
    """What the audit log holds."""
    return [json.loads(line) for line in guarded.audit.read_text().splitlines()]
