/**
 * What the pack's nodes show in the editor beyond plain widgets. Without this file all of them still work.
 *
 * Nothing here is saved: the added line has `serialize: false`, and a hidden widget keeps its value.
 */
import { app } from "../../scripts/app.js";

const CUSTOM = "custom";
const WAN_FRAME_RATE = 16;

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** Call `act` after each change of the widget, and leave its own callback as it is. */
function afterChange(widget, act) {
  const callback = widget.callback;
  widget.callback = function (...args) {
    const result = callback?.apply(this, args);
    act();
    return result;
  };
}

/** Put a preset's size into width and height, here and in the nodes that get them. */
function showSize(node) {
  const size = /^(\d+)x(\d+)/.exec(widgetOf(node, "preset").value);
  ["width", "height"].forEach((name, slot) => {
    const widget = widgetOf(node, name);
    if (size) widget.value = Number(size[slot + 1]);
    for (const id of node.outputs[slot].links ?? []) {
      const link = node.graph?.links.get?.(id) ?? node.graph?.links[id];
      const target = link && node.graph.getNodeById(link.target_id);
      const shown = target && widgetOf(target, target.inputs[link.target_slot].name);
      if (shown) shown.value = widget.value;
    }
  });
}

function extendResolution(node) {
  const preset = widgetOf(node, "preset");
  afterChange(preset, () => showSize(node));
  for (const name of ["width", "height"]) {
    afterChange(widgetOf(node, name), () => {
      preset.value = CUSTOM; // a typed size wins over the preset that was there
      showSize(node);
    });
  }
}

/** The frame rate of the graph's only Video Combine, or Wan's own. */
function frameRateOf(graph) {
  const nodes = (graph?._nodes ?? []).filter((node) => node.type === "WanFLF2VVideoCombine");
  return (nodes.length === 1 && widgetOf(nodes[0], "frame_rate")?.value) || WAN_FRAME_RATE;
}

/** "77 frames (80 is not 4n+1), 4.75 s at 16 fps": as node 67's own notice counts. */
export function lengthText(length, frameRate) {
  const frames = length - ((length - 1) % 4);
  const snapped = frames === length ? "" : ` (${length} is not 4n+1)`;
  const seconds = Number(((frames - 1) / frameRate).toFixed(2));
  return `${frames} frames${snapped}, ${seconds} s at ${Number(frameRate.toFixed(3))} fps`;
}

function extendConditioning(node) {
  const line = document.createElement("div");
  line.style.cssText = "padding: 2px 8px; font-size: 12px; text-align: right; opacity: 0.8;";
  const size = { getMinHeight: () => 22, getMaxHeight: () => 22 };
  node.addDOMWidget("seconds", "wan_flf2v_seconds", line, { serialize: false, ...size }).serialize = false;
  node.wanShowSeconds = () => {
    line.textContent = lengthText(widgetOf(node, "length").value, frameRateOf(node.graph));
  };
  afterChange(widgetOf(node, "length"), node.wanShowSeconds);
  node.wanShowSeconds();
}

function extendVideoCombine(node) {
  const frameRate = widgetOf(node, "frame_rate");
  Object.assign(frameRate.options, { step: 10, step2: 1 }); // three decimals are shown; the arrows go by one frame
  afterChange(frameRate, () => {
    for (const other of node.graph?._nodes ?? []) other.wanShowSeconds?.();
  });
}

/** Show handover_step and boundary only where the hand-over uses them. */
function extendHandover(node) {
  const handover = widgetOf(node, "handover");
  const users = { handover_step: "step", boundary: "boundary" };
  node.wanShowHandover = () => {
    for (const [name, choice] of Object.entries(users)) {
      const widget = widgetOf(node, name);
      const linked = node.inputs?.some((input) => input.widget?.name === name && input.link != null);
      widget.hidden = handover.value !== choice && !linked;
    }
    node.setDirtyCanvas?.(true, true);
  };
  afterChange(handover, node.wanShowHandover);
  node.wanShowHandover();
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
  /** A loaded graph has set its values without a callback. */
  afterConfigureGraph() {
    for (const node of app.graph._nodes) {
      if (node.comfyClass === "WanFLF2VResolution") showSize(node);
      node.wanShowSeconds?.();
      node.wanShowHandover?.();
    }
  },
});
