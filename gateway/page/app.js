/**
 * The playground: a form made from the served schema, one request in view, the token's requests.
 *
 * What is shown is set as text; no data ever becomes HTML, code or a style. The address's #… is the request in view, so
 * that a reload finds it again.
 */
import { address, ApiError, call, ConnectionLost, follow, local, newKey, persist, upload, useToken } from "./api.js";
import { PROGRAMS } from "./code.js";
import { element, Form, toJson } from "./form.js";

const MODELS = "/v1/models/";
const PAGE_SIZE = 10;
const REQUEST_ID = /^#([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;
const KEPT = "wan-flf2v token";
const STOPPED = new DOMException("Stopped.", "AbortError"); // why a view ended when the user pressed Stop
const CANCELLING = "Cancelling: it ends with the step that runs.";
const WORDS = {
  ...{ in_queue: "waiting", in_progress: "running", succeeded: "succeeded", failed: "failed", cancelled: "cancelled" },
  ...{ completed: "finished", sending: "sending" },
};

const $ = (id) => document.getElementById(id);
const show = (id, shown) => ($(id).hidden = !shown);
const asksForToken = document.body.dataset.auth === "true";
const mayKeepToken = document.body.dataset.keepToken === "true";

let models = {}; // id -> JSON Schema
let model = ""; // the chosen one
let form = null;
let language = "curl";
let view = new AbortController(); // ends whatever follows the request in view
let uploads = new WeakMap(); // File -> id, for the token in use
let listing = 0; // counts the calls for that list: only the last one is shown
let cursor = null; // where the list of requests goes on
let cancelling = ""; // id of the request that was cancelled last
let videoAskedAgain = ""; // id of the request whose video did not play at first
const known = new Map(); // request id -> what the list says of it, and its badge there

// The form

async function loadModels({ signal }) {
  const { paths, components } = await persist(() => call("GET", "openapi.json", { signal }), countdown(signal));
  for (const [path, { post }] of Object.entries(paths)) {
    if (!path.startsWith(MODELS) || !post) continue;
    const name = post.requestBody.content["application/json"].schema.$ref.split("/").pop();
    models[path.slice(MODELS.length)] = components.schemas[name];
  }
  const options = Object.entries(models).map(([value, schema]) => element("option", { value, textContent: schema.title }));
  $("model").replaceChildren(...options);
  show("model-choice", options.length > 1);
  show("form", true);
  chooseModel(Object.keys(models)[0]);
}

/** Show the form of a model, with `values` in it. */
function chooseModel(id, values = {}) {
  model = $("model").value = id;
  $("model-title").textContent = models[id].title;
  $("model-id").textContent = id;
  form = new Form($("fields"), models[id], showCode);
  form.fill(values);
  showFormErrors({});
  showCode();
}

function showFormErrors(errors) {
  $("form-error").textContent = form.showErrors(errors).join("\n");
}

/** Say what ComfyUI lacks, and begin with a model that can run. */
async function showAvailability({ signal }) {
  const { models: offered } = await call("GET", "models", { signal });
  const chosen = offered.find((item) => item.model_id === model);
  const able = offered.find((item) => item.available);
  if (chosen && !chosen.available && able && $("model").dataset.touched !== "true") {
    chooseModel(able.model_id);
    return showAvailability({ signal });
  }
  const lacks = chosen && !chosen.available;
  $("unavailable").textContent = lacks ? `This model cannot run here now. ${chosen.reason ?? ""}` : "";
  show("unavailable", lacks);
}

// The code

function showCode() {
  if (!form) return;
  const request = { base: address("").replace(/\/$/, ""), auth: asksForToken, model, schema: models[model], values: form.values() };
  $("code").firstElementChild.textContent = PROGRAMS[language](request);
}

function makeTabs() {
  const tabs = Object.keys(PROGRAMS).map((name) => {
    const tab = element("button", { type: "button", id: `tab-${name}`, textContent: name });
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "code");
    tab.addEventListener("click", () => choose(name));
    return tab;
  });
  const choose = (name) => {
    language = name;
    for (const tab of tabs) {
      const chosen = tab.textContent === name;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    $("code").setAttribute("aria-labelledby", `tab-${name}`);
    showCode();
  };
  $("tabs").append(...tabs);
  $("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    choose(next.textContent);
  });
  choose(language);
}

async function copyCode() {
  const code = $("code").firstElementChild;
  let copied = true;
  try {
    await navigator.clipboard.writeText(code.textContent); // only with HTTPS, or on this machine
  } catch {
    getSelection().selectAllChildren(code);
    copied = document.execCommand("copy");
  }
  $("copied").textContent = copied ? "Copied." : "It is selected: press Ctrl+C.";
  setTimeout(() => ($("copied").textContent = ""), 3000);
}

