/**
 * What the pack's nodes show in the editor beyond plain widgets. Without this file all of them still work.
 *
 * Nothing that is added here is saved, and a hidden widget keeps its value.
 */
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const CUSTOM = "custom";
const WAN_FRAME_RATE = 16;
const SHOWN_WITHIN_MS = 30_000;
const ASK_AFTER_MS = 300; // a slider changes the graph many times
// As in the plot of Wan FLF2V Plan.
const COLOURS = { prelude: "rgb(0, 158, 115)", high: "rgb(0, 114, 178)", low: "rgb(230, 159, 0)" };

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);
const isLinked = (node, name) => node.inputs?.some((input) => input.widget?.name === name && input.link != null);

/** Call `act` after the object's own method of this name. */
function after(object, method, act) {
  const own = object[method];
  object[method] = function (...args) {
    const result = own?.apply(this, args);
    act();
    return result;
  };
}

/** Call `show` now, when a loaded or copied node has got its values, and when a link or one of these widgets changes. */
function keepShowing(node, names, show) {
  after(node, "onConfigure", show);
  after(node, "onConnectionsChange", show);
  for (const name of names) after(widgetOf(node, name), "callback", show);
  show();
}

/** Put a preset's size into width and height, and both into this pack's nodes that get them. */
function showSize(node) {
  const size = /^(\d+)x(\d+)/.exec(widgetOf(node, "preset").value);
  ["width", "height"].forEach((name, slot) => {
    const widget = widgetOf(node, name);
    if (size) widget.value = Number(size[slot + 1]);
    for (const id of node.outputs[slot].links ?? []) {
      const link = node.graph?.links.get?.(id) ?? node.graph?.links[id];
      const target = link && node.graph.getNodeById(link.target_id);
      const shown = target?.type.startsWith("WanFLF2V") && widgetOf(target, target.inputs[link.target_slot].name);
      if (shown) shown.value = widget.value;
    }
  });
}

function extendResolution(node) {
  const preset = widgetOf(node, "preset");
  after(preset, "callback", () => showSize(node));
  for (const name of ["width", "height"]) {
    after(widgetOf(node, name), "callback", () => {
      if (isLinked(node, name)) return; // a Primitive calls this each time that the graph is queued
      preset.value = CUSTOM; // a typed size wins over the preset that was there
      showSize(node);
    });
  }
}

/** The frame rate of the graph's only Video Combine, or Wan's own; nothing where another node gives it. */
function frameRateOf(graph) {
  const nodes = (graph?._nodes ?? []).filter((node) => node.type === "WanFLF2VVideoCombine");
  if (nodes.length !== 1) return WAN_FRAME_RATE;
  return isLinked(nodes[0], "frame_rate") ? undefined : widgetOf(nodes[0], "frame_rate").value;
}

/** "77 frames (80 is not 4n+1), 4.75 s at 16 fps": as node 67's own notice counts. */
function lengthText(length, frameRate) {
  const frames = length - ((length - 1) % 4);
  const snapped = frames === length ? "" : ` (${length} is not 4n+1)`;
  if (frameRate === undefined) return `${frames} frames${snapped}`;
  const seconds = Number(((frames - 1) / frameRate).toFixed(2));
  return `${frames} frames${snapped}, ${seconds} s at ${Number(frameRate.toFixed(3))} fps`;
}

/** Add an element to the node that is shown in both renderers and saved in neither. */
function addElement(node, name, style, heights) {
  const element = document.createElement("div");
  element.style.cssText = style;
  node.addDOMWidget(name, `wan_flf2v_${name}`, element, { serialize: false, ...heights }).serialize = false;
  return element;
}

/** Add a line of small text. */
function addLine(node, name) {
  const style = "padding: 2px 8px; font-size: 12px; text-align: right; opacity: 0.8; white-space: pre;";
  let lines = 1;
  const height = () => 6 + 16 * lines;
  const element = addElement(node, name, style, { getMinHeight: height, getMaxHeight: height });
  return (...texts) => {
    element.textContent = texts.join("\n");
    lines = Math.max(texts.length, 1);
  };
}

function extendConditioning(node) {
  const say = addLine(node, "seconds");
  node.wanShowSeconds = () => {
    const length = widgetOf(node, "length").value;
    say(isLinked(node, "length") ? "" : lengthText(length, frameRateOf(node.graph)));
  };
  keepShowing(node, ["length"], node.wanShowSeconds);
}

function extendVideoCombine(node) {
  const frameRate = widgetOf(node, "frame_rate");
  Object.assign(frameRate.options, { step: 10, step2: 1 }); // three decimals are shown; the arrows go by one frame
  keepShowing(node, ["frame_rate"], () => {
    for (const other of node.graph?._nodes ?? []) other.wanShowSeconds?.();
  });
  const say = addLine(node, "facts");
  const own = node.onExecuted;
  node.onExecuted = function (output) {
    own?.call(this, output);
    say(...(output?.facts ?? []));
    if (output?.shown) output.images = output.shown; // copies of those that no browser plays
    if (!output?.animated?.some(Boolean)) return;
    const [first, ...others] = output.images;
    playWhenShown(first, () => showBeside(node.videoContainer, others));
    for (const file of others) playWhenShown(file);
  };
}

