"""Makes the pictures in docs/ and web/docs from the editor itself: ``python3 run.py test -m pictures``."""

import json
from pathlib import Path

import pytest
from wan_flf2v.demo.base import copy_trained_models, demo_workflow

pytestmark = pytest.mark.pictures

REPO = Path(__file__).resolve().parents[2]
DOCS, HELP = REPO / "docs", REPO / "web" / "docs"
NODES = (
    "Resolution", "Segments", "Keyframes", "Conditioning", "Sampler", "Guider", "LastFrames", "ColorMatch",
    "VideoCombine", "Plan", "Report",
)  # fmt: skip
ALONE = """([type, id]) => {
    app.graph.clear()
    const node = LiteGraph.createNode(type)
    node.id = id // the editor remembers values by this
    node.pos = [0, 0]
    app.graph.add(node)
    node.setSize([380, node.computeSize()[1]])
    Object.assign(app.canvas.ds, {scale: 1, offset: [200, 80]})
    app.canvas.setDirty(true, true)
    return node.id
}"""
WHOLE = """() => {
    for (const name of ["Comfy.Minimap.Visible", "Comfy.RightSidePanel.IsOpen"]) {
        app.extensionManager.setting.set(name, false)
    }
    Object.assign(app.canvas.ds, {scale: 0.68, offset: [110, 140]})
    app.canvas.setDirty(true, true)
}"""


@pytest.fixture(scope="module", autouse=True)
def newest_only(comfy_install):
    if comfy_install["version"] == "0.18.2":
        pytest.skip("the pictures are of the newest editor")


def save(page, path):
    page.wait_for_timeout(1500)  # widgets, previews and the strip come one after the other
    page.screenshot(path=path, type="jpeg", quality=82)


@pytest.fixture(scope="module")
def made(editor, comfy_server):
    """The workflow on the trained models of the demo, after a run."""
    copy_trained_models(comfy_server.base_dir / "models")
    workflow = demo_workflow()
    for node in workflow["nodes"]:
        if node["type"] == "LoadImage":
            node["widgets_values"][0] = {62: "end.jpg", 68: "start.jpg"}[node["id"]]
    editor.load(workflow)
    editor.run(comfy_server)


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_the_workflow(editor, made, palette):
    editor.page.evaluate("name => app.extensionManager.setting.set('Comfy.ColorPalette', name)", palette)
    editor.page.evaluate(WHOLE)
    name = "nodes_2" if editor.nodes_2 else "classic"
    save(editor.page, DOCS / f"graph_{name}_{palette}.jpg")


def test_what_is_missing(editor, made, comfy_server):
    if not editor.nodes_2:
        return

    def name_a_usual_folder(route):
        found = route.fetch()
        route.fulfill(response=found, body=found.text().replace(str(comfy_server.base_dir), "/home/you/ComfyUI"))

    editor.page.route("**/wan_flf2v/samplers", name_a_usual_folder)
    editor.page.evaluate("app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    editor.load(json.loads((REPO / "workflows" / "wan22_flf2v.json").read_text("utf-8")))
    editor.page.evaluate(WHOLE)
    editor.page.get_by_text("View details").click()
    save(editor.page, DOCS / "missing_models.jpg")


@pytest.mark.parametrize("name", NODES)
def test_a_node_of_the_help(editor, made, name):
    if not editor.nodes_2:
        return
    number = editor.page.evaluate(ALONE, [f"WanFLF2V{name}", 1000 + NODES.index(name)])
    node = editor.page.locator(f'[data-node-id="{number}"]')
    node.wait_for(timeout=240_000)
    editor.touch()
    editor.page.wait_for_timeout(1500)
    box = node.bounding_box()
    around = {"x": box["x"] - 10, "y": box["y"] - 10, "width": box["width"] + 20, "height": box["height"] + 20}
    editor.page.screenshot(path=HELP / f"WanFLF2V{name}.jpg", type="jpeg", quality=82, clip=around)  # slots stick out
