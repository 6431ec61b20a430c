"""Who asks a served gallery."""

import pytest


@pytest.fixture
def client(searcher):
    pytest.importorskip("gradio")
    from fastapi.testclient import TestClient

    from search.site import build_site

    return TestClient(build_site(searcher, allow_upload=True))