// The request in view

/** Show nothing of a request; what follows one ends. Returns the signal of the next one. */
function clearView(state = "") {
  view.abort();
  view = new AbortController();
  for (const id of ["preview", "video", "progress", "countdown", "done", "cancel"]) show(id, false);
  $("video").removeAttribute("src");
  $("video").load();
  $("preview").removeAttribute("src");
  for (const id of ["note", "result-error", "facts", "warnings"]) $(id).replaceChildren();
  show("empty", !state);
  showState(state);
  return view.signal;
}

function showState(state) {
  label($("state"), state);
  show("state", state);
  show("cancel", ["sending", "in_queue", "in_progress"].includes(state));
}

/** Write a request's state on a badge. */
function label(badge, state) {
  badge.textContent = WORDS[state] ?? "";
  badge.dataset.state = state;
}

/** Return a pause for `persist`: it counts down, and is over sooner by a button, or when the network is back. */
function countdown(signal) {
  async function wait(seconds, error) {
    $("countdown-reason").textContent = error.message;
    show("countdown", true);
    const end = Date.now() + seconds * 1000;
    const tick = () => ($("countdown-seconds").textContent = Math.max(0, Math.ceil((end - Date.now()) / 1000)));
    tick();
    const timer = setInterval(tick, 200);
    const over = new AbortController();
    const wake = { signal: over.signal };
    try {
      await new Promise((resolve, reject) => {
        setTimeout(resolve, seconds * 1000);
        $("now").addEventListener("click", resolve, wake);
        if (error instanceof ConnectionLost) addEventListener("online", resolve, wake);
        signal.addEventListener("abort", () => reject(signal.reason), wake);
        if (signal.aborted) reject(signal.reason);
      });
    } finally {
      clearInterval(timer);
      over.abort();
    }
  }
  // Of an ended view, the countdown that is shown may be the next one's.
  return { wait, end: () => signal.aborted || show("countdown", false) };
}

/** End all tries, also one that waits for its response. A request that was accepted goes on. */
function stop() {
  const stopped = view;
  view = new AbortController();
  show("countdown", false);
  stopped.abort(STOPPED);
}

async function submit() {
  if ($("state").dataset.state === "sending") return; // a second press of Run would be a second request
  const problems = form.problems();
  showFormErrors(problems);
  if (Object.keys(problems).length) return;
  if (asksForToken && !$("token-form").hidden) return askForToken("Enter the token first.");
  const signal = clearView("sending");
  $("stage").scrollIntoView({ block: "nearest" }); // on a phone it is far below
  const [values, key, pause] = [form.values(), newKey(), countdown(signal)];
  try {
    for (const [name, value] of Object.entries(values)) {
      if (!(value instanceof File)) continue;
      $("note").textContent = `Uploading ${value.name}…`;
      values[name] = await uploaded(name, value, signal, pause);
    }
    $("note").textContent = "Sending the request…";
    const headers = { "Content-Type": "application/json", "Idempotency-Key": key }; // a repeated one is the same request
    const options = { headers, body: toJson(values, models[model]), signal };
    const { request_id: id } = await persist(() => call("POST", `models/${model}`, options), pause);
    loadRequests();
    await open(id);
  } catch (error) {
    if (signal.reason === STOPPED) stopSending();
    if (signal.aborted) return;
    clearView();
    if (error.status === 401) askForToken(error.message);
    else if (Object.keys(error.fields ?? {}).length) {
      uploads = new WeakMap(); // one may have expired
      showFormErrors(error.fields);
    }
    else showError(error.message);
  }
}

/** Upload the file of a field, once; return its id. What is wrong with it is said of the field. */
async function uploaded(name, file, signal, pause) {
  try {
    if (!uploads.has(file)) uploads.set(file, await persist(() => upload(file, signal), pause));
  } catch (error) {
    const fault = error.status === 413 ? error.message : error.fields?.file;
    if (fault) error.fields = { [name]: fault };
    throw error;
  }
  return uploads.get(file);
}

function stopSending() {
  clearView();
  $("note").textContent = "Stopped. If the request was accepted, it is in the list below.";
  loadRequests();
}

/** Bring a request into view and follow it to its end. */
async function open(id) {
  history.replaceState(null, "", `#${id}`);
  const signal = clearView("in_queue");
  const pause = countdown(signal);
  try {
    await follow(id, { status: showStatus, preview: showPreview }, pause, signal);
    const result = await persist(() => call("GET", `requests/${id}/result`, { signal }), pause);
    showResult(result);
    loadRequests();
  } catch (error) {
    if (signal.reason === STOPPED) $("note").textContent = "Not followed any more. The request itself goes on: choose it below to follow it again.";
    if (signal.aborted) return;
    if (error.status === 401) return askForToken(error.message);
    clearView();
    showError(error.message);
  }
}

