"""The first minute in the editor: templates, what is missing, widgets that help, a video that plays."""

import json
import re
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
from support.demo_graphs import demo_graph, set_inputs
from support.editor_page import FINISHED
from wan_flf2v.contract.workflow import load_graph, ui_form

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
BLUEPRINT = WORKFLOWS.parent / "subgraphs" / "First-Last Frame to Video (Wan 2.2).json"
IMAGES = ("62", "68")
ROW_IS_GONE = """() => !document.querySelector('[data-node-id="57"]').innerText.includes("handover_step")"""
PLAYS = """() => [...document.querySelectorAll("video")].some(
    video => video.readyState >= 2 && video.videoWidth === 64 && video.muted && video.loop && !video.paused
)"""
PLAYS_FILE = """name => [...document.querySelectorAll("video")].some(
    video => new URL(video.src, location).searchParams.get("filename") === name && video.readyState >= 2
        && video.clientWidth > 50 && video.clientHeight > 50 && !video.paused && video.loop
)"""
COPY = """() => {
    const widget = (node, name) => node.widgets.find(widget => widget.name === name)
    const [sampler, conditioning] = [57, 67].map(id => app.graph.add(app.graph.getNodeById(id).clone()))
    return {
        handover_step: !!widget(sampler, "handover_step").hidden,
        boundary: !!widget(sampler, "boundary").hidden,
        seconds: widget(conditioning, "seconds").element.textContent,
    }
}"""
# All that node 57 says while it runs, as the user reads it.
WATCH = """() => {
    window.said = []
    const look = () => {
        for (const shown of document.querySelectorAll('[data-node-id="57"], .dom-widget')) {
            const [text] = shown.innerText.match(/step \\d+ of \\d+.*/) ?? []
            if (text && text !== window.said.at(-1)) window.said.push(text)
        }
    }
    window.watcher = new MutationObserver(look)
    window.watcher.observe(document.body, {childList: true, subtree: true, characterData: true})
}"""
SAID = "() => { watcher.disconnect(); return said }"
GROUPS = "app.graph.serialize().groups"
BOX = "app.graph.getNodeById(57).widgets.find(widget => widget.name === 'schedule').element"
SEARCH = """query => document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s
    .get("nodeDef").nodeSearchService.searchNode(query, [], {limit: 60}).map(node => [node.name, node.python_module])"""
BLUEPRINT_SHOWN = """name => {
    const found = document.querySelector("#vue-app").__vue_app__.config.globalProperties.$pinia._s
        .get("subgraph").subgraphBlueprints.find(blueprint => blueprint.display_name === name)
    return {name: found.name, description: found.description, category: found.category}
}"""
IN_SUBGRAPH = """app.rootGraph._nodes.find(node => node.subgraph)
    .subgraph._nodes.find(node => node.type === "WanFLF2VSampler")
    .widgets.find(widget => widget.name === "schedule").element"""
SHOW_FROM_SUBGRAPH = f"""() => {{
    app.canvas.setGraph(app.rootGraph._nodes.find(node => node.subgraph).subgraph);
    ({IN_SUBGRAPH}).querySelector("button").click()
    return app.canvas.graph === app.rootGraph && Object.values(app.canvas.selected_nodes).map(node => String(node.id))
}}"""
INTO_SUBGRAPH = """() => {
    const nodes = new Set([54, 57].map(id => app.graph.getNodeById(id)))
    return app.graph.convertToSubgraph(nodes).node.id
}"""
SELECT = """number => {
    const node = app.graph.getNodeById(number)
    app.canvas.centerOnNode(node)
    app.canvas.ds.offset[1] = 300 - node.pos[1]  // there is room above the node for its buttons
    app.canvas.deselectAll()
    app.canvas.selectNode(node)
}"""
SAYS = """([number, text]) => app.graph.getNodeById(number).widgets.some(
    widget => `${widget.value ?? ""} ${widget.element?.textContent ?? ""}`.includes(text))"""
