"""A video of node 73 dropped on the editor restores the graph it was made by."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Error
from support.editor_page import Editor
from support.video_graphs import images_graph

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows" / "wan22_flf2v.json"
# What ComfyUI's frontend reads a graph from; it reads none from Matroska and GIF.
RESTORED = [
    "mp4 H.264", "mp4 H.264 10-bit", "mp4 H.265", "mp4 AV1", "webm AV1", "webm VP9", "mov ProRes 422 HQ",
    "mov ProRes 4444", "webp", "png sequence", "png sequence 16-bit",
]  # fmt: skip
DROP = """async ([url, name]) => {
    const blob = await (await fetch(url)).blob()
    await app.handleFile(new File([blob], name, {type: blob.type}), "file_drop")
}"""
IS_TITLED = "title => app.graph.getNodeById(73)?.title === title"


def titled(name):
    """Return the bundled workflow with a title of node 73 that tells the format."""
    workflow = json.loads(WORKFLOW.read_text("utf-8"))
    next(node for node in workflow["nodes"] if node["id"] == 73)["title"] = f"made as {name}, größer"
    return workflow


@pytest.fixture(scope="module")
def files(comfy_server):
    """Write a file of each format; in a thread, as the event loop of a browser may run in this one."""
    graph, written = images_graph(comfy_server, torch.rand(3, 64, 64, 3)), {}
    with ThreadPoolExecutor(1) as thread:
        for name in RESTORED:
            graph["73"]["inputs"] |= {"format": name, "filename_prefix": "dropped/clip"}
            written[name] = thread.submit(comfy_server.run, graph, workflow=titled(name)).result().files[0]
    return written


@pytest.fixture(scope="module")
def editor(files, browser, comfy_server):
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    yield Editor(page, comfy_server.url, nodes_2=False)
    page.close()


def test_each_format_that_the_frontend_reads(editor, files):
    """One page for all: to open it takes longer than all drops."""
    not_restored = []
    for name, file in files.items():
        address = f"/view?filename={file.filename}&subfolder={file.subfolder}&type=output"
        editor.page.evaluate(DROP, [address, file.filename])
        try:
            editor.page.wait_for_function(IS_TITLED, arg=f"made as {name}, größer", timeout=240_000)
        except Error:  # all formats are tried, then named
            not_restored.append(name)
    assert not_restored == []
