/**
 * What the pack's nodes show in the editor beyond plain widgets. Without this file all of them still work.
 *
 * Nothing that is added here is saved, and a hidden widget keeps its value.
 */
import { app } from "../../scripts/app.js";

const CUSTOM = "custom";
const WAN_FRAME_RATE = 16;

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

function extendConditioning(node) {
  const line = document.createElement("div");
  line.style.cssText = "padding: 2px 8px; font-size: 12px; text-align: right; opacity: 0.8;";
  const size = { getMinHeight: () => 22, getMaxHeight: () => 22 };
  node.addDOMWidget("seconds", "wan_flf2v_seconds", line, { serialize: false, ...size }).serialize = false;
  node.wanShowSeconds = () => {
    const length = widgetOf(node, "length").value;
    line.textContent = isLinked(node, "length") ? "" : lengthText(length, frameRateOf(node.graph));
  };
  keepShowing(node, ["length"], node.wanShowSeconds);
}

function extendVideoCombine(node) {
  const frameRate = widgetOf(node, "frame_rate");
  Object.assign(frameRate.options, { step: 10, step2: 1 }); // three decimals are shown; the arrows go by one frame
  keepShowing(node, ["frame_rate"], () => {
    for (const other of node.graph?._nodes ?? []) other.wanShowSeconds?.();
  });
}

/** Show handover_step and boundary only where the hand-over uses them. */
function extendHandover(node) {
  const users = { handover_step: "step", boundary: "boundary" };
  keepShowing(node, ["handover"], () => {
    const handover = widgetOf(node, "handover").value;
    for (const [name, choice] of Object.entries(users)) {
      const widget = widgetOf(node, name);
      const hidden = handover !== choice && !isLinked(node, name) && !isLinked(node, "handover");
      widget.hidden = hidden; // for the classic renderer
      widget.options.hidden = hidden; // for Nodes 2.0
    }
    node.setDirtyCanvas?.(true, true);
  });
}

const EXTENDERS = {
  WanFLF2VResolution: extendResolution,
  WanFLF2VConditioning: extendConditioning,
  WanFLF2VSampler: extendHandover,
  WanFLF2VGuider: extendHandover,
  WanFLF2VPlan: extendHandover,
  WanFLF2VVideoCombine: extendVideoCombine,
};

app.registerExtension({
  name: "wan-flf2v.editor",
  nodeCreated(node) {
    EXTENDERS[node.comfyClass]?.(node);
  },
});
