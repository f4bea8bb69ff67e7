"""ComfyUI's editor in a browser: opens templates, sets widgets as a user does, reads what would be queued."""

import base64

LOADED = "() => window.app?.graph?._nodes?.some(node => node.type.startsWith('WanFLF2V'))"
# The editor takes the template out of its address when it has opened it. Until then it may show the last workflow.
OPENED = "() => !new URLSearchParams(location.search).has('template')"
# A typed or chosen value: the widget's own callback runs, as after a click.
SET = """([id, name, value]) => {
    const node = app.graph.getNodeById(id), widget = node.widgets.find(widget => widget.name === name)
    widget.value = value
    widget.callback?.(widget.value, app.canvas, node)
}"""
FINISHED = "() => app.nodeOutputs[73]?.images?.length"
WIDGET = """([id, name]) => {
    const widget = app.graph.getNodeById(id).widgets.find(widget => widget.name === name)
    return {value: widget.value, hidden: !!widget.hidden, text: widget.element?.textContent}
}"""


# A file that a user drags onto the empty canvas.
DROP = """([name, type, content]) => {
    const bytes = Uint8Array.from(atob(content), character => character.charCodeAt(0))
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(new File([bytes], name, {type}))
    const at = {clientX: 800, clientY: 880, bubbles: true, cancelable: true, dataTransfer}
    const canvas = document.querySelector("#graph-canvas")
    for (const event of ["dragenter", "dragover", "drop"]) canvas.dispatchEvent(new DragEvent(event, at))
}"""


class Editor:
    """One page with ComfyUI's editor. ``faults`` are what the pack's own files did wrong in the browser."""

    def __init__(self, page, url, nodes_2):
        self.page, self.url, self.nodes_2, self.faults = page, url, nodes_2, []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.faults.append(str(error)) if "wan" in str(error.stack) else None)
        settings = {"Comfy.VueNodes.Enabled": nodes_2, "Comfy.TutorialCompleted": True}
        settings["Comfy.Workflow.ShowMissingModelsWarning"] = (
            True  # a test switches it off, for its server's whole life
        )
        page.request.post(f"{url}/api/settings", data=settings)
        self.open("wan22_flf2v")

    def open(self, template):
        """Open a template by the address that the template browser's cards lead to."""
        self.page.goto(f"{self.url}/?template={template}&source=wan-flf2v", timeout=240_000)
        self.page.wait_for_function(OPENED, timeout=240_000)
        self.page.wait_for_function(LOADED, timeout=240_000)

    def load(self, workflow):
        """Load a workflow as a file that is dropped on the canvas."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        self.page.wait_for_function(LOADED, timeout=240_000)

    def drop(self, video):
        """Drop an MP4 on the canvas, and wait until a graph stands there; the canvas is emptied before."""
        self.page.evaluate("app.graph.clear()")
        self.page.evaluate(DROP, [video.name, "video/mp4", base64.b64encode(video.read_bytes()).decode()])
        self.page.wait_for_function(LOADED, timeout=240_000)

    def run(self, server):
        """Press Run, and return the video's file."""
        self.page.evaluate("app.queuePrompt(0)")
        self.page.wait_for_function(FINISHED, timeout=240_000)
        file = self.page.evaluate("app.nodeOutputs[73].images[0]")
        return server.base_dir / "output" / file["subfolder"] / file["filename"]

    def set(self, node_id, name, value):
        self.page.evaluate(SET, [node_id, name, value])

    def touch(self):
        """Let the mouse button go over empty canvas: then the editor looks at what has changed in the graph."""
        self.page.mouse.click(800, 890)

    def widget(self, node_id, name):
        return self.page.evaluate(WIDGET, [node_id, name])

    def prompt(self):
        """Return what the editor would queue, node id -> inputs."""
        nodes = self.page.evaluate("() => app.graphToPrompt().then(prompt => prompt.output)")
        return {node_id: node["inputs"] for node_id, node in nodes.items()}

    def _note(self, message):
        # The frontend itself logs what an extension's hook raises, and names the extension.
        source = str(message.location.get("url"))
        # Where there is no page in the user's language, the editor takes the one without a language.
        of_the_pack = "extension 'wan-flf2v" in message.text or (
            "/extensions/wan-flf2v/" in source and not source.endswith("/en.md")
        )
        if message.type == "error" and of_the_pack:
            self.faults.append(message.text)
