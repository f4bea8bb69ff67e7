/**
 * Calls of the API: token, errors, retries, event streams. The page lies at /v1/, so every path here is relative to it.
 *
 * The token is a variable of this module. Nothing here writes to the document.
 */
const ROOT = new URL("./", document.baseURI);
const SILENCE_MS = 40_000; // the server sends something every 15 s
const LONGEST_WAIT_S = 15;
const BUSY_S = 5; // a 502 or 504 does not say how long
const MAY_PASS = [429, 502, 503, 504];
const MODEL_UNAVAILABLE = 503002; // until a person gives ComfyUI what it lacks

let token = "";

/** Use this token from now on; an empty one is none. */
export const useToken = (text) => (token = text);

/** The address of a path below /v1/. */
export const address = (path) => new URL(path, ROOT).href;

/** The address on this page's own origin of a link that the API gave, which may name the host in another way. */
export const local = (link) => address(link.split("/v1/").pop());

/** An error that the API responded with. `waitS` is when to try again, null if that is pointless; `fields` is key -> text. */
export class ApiError extends Error {
  constructor({ status, headers }, body) {
    super(body?.error_message ?? `The server responded with ${status}.`);
    this.status = status;
    const mayPass = MAY_PASS.includes(status) && body?.error_code !== MODEL_UNAVAILABLE;
    this.waitS = mayPass ? Number.parseInt(headers.get("Retry-After"), 10) || BUSY_S : null;
    this.fields = {};
    for (const item of status === 422 && Array.isArray(body?.detail) ? body.detail : [])
      if (item.loc?.[0] === "body") this.fields[item.loc[1]] = item.msg;
  }
}

/** The API could not be reached, or did not respond to the end. */
export class ConnectionLost extends Error {
  constructor() {
    super("The connection to the API was lost.");
  }
}

/** Send a request; returns the Response. Raises ApiError, ConnectionLost, and AbortError if `signal` is aborted. */
async function send(method, path, { headers = {}, body, signal } = {}) {
  const own = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(address(path), {
      ...{ method, body, signal },
      headers: { ...own, ...headers },
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    throw signal?.aborted ? error : new ConnectionLost();
  }
  if (!response.ok) throw new ApiError(response, await response.json().catch(() => null));
  return response;
}

/** Send a request and return what its JSON says; see parse. */
export async function call(method, path, options = {}) {
  const response = await send(method, path, options);
  const text = await response.text().catch((error) => {
    throw options.signal?.aborted ? error : new ConnectionLost();
  });
  return parse(text);
}

/** Parse JSON; an integer that a number cannot hold becomes text. */
function parse(text) {
  // A quote before a colon ends a key, unless it is escaped: then it is inside a text.
  return JSON.parse(text.replace(/(?<!\\)":\s*(\d{16,})/g, '":"$1"'));
}

/** Upload an image file; returns the id that an image parameter takes. */
export async function upload(file, signal) {
  const body = new FormData();
  body.append("file", file, file.name);
  return (await call("POST", "files", { body, signal })).id;
}

/** A text that no other request has. (randomUUID needs HTTPS or localhost.) */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");

/**
 * Do `attempt` until it succeeds. After an error that may pass, `pause.wait(seconds, error)` comes first; it can raise an
 * error that ends the tries. `pause.end()` comes at the end in any case.
 */
export async function persist(attempt, pause) {
  try {
    for (let tries = 0; ; tries += 1) {
      try {
        return await attempt();
      } catch (error) {
        const lost = error instanceof ConnectionLost;
        const seconds = lost ? Math.min(2 ** tries, LONGEST_WAIT_S) : error.waitS;
        if (seconds == null) throw error;
        await pause.wait(seconds, error);
      }
    }
  } finally {
    pause.end();
  }
}

/**
 * Follow a request until it has ended: `on.status(status)`, `on.preview(image)`, `pause` as in persist.
 *
 * A stream that breaks is opened again, and goes on behind the last event.
 */
export async function follow(id, on, pause, signal) {
  let last = "";
  let ended = false;
  while (!ended) {
    await persist(async () => {
      for await (const event of events(id, last, signal, pause.end)) {
        last = event.id ?? last;
        const data = JSON.parse(event.data);
        if (event.event === "preview") on.preview(data.image);
        else on.status(data);
        ended = ["completed", "cancelled"].includes(data.status);
      }
      if (!ended && last) ended = await hasEnded(id, signal, on.status);
    }, pause);
    if (!ended) await pause.wait(1, new ConnectionLost()); // the server stopped, or the token was revoked
  }
}

async function hasEnded(id, signal, show) {
  const status = await call("GET", `requests/${id}/status`, { signal });
  show(status);
  return ["completed", "cancelled"].includes(status.status);
}

/** Yield the events of one stream as {id, event, data}, until the server ends it. */
async function* events(id, last, signal, connected) {
  const silence = new AbortController();
  const stop = () => silence.abort();
  let timer = setTimeout(stop, SILENCE_MS);
  addEventListener("offline", stop);
  const either = AbortSignal.any([signal, silence.signal]);
  try {
    const headers = last ? { "Last-Event-ID": last } : {};
    const response = await send("GET", `requests/${id}/events?preview=1`, { headers, signal: either });
    connected();
    if (response.status === 204) return;
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(stop, SILENCE_MS);
      const messages = (text + value).split("\n\n");
      text = messages.pop();
      for (const message of messages) {
        const lines = message.split("\n").map((line) => /^(\w+): (.*)$/.exec(line)).filter(Boolean);
        if (lines.length) yield Object.fromEntries(lines.map(([, name, content]) => [name, content]));
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ConnectionLost();
  } finally {
    clearTimeout(timer);
    removeEventListener("offline", stop);
    silence.abort();
  }
}