CONNECT_PRELUDE = """() => {
    const sampler = app.graph.getNodeById(57)
    app.graph.getNodeById(37).connect(0, sampler, sampler.inputs.findIndex(input => input.name === "model_prelude"))
}"""
COPY_AND_PASTE = """() => {
    const samplers = () => app.graph._nodes.filter(node => node.type === "WanFLF2VSampler")
    app.canvas.deselectAll()
    app.canvas.selectNode(app.graph.getNodeById(57))
    app.canvas.copyToClipboard()
    app.canvas.pasteFromClipboard()
    return String(samplers().at(-1).id)
}"""
CARD = """name => {
    const texts = [...document.querySelectorAll("[role=dialog] *")].filter(one => !one.childElementCount)
    let card = texts.find(one => one.textContent.trim() === name)
    while (card && !card.querySelector("img")) card = card.parentElement
    return card?.querySelector("img").naturalWidth > 0
}"""
HELP_PICTURE = """name => [...document.querySelectorAll("img")].some(
    picture => picture.src.includes(name) && picture.naturalWidth > 0)"""
# Nodes that overlap, and those that stick out of their group; a node's title is 30 above it.
LAID_OUT_WRONG = """() => {
    const boxes = app.graph._nodes.map(({id, pos: [x, y], size: [width, height]}) =>
        ({id, left: x, top: y - 30, right: x + width, bottom: y + height}))
    const over = boxes.flatMap((a, index) => boxes.slice(index + 1)
        .filter(b => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
        .map(b => `${a.id} over ${b.id}`))
    const out = app.graph._groups.flatMap(({title, _bounding: [x, y, width, height]}) => boxes
        .filter(({left, top}) => x <= left && left < x + width && y <= top && top < y + height)
        .filter(({right, bottom}) => right > x + width || bottom > y + height)
        .map(({id}) => `${id} out of ${title}`))
    return [...over, ...out]
}"""
# Links that run under a note or through the title of a group, and titles that are wider than their group.
TEXTS_HIDDEN = """() => {
    const links = [...app.graph.links.values()]
    if (!links.every(link => link.path)) return  // not drawn yet
    const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true})
    const isDrawn = (some, [left, top, width, height]) => {
        Object.assign(context.canvas, {width: Math.ceil(width), height: Math.ceil(height)})  // this empties it
        context.translate(-left, -top)
        context.lineWidth = 12  // wider than a link is drawn: none may touch a text
        for (const {path} of some) context.stroke(path)
        return context.getImageData(0, 0, context.canvas.width, context.canvas.height).data.some(Boolean)
    }
    const through = box => isDrawn(links, box) ? links.filter(link => isDrawn([link], box)) : []
    const notes = app.graph._nodes.filter(node => node.type === "MarkdownNote")
        .map(({title, pos: [x, y], size: [width, height]}) => ({title, box: [x, y - 30, width, height + 30]}))
    const titles = app.graph._groups.map(({title, font_size, _bounding: [x, y, width]}) => {
        context.font = `${font_size}px Inter`
        return {title, room: width - 8, box: [x + 4, y + 4, context.measureText(title).width, font_size]}
    })
    const under = [...notes, ...titles].flatMap(({title, box}) =>
        through(box).map(({origin_id, target_id}) => `${origin_id} to ${target_id} under ${title}`))
    return [...under, ...titles.filter(({room, box}) => box[2] > room).map(({title}) => `${title} is too wide`)]
}"""
# In a column as high as the zoom at which text is drawn allows.
NO_ROOM_FOR_LARGER_NODES = ("wan22_flf2v_4_steps_lora", "wan22_flf2v_long_video", "wan22_flf2v_upscale")
# Each input of the form in its order, by its node and its name; a field may hold two elements of a node.
FORM_SHOWS = """inputs => {
    const form = document.querySelector("[data-testid=linear-widgets]")
    const nodes = [...form.querySelectorAll("[node-id]")].map(field => field.getAttribute("node-id"))
    const once = list => list.filter((one, place) => one !== list[place - 1])
    const names = form.innerText.split("\\n").filter(line => inputs.some(([, name]) => name === line))
    return String(once(nodes)) === String(once(inputs.map(([node]) => node)))
        && String(names) === String(inputs.map(([, name]) => name))
}"""
STEPS = f"() => [...{BOX}.querySelectorAll('[data-expert]')].map(step => step.dataset.expert)"
STEPS_SHOWN = f"count => {BOX}.querySelectorAll('[data-expert]').length === count"
SHOW_FIRST = f"""() => {{
    {BOX}.querySelector("button").click()
    return Object.values(app.canvas.selected_nodes).map(node => String(node.id))
}}"""
MODELS = ("wan2.2_i2v_high_noise_14B_fp8_scaled", "wan2.2_i2v_low_noise_14B_fp8_scaled", "umt5_xxl", "wan_2.1_vae")


