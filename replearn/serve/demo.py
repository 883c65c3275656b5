"""The page of the service at /: try an image, see its class and its neighbors, read every address.

The page is made from the OpenAPI description of the service, so that it cannot say anything else.
"""

import base64
import hashlib
import json
from html import escape
from typing import Any

SCRIPT = """
function element(id) {
  return document.getElementById(id);
}

async function post(address, file) {
  const response = await fetch(address, {
    method: "POST",
    body: file,
    headers: {"Content-Type": file.type || "?"},
  });
  const answer = await response.json();
  if (!response.ok) {
    throw new Error(answer.error);
  }
  return answer;
}

function probabilityRow([className, probability]) {
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = className;

  const percent = document.createElement("td");
  percent.textContent = (100 * probability).toFixed(1) + " %";

  const bar = document.createElement("meter");
  bar.value = probability;
  bar.setAttribute("aria-hidden", "true");  // it repeats the number beside it
  const barCell = document.createElement("td");
  barCell.append(bar);

  const row = document.createElement("tr");
  row.append(name, percent, barCell);
  return row;
}

function neighborFigure(neighbor) {
  const image = document.createElement("img");
  image.src = neighbor.picture;
  image.alt = neighbor.class_name + ", training picture " + neighbor.index;

  const caption = document.createElement("figcaption");
  caption.textContent = neighbor.class_name + " " + neighbor.cosine.toFixed(3);

  const figure = document.createElement("figure");
  figure.append(image, caption);
  return figure;
}

async function showAnswers(file) {
  const classification = await post("classify", file);
  const neighbors = await post("neighbors?k=6&pictures=true", file);
  const probabilities = Object.entries(classification.probabilities);
  probabilities.sort((a, b) => b[1] - a[1]);
  element("classes").replaceChildren(...probabilities.map(probabilityRow));
  element("neighbors").replaceChildren(...neighbors.map(neighborFigure));
  element("sent").src = URL.createObjectURL(file);
  element("result").hidden = false;
  element("status").textContent = "Class: " + classification.class_name;
}

element("file").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  if (!file) {
    return;
  }
  element("result").hidden = true;
  element("status").textContent = "Asking …";
  try {
    await showAnswers(file);
  } catch (error) {
    element("status").textContent = "Refused: " + error.message;
  }
});
"""

STYLE = """
body {
  max-width: 52rem;
  margin: 2rem auto;
  padding: 0 1rem;
  font: 1rem/1.5 system-ui, sans-serif;
  color: #1b1b1b;
  background: #fff;
}
pre { padding: .6rem; overflow-x: auto; background: #f3f3f3; }
img { width: 6rem; height: 6rem; object-fit: cover; image-rendering: pixelated; }
figure { margin: 0; }
th { text-align: left; }
th, td { padding-right: 1rem; }
#neighbors { display: flex; flex-wrap: wrap; gap: 1rem; }
#status { min-height: 1.5em; font-weight: 600; }
:focus-visible { outline: 3px solid #0072b2; }
"""

# Only this page's own script runs, which is known by its hash, and it talks to this service only.
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
_POLICY = (
    "default-src 'none'",
    f"script-src 'sha256-{_SCRIPT_HASH}'",
    "style-src 'unsafe-inline'",
    "img-src data: blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
)
HEADERS = {"Content-Security-Policy": "; ".join(_POLICY)}


def demo_page(openapi: dict[str, Any]) -> str:
    """Return the page of a service as HTML, to be sent with `HEADERS`.

    Args:
        openapi: The OpenAPI description of the service.

    Returns:
        A whole HTML document that loads nothing from elsewhere.
    """
    title = escape(openapi["info"]["title"])
    description = escape(openapi["info"]["description"])
    operations = []
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            operations.append(_operation(path, method, operation, openapi))
    addresses = "\n".join(operations)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{description}</p>

<h2>Try a picture</h2>
<p>
  <label for="file">A PNG, JPEG or WebP picture:</label>
  <input type="file" id="file" accept="image/png,image/jpeg,image/webp">
</p>
<p id="status" role="status"></p>
<section id="result" hidden aria-label="Result">
  <img id="sent" alt="the picture that was sent">
  <table>
    <caption>Probabilities</caption>
    <tbody id="classes"></tbody>
  </table>
  <h3>Nearest training pictures, with the cosine of the features</h3>
  <div id="neighbors"></div>
</section>

<h2>Addresses</h2>
<p>The same as <a href="openapi.json">openapi.json</a>, for programs.</p>
{addresses}
</main>
<script>{SCRIPT}</script>
</body>
</html>"""


def _operation(path: str, method: str, operation: dict, openapi: dict) -> str:
    """Return one address as HTML: what it does, its parameters, an example of every answer."""
    parameters = []
    for parameter in operation.get("parameters", ()):
        name = escape(parameter["name"])
        description = escape(parameter.get("description", ""))
        parameters.append(f"<li><code>{name}</code>: {description}</li>")

    answers = []
    for status, answer in operation["responses"].items():
        answers.append(f"<dt>{status}: {escape(answer['description'])}</dt>")
        answers.append(f"<dd><pre>{_example(answer, openapi)}</pre></dd>")

    return f"""<details>
<summary><code>{method.upper()} {escape(path)}</code> {escape(operation["summary"])}</summary>
<p>{escape(operation.get("description", ""))}</p>
<ul>{"".join(parameters)}</ul>
<dl>{"".join(answers)}</dl>
</details>"""


def _example(answer: dict, openapi: dict) -> str:
    """Return the example of an answer as JSON: its own, or else the one of its schema."""
    content = answer.get("content", {}).get("application/json", {})
    schema = content.get("schema", {})
    is_list = schema.get("type") == "array"
    if is_list:
        schema = schema["items"]
    example = content.get("example")
    if example is None:
        name = schema.get("$ref", "").rsplit("/", 1)[-1]  # "#/components/schemas/Neighbor"
        schemas = openapi.get("components", {}).get("schemas", {})
        example = schemas.get(name, {}).get("example")
    if is_list:
        example = [example]
    return escape(json.dumps(example, indent=1, ensure_ascii=False))
