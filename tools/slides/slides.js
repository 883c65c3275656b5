// A formula too wide, or too much for one screen (code unfolded): smaller, down to 60 %; beyond that the slide scrolls.
function fit() {
  const slide = Reveal.getCurrentSlide();
  if (!slide) return;
  for (const formula of slide.querySelectorAll('mjx-container[display]')) {
    formula.style.fontSize = '';
    const share = formula.clientWidth / formula.scrollWidth;
    if (share < 1) formula.style.fontSize = `${Math.floor(96 * share)}%`;
  }
  const inner = [...slide.children].filter((part) => !part.matches('aside'));
  inner.forEach((part) => { part.style.zoom = 1; });
  for (let zoom = 1; zoom > 0.6 && slide.scrollHeight > slide.clientHeight + 1; zoom -= 0.05) {
    inner.forEach((part) => { part.style.zoom = zoom - 0.05; });
  }
}
function fold() {
  const codes = [...document.querySelectorAll('details.code')];
  const open = codes.some((code) => !code.open);
  codes.forEach((code) => { code.open = open; });
  fit();
}
Reveal.initialize({ controls: true, progress: true, hash: true, center: false, transition: 'none', slideNumber: 'c/t',
                    width: WIDTH, height: HEIGHT, margin: 0.03, pdfMaxPagesPerSlide: 1, plugins: [RevealNotes] });
Reveal.addKeyBinding({ keyCode: 67, key: 'C', description: 'Show or fold all code' }, fold);
for (const event of ['ready', 'slidechanged', 'resize']) Reveal.on(event, fit);
document.addEventListener('toggle', fit, true);
// A slider that was moved by mouse gives the keys back to the slides; one reached by Tab keeps its arrows.
document.addEventListener('pointerup', (event) => { if (event.target.type === 'range') event.target.blur(); });
MathJax.startup.promise.then(fit);