function showStatus(status) {
  showState(status.status);
  const listed = known.get(status.request_id);
  if (listed) label(listed.badge, status.status);
  const { progress, queue_position: position } = status;
  show("progress", status.status === "in_progress");
  if (status.status === "in_queue") {
    const place = position === 0 ? "Next in the queue." : `${position} ${position === 1 ? "request is" : "requests are"} before it.`;
    $("note").textContent = status.waiting_for ? `Waiting for ${status.waiting_for}` : place;
  } else $("note").textContent = cancelling === status.request_id ? CANCELLING : "";
  $("bar").value = progress?.fraction ?? 0;
  const node = progress?.node || "Starting";
  $("step").textContent = progress?.steps ? `${node}: ${progress.step} of ${progress.steps}` : `${node}…`;
  $("eta").textContent = progress?.eta_seconds == null ? "" : `${clock(progress.eta_seconds)} left`;
}

function clock(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function showPreview(image) {
  $("preview").src = image;
  $("preview").alt = "Preview: four frames of the video in the making";
  show("preview", true);
}

function showResult(result) {
  showState(result.status);
  for (const id of ["preview", "progress"]) show(id, false);
  $("note").textContent = result.status === "cancelled" ? "The request was cancelled." : "";
  if (result.status === "failed") showError(result.error);
  if (result.status !== "succeeded") return;
  const { video, image } = result.output;
  if (video) {
    $("video").poster = local(image);
    $("video").src = local(video);
    $("video").play().catch(() => {}); // a browser may want a click first
  } else {
    $("preview").src = local(image);
    $("preview").alt = "The result";
  }
  $("download").href = local(video ?? image);
  for (const id of [video ? "video" : "preview", "done"]) show(id, true);
  show("again", known.has(result.request_id));
  const { queued, running, total } = result.timings ?? {};
  const facts = { Seed: result.seed, Waited: seconds(queued), Ran: seconds(running), "In all": seconds(total), ComfyUI: result.host_version };
  for (const [name, value] of Object.entries(facts))
    if (value != null) $("facts").append(element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })));
  $("warnings").append(...(result.warnings ?? []).map((textContent) => element("li", { textContent })));
}

const seconds = (value) => (value == null ? null : `${value.toFixed(1)} s`);

function showError(message) {
  $("result-error").textContent = message;
  show("empty", false);
}

async function cancel(id) {
  const { signal } = view;
  try {
    const { outcome } = await persist(() => call("POST", `requests/${id}/cancel`, { signal }), countdown(signal));
    if (outcome === "cancelled" && id === idInView() && !$("cancel").hidden) {
      cancelling = id;
      $("note").textContent = CANCELLING;
    }
  } catch (error) {
    if (!signal.aborted) $("requests-error").textContent = error.message;
  }
  loadRequests();
}

const idInView = () => REQUEST_ID.exec(location.hash)?.[1];

// The token's requests

async function loadRequests(more = false) {
  const query = new URLSearchParams({ limit: PAGE_SIZE });
  if ($("filter").value) query.set("status", $("filter").value);
  if (more && cursor) query.set("cursor", cursor);
  $("requests-error").textContent = "";
  const mine = ++listing;
  let found;
  try {
    found = await call("GET", `requests?${query}`);
  } catch (error) {
    $("requests-error").textContent = error.message;
    return [];
  }
  if (mine !== listing) return [];
  cursor = found.next_cursor;
  if (!more) $("requests").replaceChildren();
  $("requests").append(...found.requests.map(row));
  show("requests-card", true);
  show("more", cursor);
  show("no-requests", !cursor && !$("requests").childElementCount);
  return found.requests;
}

function row(request) {
  const { request_id: id, status } = request;
  const prompt = promptOf(request);
  const badge = element("span", { className: "badge" });
  label(badge, status);
  known.set(id, { ...request, badge });
  const title = element("span", { className: "prompt", textContent: prompt || "(no prompt)" });
  const time = element("time", { dateTime: request.created_at, textContent: new Date(request.created_at).toLocaleString() });
  const opener = element("button", { type: "button", className: "row" }, badge, title, time);
  opener.addEventListener("click", () => {
    open(id);
    $("result-title").scrollIntoView({ block: "nearest" });
  });
  const item = element("li", {}, opener);
  if (["in_queue", "in_progress"].includes(status)) {
    const stop = element("button", { type: "button", className: "quiet", textContent: "Cancel" });
    stop.setAttribute("aria-label", `Cancel ${prompt}`);
    stop.addEventListener("click", () => cancel(id));
    item.append(stop);
  }
  return item;
}