def inputs_of(graph):
    return {node_id: node["inputs"] for node_id, node in graph.items()}


@pytest.mark.smoke
def test_the_bundled_workflow_opens_as_its_api_form(editor):
    assert editor.prompt() == inputs_of(load_graph("wan22_flf2v"))
    assert editor.page.evaluate("app.canvas.ds.scale") >= 0.6, "text is drawn from 0.57 on"


def test_missing_models_are_offered_for_download(editor, comfy_install):
    """Exactly the four models: the images are there, and no node is unknown."""
    page = editor.page
    if comfy_install["version"] == "0.18.2":  # a dialog lists them
        page.get_by_text("This workflow is missing models").wait_for(timeout=240_000)
        text = page.get_by_role("dialog").last.inner_text()
        assert all(text.count(name) == 1 for name in MODELS)
        assert len(re.findall(r"\S+\.(?:safetensors|pth|gguf)", text)) == len(MODELS)
        page.keyboard.press("Escape")
    else:
        page.get_by_text("4 errors found").wait_for(timeout=240_000)
        page.get_by_text("View details").click()
        page.get_by_text("Download all").wait_for(timeout=240_000)
        assert page.get_by_text("Download", exact=True).count() == 4


@pytest.mark.smoke
@pytest.mark.parametrize(
    "name",
    [
        "wan22_flf2v",
        "wan22_flf2v_4_steps_lora",
        "wan22_flf2v_gguf",
        "wan22_flf2v_start_image_only",
        "wan22_flf2v_plan",
        "wan22_flf2v_upscale",
        "wan22_flf2v_loop",
        "wan22_flf2v_keyframes",
        "wan22_flf2v_long_video",
        "wan22_flf2v_several_images",
    ],
)
def test_templates_open_as_their_api_form_and_in_order(editor, comfy_install, name):
    """No node lies on another or sticks out of its group, also where files or a pack are missing, and texts are clear.

    But for three templates in Nodes 2.0 of ComfyUI 0.18.2, which draws texts and nodes larger.
    """
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))
    editor.load(workflow)
    if name != "wan22_flf2v_gguf":  # the editor queues no node that it does not know
        assert editor.prompt() == inputs_of(load_graph(name))
    if any(node["type"] == "WanFLF2VSampler" for node in workflow["nodes"]):
        editor.page.wait_for_function(f"() => ({STEPS})().length > 0")  # it grows with what it shows
    assert editor.page.wait_for_function(TEXTS_HIDDEN, timeout=240_000).json_value() == []
    larger = comfy_install["version"] == "0.18.2" and editor.nodes_2
    if not larger or name not in NO_ROOM_FOR_LARGER_NODES:
        assert editor.page.evaluate(LAID_OUT_WRONG) == []


def test_the_subgraph_blueprint_is_the_workflow_without_its_images(editor, comfy_server):
    """One node in the search; what it would queue is node for node the bundled workflow."""
    with urllib.request.urlopen(f"{comfy_server.url}/global_subgraphs", timeout=60) as response:
        offered = {entry["name"] for entry in json.load(response).values()}
    assert BLUEPRINT.stem in offered
    blueprint = json.loads(BLUEPRINT.read_text("utf-8"))
    editor.page.evaluate("blueprint => app.loadGraphData(blueprint)", blueprint)
    editor.page.wait_for_function("() => app.graph._nodes.length === 1", timeout=240_000)
    (root,) = blueprint["nodes"]

    def inside(value):
        return [f"{root['id']}:{value[0]}", value[1]] if isinstance(value, list) else value

    expected = {}
    for node_id, inputs in inputs_of(load_graph("wan22_flf2v")).items():
        if node_id not in IMAGES:
            from_inside = {n: v for n, v in inputs.items() if not (isinstance(v, list) and v[0] in IMAGES)}
            expected[f"{root['id']}:{node_id}"] = {name: inside(value) for name, value in from_inside.items()}
    assert editor.prompt() == expected