/** Show more videos beside the only one that the classic renderer shows. */
function showBeside(container, files) {
  if (!container) return;
  const videos = files.map((file) => {
    const src = api.apiURL(`/view?${new URLSearchParams(file)}`);
    return Object.assign(document.createElement("video"), { src, controls: true });
  });
  const columns = `repeat(${Math.ceil(Math.sqrt(files.length + 1))}, 1fr)`;
  Object.assign(container.style, { display: files.length ? "grid" : "", gridTemplateColumns: columns, gridAutoRows: "1fr" });
  container.append(...videos);
  for (const video of videos) Object.assign(video.style, { width: "100%", height: "100%", minHeight: 0 });
}

/** Play a file muted, for ever, as soon as an element for it is there, the editor's or ours; the editor's is stopped. */
function playWhenShown({ filename, subfolder, type }, then) {
  const isIt = (video) => {
    const asked = new URL(video.src || "about:blank", location.href).searchParams;
    return asked.get("filename") === filename && (asked.get("subfolder") ?? "") === subfolder && asked.get("type") === type;
  };
  const play = () => {
    const videos = [...document.querySelectorAll("video")].filter(isIt);
    for (const video of videos) {
      Object.assign(video, { muted: true, loop: true, autoplay: true });
      video.play().catch(() => {}); // a browser may refuse it: then there is its button
    }
    if (!videos.length) return;
    observer.disconnect();
    then?.();
  };
  const observer = new MutationObserver(play);
  observer.observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["src"] });
  setTimeout(() => observer.disconnect(), SHOWN_WITHIN_MS);
  play();
}

/** Hide a node's widget or show it; one with a link stays. */
function hide(node, name, hidden) {
  const widget = widgetOf(node, name);
  widget.hidden = hidden && !isLinked(node, name); // for the classic renderer
  widget.options.hidden = widget.hidden; // for Nodes 2.0
}

/** Show the inputs of the hand-over and of the prelude only where they are used. */
function extendChoices(node) {
  const may = (name, choice) => widgetOf(node, name).value === choice || isLinked(node, name);
  const lacksModel = () => node.inputs?.some(({ name, widget, link }) => name === "model_prelude" && !widget && link == null);
  const ofPrelude = node.widgets.map(({ name }) => name).filter((name) => /^(prelude_.+|model_prelude)$/.test(name));
  const owners = { prelude_steps: "steps", prelude_sigma: "sigma" };
  keepShowing(node, ["handover", "prelude"], () => {
    hide(node, "handover_step", !may("handover", "step"));
    hide(node, "boundary", !may("handover", "boundary"));
    const none = lacksModel() || (widgetOf(node, "prelude").value === "none" && !isLinked(node, "prelude"));
    hide(node, "prelude", lacksModel());
    for (const name of ofPrelude) hide(node, name, none || (name in owners && !may("prelude", owners[name])));
    node.setDirtyCanvas?.(true, true);
  });
}

/** The schedule as a strip, a step a block in its expert's colour; below it what the last run reused, and findings. */
function extendSampler(node) {
  extendChoices(node);
  let height = 0;
  let view = { steps: [], findings: [] };
  let reused = "";
  // Nodes 2.0 would make the node as high as a long list; "contain" takes only what min-height asks for.
  const style = "display: flex; flex-direction: column; gap: 4px; padding: 4px 8px; font-size: 12px; contain: size;";
  const box = addElement(node, "schedule", style, { getMinHeight: () => height });
  const show = () => {
    const { steps, findings } = view;
    box.replaceChildren(...(steps.length ? [stripOf(steps), element("div", splitText(steps))] : []));
    if (reused) box.append(element("div", reused));
    if (findings.length) box.append(listOf(findings));
    height = (steps.length ? 56 : 0) + (reused ? 20 : 0) + 48 * Math.min(findings.length, 3);
    box.style.minHeight = `${height}px`;
    if (node.size[1] < node.computeSize()[1]) node.setSize([node.size[0], node.computeSize()[1]]);
    node.setDirtyCanvas?.(true, true);
  };
  node.wanShowSampler = (asked) => {
    view = asked;
    show();
  };
  node.wanShowReused = (text) => {
    reused = text;
    show();
  };
}

/** An element with this text, as text. */
function element(tag, text, style = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.style.cssText = style;
  return made;
}

function stripOf(steps) {
  const strip = element("div", "", "display: flex; gap: 1px; height: 16px; flex: none;");
  strip.append(
    ...steps.map(({ expert, sigma }, index) => {
      const handover = index > 0 && expert !== steps[index - 1].expert;
      const mark = handover ? "border-left: 3px solid var(--input-text, white);" : "";
      const step = element("span", "", `flex: 1 1 0; min-width: 0; background: ${COLOURS[expert]}; ${mark}`);
      step.dataset.expert = expert;
      step.title = `step ${index + 1}: ${inWords(expert)} from sigma ${sigma.toFixed(4)}`;
      return step;
    }),
  );
  return strip;
}