/** The text that a request was made with; a model that was added may call it by another key than the bundled ones. */
function promptOf({ model_id: its, input }) {
  const isText = ([, { type, format, enum: choices }]) => type === "string" && !format && !choices;
  const key = Object.entries(models[its]?.properties ?? {}).find(isText)?.[0] ?? "6_text";
  return String(input[key] ?? "");
}

// The token

function askForToken(message = "") {
  show("token-form", true);
  show("change-token", false);
  $("token-error").textContent = message;
  $("token").focus();
}

async function takeToken(text) {
  const { signal } = view;
  if (!/^[!-~]*$/.test(text)) return askForToken("This is not a token: it has a space, or a character that no token has.");
  uploads = new WeakMap();
  useToken(text);
  try {
    await persist(() => showAvailability({ signal }), countdown(signal));
  } catch (error) {
    if (!asksForToken) return showError(error.message);
    useToken("");
    if (error.status === 401) remember("");
    askForToken(error.message);
    return;
  }
  show("token-form", false);
  show("change-token", asksForToken);
  if (asksForToken) $("main").focus();
  const requests = await loadRequests();
  const unfinished = requests.find((request) => ["in_queue", "in_progress"].includes(request.status));
  const id = idInView() ?? unfinished?.request_id;
  if (id) open(id);
}

/** Keep the token until the tab is closed; "" forgets it. A browser may forbid it, and then nothing is kept. */
function remember(text) {
  try {
    if (text) sessionStorage.setItem(KEPT, text);
    else sessionStorage.removeItem(KEPT);
  } catch {
    // It was typed in, so it can be again.
  }
}

function remembered() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return "";
  }
}

/** Put the settings of the request in view into the form, if its model is still there. */
function useSettings() {
  const { model_id: its, input } = known.get(idInView());
  if (!Object.hasOwn(models, its)) return showError(`The model ${its} is not offered here. The form is as it was.`);
  if (its !== model) chooseModel(its, form.given());
  form.fill(input);
  $("main").focus();
}

function listen() {
  const on = (id, kind, act) => $(id).addEventListener(kind, act);
  const sent = (act) => (event) => {
    event.preventDefault();
    act();
  };
  on("form", "submit", sent(submit));
  on("form", "reset", sent(() => chooseModel(model)));
  on("model", "change", () => {
    $("model").dataset.touched = "true";
    chooseModel($("model").value, form.given());
    showAvailability(view).catch(() => {});
  });
  on("cancel", "click", () => ($("state").dataset.state === "sending" ? stopSending() : cancel(idInView())));
  on("stop", "click", stop);
  on("again", "click", useSettings);
  on("copy", "click", copyCode);
  on("refresh", "click", () => loadRequests());
  on("filter", "change", () => loadRequests());
  on("more", "click", () => loadRequests(true));
  on("video", "error", () => idInView() && $("video").hasAttribute("src") && loadVideoAgain());
  on("change-token", "click", () => askForToken());
  on("token-form", "submit", sent(() => {
    const text = $("token").value.trim();
    if (mayKeepToken) remember($("keep-token").checked ? text : "");
    $("token").value = "";
    takeToken(text);
  }));
  for (const kind of ["dragover", "drop"]) addEventListener(kind, refuseFile);
  addEventListener("hashchange", () => idInView() && open(idInView()));
}

/** The browser would open a file that is dropped beside its place, and the form would be gone. */
function refuseFile(event) {
  if (event.defaultPrevented || !event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "none";
}

/** The network broke while the video came, or its link has expired: ask for the result again, once. */
async function loadVideoAgain() {
  const signal = view.signal;
  if (videoAskedAgain === idInView()) return showError("The video cannot be played here. Download it, or reload the page.");
  videoAskedAgain = idInView();
  try {
    await countdown(signal).wait(2, new ConnectionLost());
    open(idInView());
  } catch {
    // Another request came into view, or the user pressed Stop.
  }
}

async function start() {
  makeTabs();
  listen();
  show("keep", mayKeepToken);
  $("token-place").textContent = mayKeepToken
    ? "“wan-flf2v token create NAME” prints one."
    : "ComfyUI wrote it to user/wan_flf2v/token on its first start. This page keeps it until it is closed or loaded again.";
  try {
    await loadModels(view);
  } catch (error) {
    return showError(`The form could not be loaded. ${error.message} Load the page again.`);
  }
  const kept = mayKeepToken ? remembered() : "";
  if (asksForToken && !kept) askForToken();
  else await takeToken(kept);
}

start();
