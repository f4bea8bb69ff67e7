"""ComfyUI's editor in a browser: opens templates, sets widgets as a user does, reads what would be queued."""

LOADED = "() => window.app?.graph?._nodes?.some(node => node.type.startsWith('WanFLF2V'))"
# A typed or chosen value: the widget's own callback runs, as after a click.
SET = """([id, name, value]) => {
    const node = app.graph.getNodeById(id), widget = node.widgets.find(widget => widget.name === name)
    widget.value = value
    widget.callback?.(widget.value, app.canvas, node)
}"""
WIDGET = """([id, name]) => {
    const widget = app.graph.getNodeById(id).widgets.find(widget => widget.name === name)
    return {value: widget.value, hidden: !!widget.hidden, text: widget.element?.textContent}
}"""


class Editor:
    """One page with ComfyUI's editor. ``faults`` are what the pack's own files did wrong in the browser."""

    def __init__(self, page, url, nodes_2):
        self.page, self.url, self.nodes_2, self.faults = page, url, nodes_2, []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.faults.append(str(error)) if "wan" in str(error.stack) else None)
        settings = {"Comfy.VueNodes.Enabled": nodes_2, "Comfy.TutorialCompleted": True}
        page.request.post(f"{url}/api/settings", data=settings)
        self.open("wan22_flf2v")

    def open(self, template):
        """Open a template by the address that the template browser's cards lead to."""
        self.page.goto(f"{self.url}/?template={template}&source=wan-flf2v", timeout=120_000)
        self.page.wait_for_function(LOADED, timeout=120_000)

    def load(self, workflow):
        """Load a workflow as a file that is dropped on the canvas."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        self.page.wait_for_function(LOADED, timeout=60_000)

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
        of_the_pack = "extension 'wan-flf2v" in message.text or "/extensions/wan-flf2v/" in source
        if message.type == "error" and of_the_pack:
            self.faults.append(message.text)