const inWords = (expert) => (expert === "prelude" ? expert : `${expert} noise`);

/** "10 high noise, 10 low noise; hand-over at sigma 0.889": as the node says it when it runs. */
function splitText(steps) {
  const count = { prelude: 0, high: 0, low: 0 };
  for (const { expert } of steps) count[expert] += 1;
  const first = steps.length - count.low;
  const prelude = count.prelude ? `${count.prelude} prelude to sigma ${steps[count.prelude].sigma.toFixed(3)}, ` : "";
  const text = `${prelude}${count.high} high noise, ${count.low} low noise`;
  return first > 0 && count.low > 0 ? `${text}; hand-over at sigma ${steps[first].sigma.toFixed(3)}` : text;
}

const LINK_STYLE = "all: unset; text-decoration: underline; cursor: pointer; outline: revert;";

function listOf(findings) {
  const list = element("ul", "", "margin: 0; padding: 0; list-style: none; overflow-y: auto; min-height: 0;");
  list.append(
    ...findings.map(({ error, text, node }) => {
      const item = element("li", `${error ? "Error" : "Warning"}: ${text} `, "margin-bottom: 4px;");
      item.style.color = error ? "var(--error-text, #ff4444)" : "";
      if (node) {
        const link = element("button", "Show node", LINK_STYLE);
        link.addEventListener("click", (event) => {
          event.stopPropagation(); // it would select this node
          showNode(node);
        });
        item.append(link);
      }
      return item;
    }),
  );
  return list;
}

/** Go to a node by its id in the prompt; "105:37" is node 37 in the subgraph of node 105. */
function showNode(id) {
  let graph = rootGraph();
  let node;
  for (const part of id.split(":")) {
    graph = node?.subgraph ?? graph;
    node = graph.getNodeById(part);
  }
  if (!node) return;
  if (app.canvas.graph !== graph) app.canvas.setGraph(graph);
  app.canvas.centerOnNode(node);
  app.canvas.selectNode(node);
}

const rootGraph = () => app.rootGraph ?? app.graph;

/** All nodes of a graph and of the subgraphs in it. */
function* nodesIn(graph) {
  for (const node of graph?._nodes ?? []) {
    yield node;
    if (node.subgraph) yield* nodesIn(node.subgraph);
  }
}

let lastAsked = "";
let asking; // the timer

/** Ask ComfyUI what each node 57 shows, soon, and once for many changes. */
function askSoon() {
  clearTimeout(asking);
  asking = setTimeout(() => ask().catch(() => {}), ASK_AFTER_MS); // what is shown stays as it was
}

async function ask() {
  const nodes = [...nodesIn(rootGraph())];
  // Some nodes do their work when the graph is read to be queued, such as to take a picture with a camera.
  const works = (widget) => widget.serializeValue?.constructor.name === "AsyncFunction";
  if (!nodes.some((node) => node.wanShowSampler) || nodes.some((node) => node.widgets?.some(works))) return;
  const { output } = await app.graphToPrompt();
  const body = JSON.stringify({ prompt: output });
  if (body === lastAsked) return;
  lastAsked = body;
  const headers = { "Content-Type": "application/json" };
  const response = await api.fetchApi("/wan_flf2v/samplers", { method: "POST", headers, body });
  if (!response.ok || body !== lastAsked) return;
  for (const [id, view] of Object.entries(await response.json())) {
    for (const node of samplersOf(id)) node.wanShowSampler(view);
  }
}

/** The nodes 57 with this id in a prompt, in which "105:57" is node 57 in the subgraph of node 105. */
function samplersOf(id) {
  const own = id.split(":").at(-1);
  return [...nodesIn(rootGraph())].filter((node) => node.wanShowSampler && String(node.id) === own);
}

const EXTENDERS = {
  WanFLF2VResolution: extendResolution,
  WanFLF2VConditioning: extendConditioning,
  WanFLF2VSampler: extendSampler,
  WanFLF2VGuider: extendChoices,
  WanFLF2VPlan: extendChoices,
  WanFLF2VVideoCombine: extendVideoCombine,
};

app.registerExtension({
  name: "wan-flf2v.editor",
  nodeCreated(node) {
    EXTENDERS[node.comfyClass]?.(node);
  },
  setup() {
    api.addEventListener("graphChanged", askSoon);
    api.addEventListener("wan_flf2v.reused", ({ detail }) => {
      for (const node of samplersOf(detail.node)) node.wanShowReused(detail.text);
    });
  },
  afterConfigureGraph() {
    for (const node of nodesIn(rootGraph())) if (node.comfyClass === "WanFLF2VResolution") showSize(node);
    lastAsked = ""; // its nodes are new and show nothing yet
    askSoon();
  },
  refreshComboInNodes() {
    lastAsked = ""; // there may be new files
    askSoon();
  },
});
