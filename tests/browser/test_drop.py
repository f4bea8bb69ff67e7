"""A video of node 73 dropped on the editor restores the graph it was made by."""

import json
from pathlib import Path

import pytest
import torch
from support.editor import Editor
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
TITLE = "() => app.graph.getNodeById(73)?.title"


@pytest.fixture(scope="module")
def editor(browser, comfy_server):
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    yield Editor(page, comfy_server.url, nodes_2=False)
    page.close()


def test_each_format_that_the_frontend_reads(editor, comfy_server):
    """One page for all: to open it takes longer than all drops."""
    workflow, graph = json.loads(WORKFLOW.read_text("utf-8")), images_graph(comfy_server, torch.rand(3, 64, 64, 3))
    combine = next(node for node in workflow["nodes"] if node["id"] == 73)
    not_restored = []
    for name in RESTORED:
        combine["title"] = f"made as {name}, größer"
        graph["73"]["inputs"] |= {"format": name, "filename_prefix": "dropped/clip"}
        file = comfy_server.run(graph, workflow=workflow).files[0]
        address = f"/view?filename={file.filename}&subfolder={file.subfolder}&type=output"
        editor.load(json.loads(WORKFLOW.read_text("utf-8")))
        editor.page.evaluate(DROP, [address, file.filename])
        try:
            editor.page.wait_for_function(f"() => ({TITLE})() === {json.dumps(combine['title'])}", timeout=20_000)
        except Exception:  # noqa: BLE001 -- all formats are tried, then named
            not_restored.append(name)
    assert not_restored == []
