/** The request of the form as a program: curl, Python, JavaScript. Each value is quoted as its language wants it. */
import { isBare } from "./form.js";

/** Name of a language -> function of `{base, auth, model, values, schema}` that returns the program. */
export const PROGRAMS = { curl, Python: python, JavaScript: javaScript };

const BOOLEANS = { true: "True", false: "False" }; // in Python
const files = (values) => Object.entries(values).filter(([, value]) => value instanceof File);
const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const variable = (key) => `IMAGE_${key.replace(/\W.*|_.*/, "")}`;

function curl({ base, auth, model, values, schema }) {
  const head = auth ? ` -H "Authorization: Bearer $TOKEN"` : "";
  const uploads = files(values).map(([key, file]) => {
    const name = file.name.replaceAll("\\", "\\\\").replaceAll('"', '\\"');
    return `${variable(key)}=$(curl -s "$BASE/files"${head} -F ${shell(`file=@"${name}"`)} | sed -n 's/^{"id":"\\([^"]*\\)".*/\\1/p')`;
  });
  // JSON has no NUL, so it can mark where the quotes end for a variable.
  const parts = Object.entries(values).map(([key, value]) => {
    const literal =
      value instanceof File ? `"\0${variable(key)}\0"` : isBare(schema, key, value) ? value : JSON.stringify(value);
    return `  ${JSON.stringify(key)}: ${literal}`;
  });
  const pieces = shell(`{\n${parts.join(",\n")}\n}`).split("\0");
  const body = pieces.map((piece, index) => (index % 2 ? `'"$${piece}"'` : piece)).join("");
  return [
    ...(auth ? ["TOKEN=  # a token of this API"] : []),
    `BASE=${shell(base)}`,
    ...uploads,
    `ID=$(curl -s "$BASE/models/${model}"${head} -H "Content-Type: application/json" \\`,
    `  --data ${body} | sed -n 's/^{"request_id":"\\([^"]*\\)".*/\\1/p')`,
    `curl -sN "$BASE/requests/$ID/events"${head}  # until it has ended`,
    `curl -s "$BASE/requests/$ID/result"${head}`,
  ].join("\n");
}

function python({ base, auth, model, values, schema }) {
  const head = auth ? ", headers=HEADERS" : "";
  const body = Object.entries(values).map(([key, value]) => {
    const literal =
      value instanceof File ? `upload(${JSON.stringify(value.name)})`
      : isBare(schema, key, value) ? (BOOLEANS[value] ?? value)
      : JSON.stringify(value);
    return `    ${JSON.stringify(key)}: ${literal},`;
  });
  const upload = [
    "def upload(path):",
    `    with open(path, "rb") as file:`,
    `        response = requests.post(f"{BASE}/files"${head}, files={"file": file})`,
    "    response.raise_for_status()",
    `    return response.json()["id"]`,
    "",
    "",
  ];
  return [
    ...(auth ? ["import os"] : []),
    "import time",
    "",
    "import requests",
    "",
    `BASE = ${JSON.stringify(base)}`,
    ...(auth ? [`HEADERS = {"Authorization": f"Bearer {os.environ['TOKEN']}"}`] : []),
    "",
    "",
    ...(files(values).length ? upload : []),
    "values = {",
    ...body,
    "}",
    `response = requests.post(f"{BASE}/models/${model}"${head}, json=values)`,
    "response.raise_for_status()",
    `result_url = response.json()["result_url"]`,
    `while (result := requests.get(result_url${head}).json())["status"] in ("in_queue", "in_progress"):`,
    "    time.sleep(1)",
    `print(result["output"]["video"] if result["status"] == "succeeded" else result)`,
  ].join("\n");
}

function javaScript({ base, auth, model, values, schema }) {
  const isBig = (value) => /^-?\d+$/.test(value) && !Number.isSafeInteger(Number(value));
  const big = (value) => (isBig(value) ? `JSON.rawJSON("${value}")` : value);
  const body = Object.entries(values).map(([key, value]) => {
    const literal =
      value instanceof File ? `await upload(${JSON.stringify(value.name)})`
      : isBare(schema, key, value) ? big(value)
      : JSON.stringify(value);
    return `  ${JSON.stringify(key)}: ${literal},`;
  });
  const upload = [
    `import { openAsBlob } from "node:fs";`,
    "",
    "async function upload(path) {",
    "  const body = new FormData();",
    `  body.append("file", await openAsBlob(path), "image");`,
    `  return (await call("POST", "/files", { body })).id;`,
    "}",
    "",
  ];
  return [
    ...(files(values).length ? upload : []),
    `const base = ${JSON.stringify(base)};`,
    `const authorization = ${auth ? "{ Authorization: `Bearer ${process.env.TOKEN}` }" : "{}"};`,
    "",
    "async function call(method, path, { headers, ...options } = {}) {",
    "  const response = await fetch(base + path, { method, headers: { ...authorization, ...headers }, ...options });",
    "  if (!response.ok) throw new Error(await response.text());",
    "  return response.json();",
    "}",
    "",
    "const values = {",
    ...body,
    "};",
    `const { request_id } = await call("POST", ${JSON.stringify(`/models/${model}`)}, {`,
    `  headers: { "Content-Type": "application/json" },`,
    "  body: JSON.stringify(values),",
    "});",
    "let result;",
    "do {",
    "  await new Promise((wake) => setTimeout(wake, 1000));",
    "  result = await call(\"GET\", `/requests/${request_id}/result`);",
    `} while (["in_queue", "in_progress"].includes(result.status));`,
    "console.log(result.output?.video ?? result);",
  ].join("\n");
}
