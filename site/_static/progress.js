/* What a reader chose and marked stays in this browser: the prediction of each question, exercises that were right, lessons
   that are done. The page "My progress" shows it all, and writes it to a file. No account, nothing leaves the machine. */
"use strict";
window.replearnProgress = (() => {
  const KEY = "replearn-progress";
  const EMPTY = {predictions: {}, exercises: {}, lessons: {}};
  let fallback = "{}";  // a browser may keep nothing: then it is kept until the page is left

  function isTable(value) {
    return value !== null && typeof value === "object" && !Array.isArray(value);
  }

  function read() {
    let stored = fallback, found = {};
    try { stored = localStorage.getItem(KEY) ?? "{}"; } catch { /* not allowed here */ }
    try { found = JSON.parse(stored); } catch { /* somebody else's text */ }
    const all = {};
    for (const part of Object.keys(EMPTY)) all[part] = isTable(found) && isTable(found[part]) ? found[part] : {};
    return all;
  }

  function write(all) {
    fallback = JSON.stringify(all);
    try { localStorage.setItem(KEY, fallback); } catch { /* not allowed here */ }
  }

  /* Keep one thing; null forgets it. */
  function keep(part, name, value) {
    const all = read();
    if (value === null || value === false) delete all[part][name];
    else all[part][name] = value;
    write(all);
  }

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function checkbox(text, part, name) {
    const box = element("input", {type: "checkbox", autocomplete: "off"});
    box.checked = Boolean(read()[part][name]);
    box.addEventListener("change", () => keep(part, name, box.checked));
    return element("label", {class: "progress-mark"}, box, ` ${text}`);
  }

  // --- on the page of a lesson ---------------------------------------------------------------------------------------

  /* A question repeats what was chosen, and so does the place further down where the answer was measured. */
  function converse(question) {
    const name = question.id.replace("predict-", ""), measured = document.getElementById(`measured-${name}`);
    const boxes = [...question.querySelectorAll("input[type=radio]")];
    const words = (box) => box.parentElement.textContent.trim();
    const ask = [...question.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data);
    const said = element("p", {role: "status", class: "progress-said"});
    question.append(said);

    function show(box) {
      box.checked = true;
      said.replaceChildren(`You said: ${words(box)}. `);
      if (!measured) return;
      said.append(element("a", {href: `#${measured.id}`}, "What was measured"));
      measured.querySelector("span").textContent = `You said: ${words(box)}. `;
    }
    for (const box of boxes) {
      box.addEventListener("change", () => {
        const answer = measured ? measured.lastChild.textContent.trim() : "";
        keep("predictions", name, {question: ask.join(" ").trim(), choice: words(box), measured: answer});
        show(box);
      });
    }
    const kept = read().predictions[name];
    const before = isTable(kept) && boxes.find((box) => words(box) === kept.choice);
    if (before) show(before);
  }

  function lessonPage(number) {
    document.querySelectorAll("fieldset[id^=predict-]").forEach(converse);
    for (const place of document.querySelectorAll("[data-exercise]")) {
      place.append(checkbox("My answer to this exercise was right.", "exercises", `${number} ${place.dataset.exercise}`));
    }
    document.querySelector("article")?.append(
      element("p", {class: "progress-done"}, checkbox("I have done this lesson.", "lessons", number)));
  }

  // --- the page "My progress" ----------------------------------------------------------------------------------------

  function progressPage(place) {
    const lessons = JSON.parse(place.dataset.progress), table = place.querySelector("tbody");
    const summary = place.querySelector("[role=status]");

    function show() {
      const all = read();
      table.replaceChildren();
      let done = 0, right = 0, exercises = 0;
      for (const {number, title, address, names} of lessons) {
        const chosen = Object.keys(all.predictions).filter((name) => name.startsWith(`${number}-`)).sort();
        const solved = names.filter((name) => all.exercises[`${number} ${name}`]);
        const items = chosen.map((name) => {
          const {question, choice, measured} = isTable(all.predictions[name]) ? all.predictions[name] : {};
          const outcome = measured ? ` Measured: ${measured}` : "";
          return element("li", {}, `${question ?? ""} You said: ${choice ?? ""}.${outcome}`);
        });
        done += Boolean(all.lessons[number]);
        right += solved.length;
        exercises += names.length;
        table.append(element("tr", {},
          element("td", {}, element("a", {href: address}, title)),
          element("td", {}, items.length ? element("ul", {}, ...items) : "none yet"),
          element("td", {}, `${solved.length} of ${names.length}`),
          element("td", {}, all.lessons[number] ? "✓" : "not yet")));
      }
      summary.textContent = `${done} of ${lessons.length} lessons done, ${right} of ${exercises} exercises right.`;
    }

    place.querySelector("[data-export]").addEventListener("click", () => {
      const file = new Blob([JSON.stringify(read(), null, 1) + "\n"], {type: "application/json"});
      const link = element("a", {href: URL.createObjectURL(file), download: "replearn-progress.json"});
      link.click();
      URL.revokeObjectURL(link.href);
    });
    place.querySelector("[data-forget]").addEventListener("click", () => {
      if (!confirm("Forget all predictions, exercises and lessons in this browser?")) return;
      write(structuredClone(EMPTY));
      show();
    });
    place.hidden = false;
    show();
  }

  const number = location.pathname.match(/notebooks\/(?:frontier\/)?(\d\d|F\d)_/)?.[1];
  if (number) lessonPage(number);
  document.querySelectorAll("[data-progress]").forEach(progressPage);
  return {read, keep};
})();
