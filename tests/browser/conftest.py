"""A real browser on the editor of a real ComfyUI."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from support.editor_page import Editor
from wan_flf2v.bootstrap.browser import find_browser

# Without these Chromium asks its maker's servers for updates and the like at every start.
ARGUMENTS = (
    "--no-sandbox",  # Chromium refuses to run as root with it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


# Not for the session: Playwright's event loop runs until it is closed, and no other test could use asyncio meanwhile.
@pytest.fixture(scope="module")
def browser():
    path = find_browser()
    if path is None:
        pytest.skip("NOT RUN: there is no Chromium, Chrome or Edge on this machine. Install one.")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=["classic", "nodes 2.0"])
def renderer(request):
    """Which of the editor's two renderers draws the nodes."""
    return request.param


@pytest.fixture(scope="module")
def editor(renderer, browser, comfy_install, comfy_server):
    """The bundled workflow, opened from the template browser."""
    picture = comfy_server.base_dir / "input" / "example.png"  # every ComfyUI has it in its own input folder
    if not picture.exists():
        shutil.copy(Path(comfy_install["path"]) / "input" / "example.png", picture)
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    yield Editor(page, comfy_server.url, nodes_2=renderer == "nodes 2.0")
    page.close()
