"""The service's page at /: choose a picture, see its class and its neighbors; below, every address with examples."""

import base64
import hashlib
import json
from html import escape

SCRIPT = """
const show = (id, text) => document.getElementById(id).textContent = text;
const ask = async (address, file) => {
  const answer = await fetch(address, {method: "POST", body: file, headers: {"Content-Type": file.type || "?"}});
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
};
const row = (name, p) => {
  const tr = document.createElement("tr"), bar = document.createElement("meter");
  const th = document.createElement("th"), share = document.createElement("td"), cell = document.createElement("td");
  th.scope = "row"; th.textContent = name; bar.value = p; share.textContent = (100 * p).toFixed(1) + " %";
  bar.setAttribute("aria-hidden", "true"); cell.append(bar); tr.append(th, share, cell);
  return tr;
};
const card = (n) => {
  const figure = document.createElement("figure"), img = document.createElement("img");
  const caption = document.createElement("figcaption");
  img.src = n.picture; img.alt = n.class_name + ", training picture " + n.index;
  caption.textContent = n.class_name + " " + n.cosine.toFixed(3); figure.append(img, caption);
  return figure;
};
document.getElementById("file").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  if (!file) return;
  document.getElementById("result").hidden = true;
  show("status", "Asking …");
  try {
    const classes = await ask("classify", file), near = await ask("neighbours?k=6&pictures=true", file);
    const rows = Object.entries(classes.probabilities).sort((a, b) => b[1] - a[1]).map(([name, p]) => row(name, p));
    document.getElementById("classes").replaceChildren(...rows);
    document.getElementById("neighbors").replaceChildren(...near.map(card));
    document.getElementById("sent").src = URL.createObjectURL(file);
    document.getElementById("result").hidden = false;
    show("status", "Class: " + classes.class_name);
  } catch (error) { show("status", "Refused: " + error.message); }
});
"""
STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1b1b1b; background: #fff; } pre { background: #f3f3f3; padding: .6rem; overflow-x: auto; }
img { width: 6rem; height: 6rem; object-fit: cover; image-rendering: pixelated; } figure { margin: 0; }
#neighbors { display: flex; flex-wrap: wrap; gap: 1rem; } th { text-align: left; }
th, td { padding-right: 1rem; } #status { font-weight: 600; min-height: 1.5em; }
:focus-visible { outline: 3px solid #0072b2; }
"""
HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
# Only this page's own script runs, and it talks to this service only.
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; script-src 'sha256-{HASH}'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
}


def html(openapi):
    """Return the page for a service with this OpenAPI description (a dict)."""
    addresses = "".join(
        _operation(path, method, about, openapi)
        for path, methods in openapi["paths"].items()
        for method, about in methods.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(openapi["info"]["title"])}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>
<main><h1>{escape(openapi["info"]["title"])}</h1><p>{escape(openapi["info"]["description"])}</p>
<h2>Try a picture</h2><p><label for="file">A PNG, JPEG or WebP picture:</label>
<input type="file" id="file" accept="image/png,image/jpeg,image/webp"></p><p id="status" role="status"></p>
<section id="result" hidden aria-label="Result"><img id="sent" alt="the picture that was sent">
<table><caption>Probabilities</caption><tbody id="classes"></tbody></table>
<h3>Nearest training pictures, with the cosine of the features</h3><div id="neighbors"></div></section>
<h2>Addresses</h2><p>The same as <a href="openapi.json">openapi.json</a>, for programs.</p>{addresses}
</main><script>{SCRIPT}</script></body></html>"""


def _operation(path, method, about, openapi):
    """One address: what it does, its parameters, and an example of every answer."""
    parameters = "".join(
        f"<li><code>{escape(p['name'])}</code>: {escape(p.get('description', ''))}</li>"
        for p in about.get("parameters", ())
    )
    answers = "".join(
        f"<dt>{status}: {escape(answer['description'])}</dt>"
        f"<dd><pre>{_example(answer, openapi)}</pre></dd>"
        for status, answer in about["responses"].items()
    )
    return (
        f"<details><summary><code>{method.upper()} {escape(path)}</code> {escape(about['summary'])}</summary>"
        f"<p>{escape(about.get('description', ''))}</p><ul>{parameters}</ul><dl>{answers}</dl></details>"
    )


def _example(answer, openapi):
    content = answer.get("content", {}).get("application/json", {})
    schema, many = content.get("schema", {}), False
    if schema.get("type") == "array":
        schema, many = schema["items"], True
    known = (
        openapi.get("components", {})
        .get("schemas", {})
        .get(schema.get("$ref", "").rsplit("/", 1)[-1], {})
    )
    example = content.get("example", known.get("example"))
    return escape(json.dumps([example] if many else example, indent=1, ensure_ascii=False))