@pytest.mark.parametrize(
    ("query", "wanted", "best"),
    [
        ("wan first last frame", "Conditioning", 1),
        ("wan 2.2 sampler", "Sampler", 1),
        ("first last frame", "Conditioning", 1),
        ("wan keyframes", "Keyframes", 1),
        ("several images", "Segments", 1),
        ("last frames", "LastFrames", 1),
        ("wan report", "Report", 1),
    ],
)
def test_the_node_search_finds_the_pack(editor, query, wanted, best):
    """By the search of the editor itself; nodes of partners and of the tests are not counted."""
    shown = [name for name, module in editor.page.evaluate(SEARCH, query) if not module.startswith("comfy_api_nodes")]
    found = [name for name in shown if not name.startswith("WanFLF2VTest")]
    assert f"WanFLF2V{wanted}" in found[:best], found[:5]


def test_the_search_for_flf2v_shows_all_nodes_of_the_pack_first(editor):
    """Whose names all have the word; the editor puts the shortest of such names first."""
    shown = editor.page.evaluate(SEARCH, "flf2v")
    found = [name for name, module in shown if not module.startswith("custom_nodes.wan-flf2v-")]  # but the tests' own
    own = {path.stem for path in (WORKFLOWS.parent / "web" / "docs").glob("*.md")}
    assert set(found[: len(own)]) == own, found


def test_the_subgraph_blueprint_is_found_and_says_what_it_is(editor):
    """By its name; the editor keeps no search aliases of a blueprint that ComfyUI's server offers."""
    blueprint = editor.page.evaluate(BLUEPRINT_SHOWN, BLUEPRINT.stem)
    stored = json.loads(BLUEPRINT.read_text("utf-8"))
    (definition,) = stored["definitions"]["subgraphs"]
    assert blueprint["description"] == stored["extra"]["BlueprintDescription"] == definition["description"]
    assert blueprint["category"] == f"Subgraph Blueprints/{definition['category']}"
    for query in ("wan first last frame", "first last frame to video wan"):
        shown = [name for name, module in editor.page.evaluate(SEARCH, query) if module == "blueprint"]
        assert shown[:1] == [blueprint["name"]], query


