// What was asked as code that runs: Python over HTTP with its standard library alone, Python in one process, curl, JSON.

/** The kinds of code: name -> text, of {server, model, picture: {name, url}, asks, options}. `url`: of a drawn sample. */
export const SNIPPETS = { "Python, this server": overHttp, "Python, in process": inProcess, curl, "JSON of the request": requestJson };

function overHttp({ server, picture, asks, options }) {
  const body = python({ asks, ...options }, 1).slice(2);
  const file = `with open(${python(picture.name)}, "rb") as file:\n    picture = file.read()\n`;
  return `import base64
import json
import os
import urllib.request

${connection(server)}${picture.url ? download(picture) : file}
body = {
    "image": base64.b64encode(picture).decode(),
${body}
request = urllib.request.Request(server + "/v1/predict", json.dumps(body).encode(), headers)
with urllib.request.urlopen(request) as response:
    answers = json.load(response)["answers"]
for answer in answers:
    print(json.dumps(answer))
`;
}

function connection(server) {
  return `server = ${python(server)}
headers = {"Content-Type": "application/json"}
if os.environ.get("FLORENCE2_API_KEY"):
    headers["Authorization"] = "Bearer " + os.environ["FLORENCE2_API_KEY"]
`;
}

function download({ url }) {
  return `with urllib.request.urlopen(urllib.request.Request(server + ${python(url)}, None, headers)) as response:
    picture = response.read()
`;
}

function inProcess({ server, model, picture, asks, options }) {
  const rows = asks.map(({ task, ...rest }) => {
    const more = Object.entries(rest).map(([name, value]) => `, ${name}=${python(value)}`).join("");
    return `    Ask(${python(task)}${more}),\n`;
  });
  const more = Object.entries(options).map(([name, value]) => `, ${name}=${python(value)}`).join("");
  return `import json
${picture.url ? "import os\nimport urllib.request\n" : ""}
import florence2
from florence2 import Ask

${picture.url ? connection(server) + download(picture) : `picture = ${python(picture.name)}\n`}model = florence2.load(${python(model)})
asks = [
${rows.join("")}]
for answer in model.predict(picture, asks${more}):
    print(json.dumps(answer.to_json()))
`;
}

function curl({ server, picture, asks, options }) {
  const body = JSON.stringify({ asks, ...options }).slice(1);
  const save = picture.url ? `curl -s ${server}${picture.url} -o ${shell(picture.name)}\n` : "";
  return `${save}(printf '{"image":"'; base64 < ${shell(picture.name)} | tr -d '\\n'; printf '%s' ${shell(`",${body}`)}) |
  curl -s ${server}/v1/predict -H 'Content-Type: application/json' -H "Authorization: Bearer $FLORENCE2_API_KEY" -d @-
`;
}

function requestJson({ asks, options }) {
  return `${JSON.stringify({ image: "<the picture as base64>", asks, ...options }, null, 2)}\n`;
}

/** A value as Python writes it; a text of JSON is one of Python's. */
export function python(value, depth = 0) {
  const inner = "    ".repeat(depth);
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) {
    if (value.some((one) => one && typeof one === "object")) {
      return `[\n${value.map((one) => `${inner}    ${python(one)},\n`).join("")}${inner}]`;
    }
    return `[${value.map((one) => python(one)).join(", ")}]`;
  }
  if (typeof value === "object") {
    const rows = Object.entries(value);
    if (!depth) return `{${rows.map(([name, one]) => `${python(name)}: ${python(one)}`).join(", ")}}`;
    return `{\n${rows.map(([name, one]) => `${inner}${python(name)}: ${python(one, depth)},\n`).join("")}}`;
  }
  return JSON.stringify(value);
}

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
