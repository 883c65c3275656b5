/* The live picture: shapes drawn as replearn.data.shapes draws them, and the shipped encoder, both in the browser and
   without a network. site/live.py writes the weights and the gallery into live-data.js; live-audit.js has what lesson 11
   adds. */
"use strict";
window.replearnLive = (() => {
  const SIDE = 32, PIXELS = SIDE * SIDE;
  const data = window.liveData;

  // --- signed distances, as in replearn/data/shapes.py ---------------------------------------------------------------

  function polygon(x, y, corners) {
    let squared = Infinity, inside = false;
    for (let i = 0; i < corners.length; i++) {
      const [startX, startY] = corners[i], [endX, endY] = corners[(i + 1) % corners.length];
      const edgeX = endX - startX, edgeY = endY - startY, fromX = x - startX, fromY = y - startY;
      const along = (fromX * edgeX + fromY * edgeY) / (edgeX * edgeX + edgeY * edgeY);
      const t = Math.min(Math.max(along, 0), 1);
      squared = Math.min(squared, (fromX - t * edgeX) ** 2 + (fromY - t * edgeY) ** 2);
      const spansHeight = (startY > y) !== (endY > y);
      if (spansHeight && x < startX + fromY * edgeX / edgeY) inside = !inside;
    }
    return inside ? -Math.sqrt(squared) : Math.sqrt(squared);
  }

  const distances = {
    circle: (x, y) => Math.hypot(x, y) - 0.8,
    ring: (x, y) => Math.abs(Math.hypot(x, y) - 0.68) - 0.2,
    moon: (x, y) => Math.max(Math.hypot(x, y) - 0.9, 0.75 - Math.hypot(x - 0.5, y)),
    bar: (x, y) => Math.max(Math.abs(x) - 0.35, Math.abs(y) - 1),
  };
  for (const [name, corners] of Object.entries(data.corners)) distances[name] = (x, y) => polygon(x, y, corners);

  // --- drawing -------------------------------------------------------------------------------------------------------

  /* Hue, saturation and value in [0, 1] to red, green and blue. */
  function rgb(hue, saturation, value) {
    return [5, 3, 1].map((offset) => {
      const sextant = (offset + 6 * hue) % 6;
      const missing = Math.min(Math.max(Math.min(sextant, 4 - sextant), 0), 1);
      return value * (1 - saturation * missing);
    });
  }

  function rotated(x, y, angle) {
    const cos = Math.cos(angle), sin = Math.sin(angle);
    return [x * cos + y * sin, y * cos - x * sin];
  }

  function pattern(name, x, y, frequency, angle, phase) {
    if (name === "plain") return 0;
    const [along, across] = rotated(x, y, angle);
    const wave = Math.sin(Math.PI * frequency * along + phase);
    const otherWave = Math.sin(Math.PI * frequency * across + phase);
    let strength = (wave + otherWave - 0.9) * 1.5;
    if (name === "striped") strength = wave;
    if (name === "checked") strength = wave * otherWave * 2;
    return 1 / (1 + Math.exp(-4 * strength));
  }

  /* What the package draws at random, in the middle of its range. */
  const MIDDLE = {frequency: 0.5, angle: 0.25, phase: 0, saturation: 0.5, value: 0.5,
    backgroundSaturation: 0.5, backgroundValue: 0.5};

  /* The picture of some factors, without noise: red, green and blue one after the other, 3 x 32 x 32 in [0, 1]. */
  function draw(factors, random = MIDDLE) {
    const image = new Float32Array(3 * PIXELS);
    const color = rgb(factors.hue, 0.6 + 0.4 * random.saturation, 0.75 + 0.25 * random.value);
    const ground = rgb(factors.background_hue, 0.4 + 0.4 * random.backgroundSaturation,
      0.1 + 0.15 * random.backgroundValue);
    const distance = distances[data.shapes[factors.shape]], texture = data.textures[factors.texture];
    for (let row = 0; row < SIDE; row++) {
      for (let column = 0; column < SIDE; column++) {
        const x = (column + 0.5) * 2 / SIDE - 1, y = (row + 0.5) * 2 / SIDE - 1;
        const [along, across] = rotated(x - factors.x, y - factors.y, factors.rotation);
        const inPixels = distance(along / factors.size, across / factors.size) * factors.size * SIDE / 2;
        const cover = Math.min(Math.max(0.5 - inPixels, 0), 1);
        const shade = 1 - 0.5 * pattern(texture, x, y, 2.5 + 2 * random.frequency, Math.PI * random.angle,
          2 * Math.PI * random.phase);
        for (let channel = 0; channel < 3; channel++) {
          const behind = ground[channel] * shade;
          const value = behind + cover * (color[channel] - behind);
          image[channel * PIXELS + row * SIDE + column] = Math.round(Math.min(Math.max(value, 0), 1) * 255) / 255;
        }
      }
    }
    return image;
  }

  // --- the encoder ---------------------------------------------------------------------------------------------------

  const wholeNumber = new Map([...data.characters].map((character, i) => [character.charCodeAt(0),
    i - (data.characters.length - 1) / 2]));

  /* Whole numbers from a text, one character each. */
  function numbers(text) {
    return Float32Array.from(text, (character) => wholeNumber.get(character.charCodeAt(0)));
  }

  const layers = data.encoder.map(({stride, step, bias, weights}) => {
    const size = weights.length / bias.length;
    return {stride, bias, size, weights: numbers(weights).map((whole, i) => whole * step[Math.floor(i / size)])};
  });

  /* A 3 x 3 convolution with a border of zeros, then ReLU; `side` is that of the input. */
  function convolve(input, side, {stride, bias, size, weights}) {
    const channels = size / 9, outSide = side / stride;
    const output = new Float32Array(bias.length * outSide * outSide), patch = new Float32Array(size);
    for (let position = 0; position < outSide * outSide; position++) {
      const top = Math.floor(position / outSide) * stride - 1, left = (position % outSide) * stride - 1;
      let i = 0;
      for (let channel = 0; channel < channels; channel++) {
        for (let row = top; row < top + 3; row++) {
          for (let column = left; column < left + 3; column++) {
            const inside = row >= 0 && row < side && column >= 0 && column < side;
            patch[i++] = inside ? input[(channel * side + row) * side + column] : 0;
          }
        }
      }
      // Four channels at a time: a processor adds to four sums as fast as to one.
      for (let out = 0; out < bias.length; out += 4) {
        let sum0 = bias[out], sum1 = bias[out + 1], sum2 = bias[out + 2], sum3 = bias[out + 3];
        for (let j = 0, k = out * size; j < size; j++, k++) {
          const value = patch[j];
          sum0 += value * weights[k];
          sum1 += value * weights[k + size];
          sum2 += value * weights[k + 2 * size];
          sum3 += value * weights[k + 3 * size];
        }
        [sum0, sum1, sum2, sum3].forEach((sum, more) => {
          output[(out + more) * outSide * outSide + position] = Math.max(sum, 0);
        });
      }
    }
    return output;
  }

  /* The representation of a picture: 512 numbers. */
  function encode(image) {
    let values = image.map((value) => (value - 0.5) * 4), side = SIDE;
    for (const layer of layers) {
      values = convolve(values, side, layer);
      side /= layer.stride;
    }
    const half = side / 2, pooled = new Float32Array(values.length / (half * half));
    for (let i = 0; i < values.length; i++) {
      const channel = Math.floor(i / (side * side)), row = Math.floor(i / side) % side, column = i % side;
      pooled[channel * 4 + Math.floor(row / half) * 2 + Math.floor(column / half)] += values[i] / (half * half);
    }
    return pooled;
  }

  // --- distances and neighbors ---------------------------------------------------------------------------------------

  function unit(z) {
    const length = Math.hypot(...z);
    return z.map((value) => value / length);
  }

  function squaredDistance(a, b) {
    let sum = 0;
    for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2;
    return sum;
  }

  function between(a, b) {
    return Math.sqrt(squaredDistance(a, b));
  }

  /* The mean of a distance over all pairs: what the bars call 100 %. */
  function meanOverPairs(distance, all) {
    let sum = 0, count = 0;
    for (let i = 0; i < all.length; i++) {
      for (let j = 0; j < i; j++, count++) sum += distance(all[i], all[j]);
    }
    return sum / count;
  }

  function nearest(one, all, count) {
    const far = all.map((other) => between(one, other));
    return [...all.keys()].sort((i, j) => far[i] - far[j]).slice(0, count);
  }

  // --- the page ------------------------------------------------------------------------------------------------------

  function paint(canvas, image) {
    const context = canvas.getContext("2d"), painted = context.createImageData(SIDE, SIDE);
    for (let i = 0; i < PIXELS; i++) {
      for (let channel = 0; channel < 3; channel++) painted.data[4 * i + channel] = 255 * image[channel * PIXELS + i];
      painted.data[4 * i + 3] = 255;
    }
    context.putImageData(painted, 0, 0);
  }

  const COLORS = ["red", "yellow", "green", "cyan", "blue", "magenta"];
  const START = {shape: 3, hue: 0.08, size: 0.65, rotation: 0, x: 0, y: 0, background_hue: 0.6, texture: 1};
  const SPACES = ["pixels", "z"];

  const gallery = data.gallery.rows.map((row) => Object.fromEntries(row.map((value, i) => [data.gallery.names[i], value])));

  /* A turn for the page, between two pieces of work that take about the time of one answer. */
  function pause() {
    return new Promise((resolve) => setTimeout(resolve));
  }

  async function encodedGallery() {
    const images = [], codes = [];
    for (const factors of gallery) {
      images.push(draw(factors));
      codes.push(encode(images[images.length - 1]));
      await pause();
    }
    return {images, codes};
  }

  /* What stands beside the picture on the first page: how far it has moved in pixels and in z, and its neighbors. */
  function neighbors(figure, first, tell) {
    const from = {pixels: first, z: unit(encode(first))};
    let measured = null;

    function show(space, here, factors) {
      const {all, mean} = measured[space], row = figure.querySelector(`[data-space=${space}]`);
      const percent = Math.round(100 * between(here, from[space]) / mean);
      row.querySelector("[data-bar]").style.width = `${Math.min(percent, 130) / 1.3}%`;
      row.querySelector("output").textContent = `${percent} %`;
      const thumbs = [...row.querySelectorAll("canvas")], names = [];
      nearest(here, all, thumbs.length).forEach((index, place) => {
        const name = data.shapes[gallery[index].shape];
        paint(thumbs[place], measured.pixels.all[index]);
        thumbs[place].classList.toggle("same", gallery[index].shape === factors.shape);
        names.push(name);
      });
      return {moved: `${percent} % in ${space}`, nearest: `in ${space}: ${names.join(", ")}`};
    }

    return {
      ready: encodedGallery().then(({images, codes}) => {
        const all = {pixels: images, z: codes.map(unit)};
        measured = Object.fromEntries(SPACES.map((space) =>
          [space, {all: all[space], mean: meanOverPairs(between, all[space])}]));
      }),
      answer(image, factors) {
        if (!measured) return;
        const here = {pixels: image, z: unit(encode(image))};
        const told = SPACES.map((space) => show(space, here[space], factors));
        tell(`The picture moved ${told.map((t) => t.moved).join(", ")}. ` +
          `Nearest ${told.map((t) => t.nearest).join("; nearest ")}.`);
      },
    };
  }

  /* Start the picture of a figure. `view(figure, first image, tell)` returns what stands beside it: `ready`, a promise,
     and `answer(image, factors)`, called at every change; what it tells is read out by a screen reader. */
  function start(figure, view) {
    const find = (selector) => figure.querySelector(selector), sliders = [...figure.querySelectorAll("input")];
    const canvas = find("canvas[data-picture]"), status = find("[role=status]");
    const words = {
      shape: (value) => data.shapes[value],
      hue: (value) => COLORS[Math.round(value * 6) % 6],
      size: (value) => value < 0.65 ? "small" : "large",
      rotation: (value) => `turned by ${Math.round(value * 180 / Math.PI)} degrees`,
      x: (value) => `${Math.round(value * SIDE / 2)} pixels to the right`,
      y: (value) => `${Math.round(value * SIDE / 2)} pixels down`,
      background_hue: (value) => COLORS[Math.round(value * 6) % 6],
      texture: (value) => data.textures[value],
    };
    const factors = {...START}, first = draw(factors);
    const beside = view(figure, first, (text) => { status.textContent = text; });
    let due = false;
    paint(find("canvas[data-start]"), first);

    function answer() {
      due = false;
      const began = performance.now(), image = draw(factors);
      paint(canvas, image);
      beside.answer(image, factors);
      api.milliseconds = performance.now() - began;
    }

    /* One answer a frame, however many events there were. */
    function changed() {
      for (const slider of sliders) {
        slider.value = factors[slider.name];
        slider.setAttribute("aria-valuetext", words[slider.name](factors[slider.name]));
      }
      for (const word of figure.querySelectorAll("[data-word]")) {
        word.textContent = words[word.dataset.word](factors[word.dataset.word]);
      }
      if (!due) requestAnimationFrame(answer);
      due = true;
    }

    for (const slider of sliders) {
      slider.addEventListener("input", () => {
        factors[slider.name] = Number(slider.value);
        changed();
      });
    }
    function drag(event) {
      if (!event.buttons) return;
      const box = canvas.getBoundingClientRect();
      const limit = (value) => Math.min(Math.max(value, -0.35), 0.35);
      factors.x = limit(2 * (event.clientX - box.left) / box.width - 1);
      factors.y = limit(2 * (event.clientY - box.top) / box.height - 1);
      changed();
    }
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      drag(event);
    });
    canvas.addEventListener("pointermove", drag);

    changed();
    beside.ready.then(() => {
      figure.dataset.ready = "yes";
      changed();
    });
  }

  const api = {
    SIDE, data, draw, encode, encodedGallery, meanOverPairs, numbers, paint, pause, squaredDistance, start,
    milliseconds: 0,
  };
  document.querySelectorAll('figure[data-live="neighbors"]').forEach((figure) => start(figure, neighbors));
  return api;
})();
