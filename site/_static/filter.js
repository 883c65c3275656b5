/* A field that leaves only those rows of its section's tables that have some words in them; headings without a row go. */
"use strict";
for (const place of document.querySelectorAll("[data-filter]")) {
  const field = place.querySelector("input"), said = place.querySelector("output");
  const scope = place.closest("section"), rows = [...scope.querySelectorAll("tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const sections = [...scope.querySelectorAll("section")].filter((section) => section.querySelector("tbody tr"));

  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const heading = (row) => row.closest("section").querySelector("h2, h3")?.textContent.toLowerCase() ?? "";
    let shown = 0;
    rows.forEach((row, i) => {
      const text = `${heading(row)} ${texts[i]}`;
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    });
    for (const section of sections) {
      section.hidden = words.length > 0 && !section.querySelector("tbody tr:not([hidden])");
    }
    said.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
  place.hidden = false;
}