class TestWidgets:
    @pytest.fixture(autouse=True)
    def bundled(self, editor):
        editor.load(json.loads((WORKFLOWS / "wan22_flf2v.json").read_text("utf-8")))

    def test_a_preset_fills_the_size_and_a_typed_size_is_custom(self, editor):
        editor.set(71, "preset", "480x720 (2:3)")
        shown = [editor.widget(*widget)["value"] for widget in ((71, "width"), (71, "height"), (67, "width"))]
        assert shown == [480, 720, 480]
        editor.set(71, "width", 512)
        assert editor.widget(71, "preset")["value"] == "custom"
        assert editor.prompt()["71"] == {"preset": "custom", "width": 512, "height": 720}

    def test_seconds_stand_beside_the_length(self, editor):
        assert editor.widget(67, "seconds")["text"] == "81 frames, 5 s at 16 fps"
        editor.set(67, "length", 49)
        editor.set(73, "frame_rate", 24)
        assert editor.widget(67, "seconds")["text"] == "49 frames, 2 s at 24 fps"
        assert "seconds" not in editor.prompt()["67"]

    def test_a_length_that_no_video_has_shows_what_becomes_of_it(self, editor):
        """A field of the editor takes none; a file may hold one."""
        workflow = json.loads((WORKFLOWS / "wan22_flf2v.json").read_text("utf-8"))
        conditioning = next(node for node in workflow["nodes"] if node["id"] == 67)
        conditioning["widgets_values"][2] = 80
        editor.load(workflow)
        assert editor.widget(67, "length")["value"] == 80
        assert editor.widget(67, "seconds")["text"] == "77 frames (80 is not 4n+1), 4.75 s at 16 fps"

    @pytest.mark.smoke
    def test_inputs_that_the_handover_does_not_use_are_hidden_and_kept(self, editor):
        assert [editor.widget(57, name)["hidden"] for name in ("handover_step", "boundary")] == [True, False]
        before = editor.prompt()["57"]
        editor.set(57, "handover", "step")
        assert [editor.widget(57, name)["hidden"] for name in ("handover_step", "boundary")] == [False, True]
        assert editor.prompt()["57"] == {**before, "handover": "step"}
        if editor.nodes_2:
            editor.page.get_by_text("handover_step").first.wait_for(timeout=240_000)
            editor.set(57, "handover", "half")
            editor.page.wait_for_function(ROW_IS_GONE, timeout=240_000)

    def test_the_schedule_and_what_is_wrong_stand_in_node_57(self, editor):
        """As ComfyUI computes them, with the shift of node 54 and nothing queued."""

        def shown(steps):
            editor.page.wait_for_function(STEPS_SHOWN, arg=steps, timeout=240_000)
            text = editor.widget(57, "schedule")["text"]
            return editor.page.evaluate(STEPS), text

        experts, text = shown(20)
        assert experts == ["high"] * 10 + ["low"] * 10
        assert text.startswith("10 high noise, 10 low noise; hand-over at sigma 0.889")
        assert text.count("needs the model file") == 4
        editor.set(57, "steps", 6)
        editor.set(54, "shift", 5)
        editor.touch()
        experts, text = shown(6)
        assert experts == ["high"] * 3 + ["low"] * 3
        assert "hand-over at sigma 0.833" in text

    def test_a_prelude_has_its_inputs_and_its_colour_once_its_model_is_there(self, editor):
        names = ("prelude", "prelude_steps", "prelude_sigma")
        assert [editor.widget(57, name)["hidden"] for name in names] == [True] * 3
        editor.set(57, "steps", 4)
        editor.page.evaluate(CONNECT_PRELUDE)
        editor.touch()
        assert [editor.widget(57, name)["hidden"] for name in names] == [False, False, True]
        editor.page.wait_for_function(STEPS_SHOWN, arg=6, timeout=240_000)
        assert editor.page.evaluate(STEPS) == ["prelude"] * 3 + ["high"] + ["low"] * 2
        assert editor.page.evaluate(f"({BOX}).querySelector('span').style.background") == "rgb(0, 158, 115)"
        text = editor.widget(57, "schedule")["text"]
        assert text.startswith("3 prelude to sigma 0.960, 1 high noise, 2 low noise; hand-over at sigma 0.889")
        editor.set(57, "prelude", "none")
        assert [editor.widget(57, name)["hidden"] for name in names] == [False, True, True]

    def test_a_finding_leads_to_its_node(self, editor):
        editor.page.wait_for_function(STEPS_SHOWN, arg=20, timeout=240_000)
        selected = editor.page.evaluate(SHOW_FIRST)
        assert selected == ["37"]

    def test_a_copy_shows_its_own_values(self, editor):
        """A copied node gets its values after it was made, and without a callback."""
        editor.set(57, "handover", "step")
        editor.set(67, "length", 49)
        copied = editor.page.evaluate(COPY)
        assert copied == {"handover_step": False, "boundary": True, "seconds": "49 frames, 3 s at 16 fps"}

    def test_what_is_added_is_not_saved(self, editor):
        stored = json.loads((WORKFLOWS / "wan22_flf2v.json").read_text("utf-8"))
        saved = editor.page.evaluate("app.graph.serialize()")
        values = {node["id"]: node["widgets_values"] for node in stored["nodes"]}
        assert {node["id"]: node["widgets_values"] for node in saved["nodes"]} == values


