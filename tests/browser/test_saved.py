"""Makes ``saved/VERSION``, the UI files as this release saves them: ``python3 run.py test -m saved``."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.saved

HERE = Path(__file__).parent
# All nodes of the pack, and none of their values is the default; the widgets' callbacks run as after a click.
CHANGE = """types => {
    const there = new Set(app.graph._nodes.map(node => node.type))
    types.filter(type => !there.has(type)).forEach((type, place) => {
        const node = LiteGraph.createNode(type)
        node.pos = [450 * place, 1250]
        app.graph.add(node)
    })
    const other = ({type, value, options}) => {
        if (type === "combo") return options.values[(options.values.indexOf(value) + 1) % options.values.length]
        if (typeof value === "boolean") return !value
        if (typeof value !== "number") return `${value} changed`
        const step = options.step2 ?? 1
        return Number((value + step <= options.max ? value + step : value - step).toFixed(6))
    }
    for (const node of app.graph._nodes.filter(({type}) => types.includes(type)))
        for (const widget of node.widgets.filter(({serialize}) => serialize !== false)) {
            widget.value = other(widget)
            widget.callback?.(widget.value, app.canvas, node)
        }
}"""


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)  # what is saved is the same in both
def test_save(editor, comfy_install):
    editor.load(json.loads((HERE.parents[1] / "workflows" / "wan22_flf2v.json").read_text("utf-8")))
    editor.page.evaluate(CHANGE, sorted(path.stem for path in (HERE.parents[1] / "web" / "docs").glob("*.md")))
    saved = editor.page.evaluate("app.graph.serialize()")
    editor.load(saved)
    queued = editor.page.evaluate("app.graphToPrompt().then(prompt => prompt.output)")
    folder = HERE / "saved" / version("wan-flf2v")
    folder.mkdir(exist_ok=True)
    for ending, content in (("json", saved), ("api.json", queued)):
        path = folder / f"comfyui_{comfy_install['version']}.{ending}"
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
