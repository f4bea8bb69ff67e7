"""The page's files: who gets them, under which policy, and that nothing in them runs what data says."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.gateway_process import call
from wan_flf2v.bootstrap.paths import REPO

FOLDER = REPO / "gateway" / "page"
PATHS = ["/v1/", "/v1/docs", *(f"/v1/page/{path.name}" for path in FOLDER.iterdir())]


@pytest.mark.parametrize("path", PATHS)
def test_a_file_needs_no_token_and_comes_under_a_strict_policy(gateway, path):
    answer = call(gateway.url, "GET", path)
    assert answer.status == 200
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["media-src"] == "'self'", (
        "no inline code, no blob: video"
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    again = call(gateway.url, "GET", path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/", "/v1"])
def test_the_root_leads_to_the_page(gateway, path):
    answer = call(gateway.url, "GET", path)
    assert (answer.status, answer.headers["Location"]) == (302, "v1/")


@pytest.mark.parametrize("name", ["nothing.js", "..%2fapp.py", "__init__.py", "%00", "index.html%00"])
def test_there_is_no_other_file(gateway, name):
    answer = call(gateway.url, "GET", f"/v1/page/{name}")
    assert (answer.status, answer.code) == (404, 404001)


def test_a_page_knows_where_it_may_keep_a_token(gateway):
    assert 'data-auth="true" data-keep-token="true"' in call(gateway.url, "GET", "/v1/").content.decode()


class Inline(HTMLParser):
    """Finds code and styles that are in the document itself."""

    def __init__(self):
        super().__init__()
        self.found, self.policies = [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.found += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.found.append(tag)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policies.append(given["content"])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.html")), ids=lambda path: path.name)
def test_a_document_has_nothing_inline_and_brings_its_own_policy(path):
    """ComfyUI may put a looser policy in the place of the header."""
    inline = Inline()
    inline.feed(path.read_text("utf-8"))
    assert inline.found == []
    (policy,) = inline.policies
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.js")), ids=lambda path: path.name)
def test_no_script_makes_html_or_code_of_data(path):
    text = path.read_text("utf-8")
    unsafe = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|srcdoc|javascript:|setAttribute\(.on"
    )
    assert re.findall(unsafe, text) == []
    assert not re.search(r"localStorage|document\.cookie|indexedDB", text)


def test_the_reference_is_short():
    assert len(Path(FOLDER / "docs.js").read_text("utf-8").splitlines()) <= 200
