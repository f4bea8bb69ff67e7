/** The API reference, made from openapi.json in the browser: one section for each call. */
import { call as ask } from "./api.js";
import { element } from "./form.js";

const METHODS = ["get", "post", "put", "delete"];

const api = await ask("GET", "openapi.json").catch((error) => {
  document.getElementById("about").textContent = `The reference could not be loaded. ${error.message} Load the page again.`;
  throw error;
});
const resolve = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : (schema ?? {}));

/** Say in a few words what a schema takes. */
function kind(schema) {
  const found = resolve(schema);
  if (found.anyOf) return found.anyOf.map(kind).join(" or ");
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(", ");
  if (found.const !== undefined) return JSON.stringify(found.const);
  if (found.type === "array") return `list of ${kind(found.items)}`;
  const limits =
    found.minimum !== undefined && found.maximum !== undefined ? `, ${found.minimum} to ${found.maximum}`
    : found.maxLength ? `, at most ${found.maxLength} characters`
    : "";
  return `${found.type ?? "any"}${limits}`;
}

function table(of, caption, rows) {
  if (!rows.length) return "";
  const cell = (content) => element("td", {}, content);
  const head = ["Name", "Type", "About"].map((textContent) => element("th", { textContent, scope: "col" }));
  const body = rows.map(([name, takes, about]) => element("tr", {}, cell(name), cell(takes), cell(about)));
  const made = element("table", {}, element("caption", { textContent: caption }), element("thead", {}, element("tr", {}, ...head)));
  made.append(element("tbody", {}, ...body));
  const scroller = element("div", { className: "scroll", tabIndex: 0 }, made);
  scroller.setAttribute("role", "region");
  scroller.setAttribute("aria-label", `${of}: ${caption}`);
  return scroller;
}

function properties(of, caption, star, schema) {
  const { properties: found = {}, required = [] } = resolve(schema);
  const rows = Object.entries(found).map(([key, property]) => {
    const name = element("span", {}, element("code", { textContent: key }), required.includes(key) ? " *" : "");
    const preset = property.default !== undefined && property.default !== null ? ` Default: ${JSON.stringify(property.default)}.` : "";
    const title = property.title ?? "";
    const isName = title.toLowerCase().replaceAll(" ", "_") === key; // pydantic makes a title of each name
    const about = [isName ? "" : title, property.description].filter(Boolean).join(". ").replace(/([^.])$/, "$1.");
    return [name, kind(property), `${about}${preset}`];
  });
  return table(of, required.length ? `${caption} (* ${star})` : caption, rows);
}

function parameters(of, list = []) {
  const caption = list.some(({ required }) => required) ? "Parameters (* required)" : "Parameters";
  return table(of, caption, list.map(({ name, in: place, required, schema, description }) => [
    element("span", {}, element("code", { textContent: name }), required ? " *" : ""), kind(schema), description ?? `in the ${place}`,
  ]));
}

function section(path, method, call) {
  const parts = [parameters(call.summary, call.parameters)];
  for (const [type, { schema }] of Object.entries(call.requestBody?.content ?? {})) parts.push(properties(call.summary, `Body, ${type}`, "required", schema));
  const errors = [];
  for (const [status, { description, content = {} }] of Object.entries(call.responses)) {
    const schema = content["application/json"]?.schema;
    if (Number(status) >= 400) errors.push([element("code", { textContent: status }), "error", description]);
    else if (schema) parts.push(properties(call.summary, `Response ${status}`, "always there", schema));
    else parts.push(element("p", { textContent: `Response ${status}: ${description} ${Object.keys(content).join(", ")}` }));
  }
  const details = element("details", {}, element("summary", { textContent: "Errors" }), table(call.summary, "Errors", errors));
  const security = call.security?.length ? "Needs a token." : "Needs no token.";
  const line = element("p", { className: "path" }, element("span", { className: "badge", textContent: method.toUpperCase() }), element("code", { textContent: path }));
  const title = element("h2", { id: call.operationId, textContent: call.summary });
  return element("section", { className: "card" }, title, line, element("p", { className: "quiet-text", textContent: security }), ...parts, details);
}

document.getElementById("title").textContent = `${api.info.title} API`;
document.getElementById("about").textContent = `${api.info.description} Version ${api.info.version}. Send “Authorization: Bearer <token>” with each call that needs a token.`;
const contents = element("ul", {});
for (const [path, calls] of Object.entries(api.paths))
  for (const [method, call] of Object.entries(calls).filter(([name]) => METHODS.includes(name))) {
    document.getElementById("calls").append(section(path, method, call));
    const link = element("a", { href: `#${call.operationId}`, textContent: call.summary });
    contents.append(element("li", {}, element("span", { className: "badge", textContent: method.toUpperCase() }), " ", link));
  }
document.getElementById("contents").append(contents);
if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