class TestWhatUsersDo:
    @pytest.fixture(autouse=True)
    def bundled(self, editor):
        editor.load(json.loads((WORKFLOWS / "wan22_flf2v.json").read_text("utf-8")))

    def test_copy_and_paste(self, editor):
        editor.set(57, "steps", 7)
        pasted = editor.page.evaluate(COPY_AND_PASTE)
        prompt = editor.prompt()
        values = {name: value for name, value in prompt["57"].items() if not isinstance(value, list)}
        assert prompt[pasted] == values

    def test_a_bypassed_node_is_passed_over(self, editor):
        """Without node 54 the shift is the model's own, 8."""
        editor.set(54, "shift", 5)
        editor.touch()
        editor.page.wait_for_function(SAYS, arg=[57, "hand-over at sigma 0.882"], timeout=240_000)
        editor.page.evaluate("() => { app.graph.getNodeById(54).mode = 4 }")
        assert editor.prompt()["57"]["model_high_noise"] == ["37", 0]
        editor.touch()
        editor.page.wait_for_function(SAYS, arg=[57, "hand-over at sigma 0.889"], timeout=240_000)

    def test_in_a_subgraph_node_57_shows_the_same_and_leads_out_of_it(self, editor):
        root, before = editor.page.evaluate(INTO_SUBGRAPH), inputs_of(load_graph("wan22_flf2v"))["57"]
        assert editor.prompt()[f"{root}:57"] == {**before, "model_high_noise": [f"{root}:54", 0]}
        editor.touch()
        editor.page.wait_for_function(f"() => ({IN_SUBGRAPH}).querySelectorAll('[data-expert]').length === 20")
        assert editor.page.evaluate(SHOW_FROM_SUBGRAPH) == ["37"]


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)  # it draws the nodes, not the dialog
def test_the_cards_of_the_template_browser(editor):
    """Each has its picture; the card of the hosted workflow opens it, and no node of it is unknown."""
    page = editor.page
    page.evaluate("app.extensionManager.setting.set('Comfy.Workflow.ShowMissingModelsWarning', false)")
    for _ in range(3):  # the dialogs that earlier tests have opened on 0.18.2
        page.keyboard.press("Escape")
        page.wait_for_timeout(500)
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    # In the dialog: in Nodes 2.0, each node of the pack has a badge with its name.
    page.get_by_role("dialog").last.get_by_text("wan-flf2v", exact=True).first.click(timeout=240_000)
    for path in WORKFLOWS.glob("*.json"):
        page.get_by_text(path.stem, exact=True).last.scroll_into_view_if_needed(timeout=240_000)
        page.wait_for_function(CARD, arg=path.stem, timeout=240_000)  # a card out of view has no picture
    page.evaluate("app.graph.clear()")
    page.get_by_text("wan22_flf2v", exact=True).last.click()
    page.wait_for_function("() => app.graph._nodes.length === 17", timeout=240_000)
    assert page.evaluate("app.graph._nodes.filter(node => !LiteGraph.registered_node_types[node.type])") == []
    assert editor.prompt() == inputs_of(load_graph("wan22_flf2v"))


def small_workflow(seed, **inputs):
    """Return the bundled workflow on tiny models."""
    return ui_form("wan22_flf2v", demo_graph(**{"n57_steps": 2, "n57_noise_seed": seed, **inputs}))


def small_template(name, **inputs):
    """Return another template on tiny models, on pictures of the tests."""
    graph, demo = load_graph(name), demo_graph()
    for node_id in graph.keys() & {"37", "38", "39", "56", "62", "68", "71"}:
        graph[node_id]["inputs"].update(demo[node_id]["inputs"])
        graph[node_id]["class_type"] = demo[node_id]["class_type"]
    return ui_form(name, set_inputs(graph, **{"n57_steps": 2, "n57_cfg": 1.0, "n67_length": 9, **inputs}))


class Run(NamedTuple):
    """A run that the editor has watched: what stood in it before, all that node 57 said, the video's file."""

    prompt: dict
    groups: list
    said: list
    path: Path


@pytest.fixture(scope="module")
def run(editor, comfy_server):
    editor.load(small_workflow(seed=50 + editor.nodes_2, n57_steps=20))
    prompt, groups = editor.prompt(), editor.page.evaluate(GROUPS)
    editor.page.evaluate(WATCH)
    path = editor.run(comfy_server)
    return Run(prompt, groups, editor.page.evaluate(SAID), path)


@pytest.mark.smoke
def test_run_plays_the_video_in_the_node(editor, run):
    editor.page.wait_for_function(PLAYS, timeout=240_000)
    facts = editor.widget(73, "facts")["text"]
    assert re.fullmatch(r"64x64, 9 frames, 0.5 s at 16 fps, \d+ KiB", facts)
    assert editor.page.evaluate(LAID_OUT_WRONG) == [], "with the strip, findings, the video and its facts"


@pytest.mark.smoke
def test_the_step_and_the_time_left_stand_in_node_57_while_it_runs(run):
    steps = [int(re.match(r"step (\d+) of 20, (high|low) noise", text)[1]) for text in run.said]
    assert len(steps) >= 2, run.said
    assert steps == sorted(set(steps)), run.said
    assert [text for text in run.said if re.search(r", \d+:\d\d of sampling left", text)], run.said


def test_a_video_of_the_editor_brings_its_workflow_back(editor, run):
    editor.drop(run.path)
    assert editor.prompt() == run.prompt
    assert editor.page.evaluate(GROUPS) == run.groups


def test_a_format_that_no_browser_plays_is_shown_by_its_copy(editor, comfy_server):
    editor.load(small_workflow(seed=55 + editor.nodes_2))
    editor.set(73, "format", "mkv FFV1")
    editor.run(comfy_server)
    editor.page.wait_for_function(PLAYS, timeout=240_000)
    assert editor.page.evaluate("app.nodeOutputs[73].images[0].type") == "temp"


@pytest.mark.smoke
def test_each_clip_of_a_batch_plays_in_the_node(editor, comfy_server):
    """The classic renderer shows them beside each other, Nodes 2.0 one after another."""
    editor.load(small_workflow(seed=57 + editor.nodes_2, n57_seed_count=2, n73_format="png sequence"))
    editor.run(comfy_server)
    shown = editor.page.evaluate("app.nodeOutputs[73].images.map(file => file.filename)")
    assert len(shown) == len(set(shown)) == 2
    for number, name in enumerate(shown, start=1):
        if editor.nodes_2:
            editor.page.get_by_role("button", name=f"View video {number} of 2").dispatch_event("click", timeout=240_000)
        editor.page.wait_for_function(PLAYS_FILE, arg=name, timeout=240_000)
    assert editor.widget(73, "facts")["text"].count("64x64, 9 frames, 0.5 s at 16 fps, ") == 2


@pytest.mark.newest  # tests/host runs the template on each
@pytest.mark.parametrize("renderer", ["classic"], indirect=True)  # how it plays is tested in both
@pytest.mark.parametrize(
    ("name", "inputs", "facts"),
    [  # a frame at a seam is there once, and the one with which the loop begins again is not
        ("several_images", {"n63_image": "start.jpg", "n64_image": "end.jpg"}, "25 frames, 1.5 s"),
        ("long_video", {"n77_length": 9, "n87_steps": 2, "n87_cfg": 1.0}, "17 frames, 1 s"),
        ("loop", {}, "8 frames, 0.44 s"),
    ],
)
def test_segments_and_loops_play_as_one_video(editor, comfy_server, name, inputs, facts):
    editor.load(small_template(f"wan22_flf2v_{name}", n57_noise_seed=80, **inputs))
    editor.run(comfy_server)
    editor.page.wait_for_function(PLAYS, timeout=240_000)
    assert editor.widget(73, "facts")["text"].startswith(f"64x64, {facts} at 16 fps, ")
    if name == "loop":  # the node for it is the last to run
        editor.page.wait_for_function(SAYS, arg=[76, "from the last frame back to the first"], timeout=240_000)


def test_a_moved_keyframe_and_what_is_reused_are_said_on_their_nodes(editor, comfy_server):
    asked = 9 + editor.nodes_2  # what ComfyUI has in its cache says nothing again
    inputs = {
        "n61_frames": str(asked),
        "n63_image": "start.jpg",
        "n67_length": 17,
        "n57_noise_seed": 70 + editor.nodes_2,
    }
    editor.load(small_template("wan22_flf2v_keyframes", **inputs))
    editor.run(comfy_server)
    notice = f"Keyframes stand at multiples of 4: frame {asked} becomes 8."
    editor.page.wait_for_function(SAYS, arg=[61, notice], timeout=240_000)
    assert "reused" not in editor.widget(57, "schedule")["text"]
    editor.set(57, "cfg_low_noise", 1.5)
    editor.page.evaluate("app.queuePrompt(0)")
    editor.page.wait_for_function(SAYS, arg=[57, "1 step reused from an earlier run"], timeout=240_000)


@pytest.mark.parametrize("renderer", ["classic"], indirect=True)  # the form is the same in both
def test_app_mode_shows_its_inputs_and_runs(editor):
    """A form of the inputs that matter, one click away."""
    page = editor.page
    for _ in range(3):  # what earlier tests have opened
        page.keyboard.press("Escape")
        page.wait_for_timeout(500)
    workflow = small_workflow(seed=60 + editor.nodes_2)
    editor.load(workflow)
    page.evaluate("app.extensionManager.command.execute('Comfy.ToggleLinear')")
    form = page.get_by_test_id("linear-widgets")
    form.wait_for(timeout=240_000)
    inputs = workflow["extra"]["linearData"]["inputs"]
    page.wait_for_function(FORM_SHOWS, arg=[[str(node), name] for node, name in inputs], timeout=240_000)
    for place, (node, name) in enumerate([(71, "width"), (71, "height")]):
        form.locator('[node-id="71"] input[role=spinbutton]').nth(place).fill("80")
        form.locator('[node-id="71"] input[role=spinbutton]').nth(place).press("Enter")
        assert editor.widget(node, name)["value"] == 80
    page.get_by_test_id("linear-run-button").get_by_role("button", name="Run", exact=True).click(timeout=240_000)
    page.wait_for_function(FINISHED, timeout=240_000)
    page.locator("video:visible").first.wait_for(timeout=240_000)  # the node has one too, out of view
    page.evaluate("app.extensionManager.command.execute('Comfy.ToggleLinear')")


def test_help_is_reached_by_the_i_button(editor):
    show_help(editor, "wan22_flf2v", 57, "Sampler", "LoRAs, caches and other patches")


@pytest.mark.newest  # how a page is shown is tested with that of node 57
@pytest.mark.parametrize("renderer", ["classic"], indirect=True)  # the pages are the same in both
@pytest.mark.parametrize(
    ("template", "number", "kind", "text"),
    [
        ("wan22_flf2v_keyframes", 61, "Keyframes", "What Wan makes of them"),
        ("wan22_flf2v_several_images", 60, "Segments", "so there may be more than eight"),
        ("wan22_flf2v_long_video", 75, "LastFrames", "What it costs, and what drifts"),
        ("wan22_flf2v_loop", 76, "Report", "the least jump of the mean brightness"),
    ],
)
def test_help_of_the_nodes_for_longer_videos(editor, template, number, kind, text):
    show_help(editor, template, number, kind, text)


def show_help(editor, template, number, kind, text):
    page = editor.page
    editor.load(json.loads((WORKFLOWS / f"{template}.json").read_text("utf-8")))
    page.keyboard.press("Escape")
    page.evaluate(SELECT, number)
    page.get_by_test_id("info-button").click(timeout=240_000)
    page.get_by_text(text).first.wait_for(timeout=240_000)
    page.wait_for_function(HELP_PICTURE, arg=f"WanFLF2V{kind}.jpg", timeout=240_000)


@pytest.mark.smoke
def test_nothing_of_the_pack_failed_in_the_browser(editor):
    """Last, after all that the tests above did."""
    assert editor.faults == []
