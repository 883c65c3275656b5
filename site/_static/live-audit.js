/* The live picture of lesson 11: the changes of replearn.audit, made in the browser, and how far each moves the features.
   The picture itself, the encoder and its weights are those of live.js. */
"use strict";
window.replearnAudit = (() => {
  const {
    SIDE, data, draw, encode, encodedGallery, meanOverPairs, numbers, paint, pause, squaredDistance, start,
  } = window.replearnLive;
  const PIXELS = SIDE * SIDE;

  // --- changes, as in replearn/audit.py: an image in, a new one out --------------------------------------------------

  function limited(value, least, most) {
    return Math.min(Math.max(value, least), most);
  }

  /* A new image from a function of channel, row and column. */
  function made(value) {
    const image = new Float32Array(3 * PIXELS);
    for (let i = 0; i < image.length; i++) {
      const channel = Math.floor(i / PIXELS), row = Math.floor(i / SIDE) % SIDE, column = i % SIDE;
      image[i] = limited(value(channel, row, column, i), 0, 1);
    }
    return image;
  }

  function pixel(image, channel, row, column) {
    return image[channel * PIXELS + row * SIDE + column];
  }

  /* The value at a place between pixels; outside of the picture its border goes on. */
  function between(image, channel, row, column) {
    const y = limited(row, 0, SIDE - 1), x = limited(column, 0, SIDE - 1);
    const top = Math.floor(y), left = Math.floor(x);
    const bottom = Math.min(top + 1, SIDE - 1), right = Math.min(left + 1, SIDE - 1);
    const above = (left + 1 - x) * pixel(image, channel, top, left) + (x - left) * pixel(image, channel, top, right);
    const below = (left + 1 - x) * pixel(image, channel, bottom, left) + (x - left) * pixel(image, channel, bottom, right);
    return (top + 1 - y) * above + (y - top) * below;
  }

  function rotate(image) {
    const angle = 20 * Math.PI / 180, cos = Math.cos(angle), sin = Math.sin(angle), middle = (SIDE - 1) / 2;
    return made((channel, row, column) => {
      const x = column - middle, y = row - middle;
      return between(image, channel, middle + sin * x + cos * y, middle + cos * x - sin * y);
    });
  }

  /* The middle of the picture, half of its area, made as large as the whole. */
  function cropMiddle(image) {
    const side = Math.round(SIDE * Math.SQRT1_2), from = Math.floor((SIDE - side) / 2);
    const place = (index) => limited(from - 0.5 + (index + 0.5) * side / SIDE, from, from + side - 1);
    return made((channel, row, column) => between(image, channel, place(row), place(column)));
  }

  function gray(red, green, blue) {
    return data.luma[0] * red + data.luma[1] * green + data.luma[2] * blue;
  }

  function colors(image, i) {
    return [image[i % PIXELS], image[PIXELS + i % PIXELS], image[2 * PIXELS + i % PIXELS]];
  }

  /* Turn the hue; value and saturation of each pixel stay. */
  function shiftHue(image) {
    return made((channel, row, column, i) => {
      const [red, green, blue] = colors(image, i), low = Math.min(red, green, blue);
      const chroma = Math.max(red, green, blue) - low;
      if (chroma === 0) return low;
      let sextant = 4 + (red - green) / chroma;  // where blue is the strongest
      if (red - low === chroma) sextant = (green - blue) / chroma;
      else if (green - low === chroma) sextant = 2 + (blue - red) / chroma;
      // A channel has all of the chroma within a sextant of its own hue; over the next one its share falls to 0.
      const away = Math.abs(((sextant + 6 * 0.3 - 2 * channel) % 6 + 9) % 6 - 3);
      return low + chroma * limited(2 - away, 0, 1);
    });
  }

  function lowerContrast(image) {
    const sums = [0, 0, 0];
    image.forEach((value, i) => { sums[Math.floor(i / PIXELS)] += value / PIXELS; });
    return image.map((value) => (value + gray(...sums)) / 2);
  }

  /* A Gaussian with a standard deviation of one pixel, five pixels wide; the borders are reflected. */
  function blur(image) {
    const taps = [-2, -1, 0, 1, 2].map((offset) => Math.exp(-offset * offset / 2));
    const sum = taps.reduce((a, b) => a + b), reflected = (i) => SIDE - 1 - Math.abs(SIDE - 1 - Math.abs(i));
    const along = (rows, columns) => (source) => made((channel, row, column) => taps.reduce((total, tap, i) =>
      total + tap / sum * pixel(source, channel, reflected(row + rows * (i - 2)), reflected(column + columns * (i - 2))), 0));
    return along(0, 1)(along(1, 0)(image));
  }

  const noise = numbers(data.noise.values);
  const isHidden = (i) => i >= SIDE * 3 / 8 && i < SIDE * 5 / 8;
  const changes = {
    "moved 3 pixels": (image) => made((channel, row, column) => pixel(image, channel, row, Math.max(column - 3, 0))),
    "turned 20°": rotate,
    "mirrored": (image) => made((channel, row, column) => pixel(image, channel, row, SIDE - 1 - column)),
    "middle half": cropMiddle,
    "other hue": shiftHue,
    "half as bright": (image) => image.map((value) => value / 2),
    "low contrast": lowerContrast,
    "gray": (image) => made((channel, row, column, i) => gray(...colors(image, i))),
    "blurred": blur,
    "noise": (image) => made((channel, row, column, i) => image[i] + data.noise.step * noise[i]),
    "patch hidden": (image) => made((channel, row, column, i) => isHidden(row) && isHidden(column) ? 0.5 : image[i]),
  };

  /* What the lesson redraws and the card cannot: a picture from other factors. */
  const redrawn = {
    "other background": (factors) => draw({...factors, background_hue: (factors.background_hue + 0.5) % 1}),
    "other texture": (factors) => draw({...factors, texture: (factors.texture + 1) % data.textures.length}),
  };

  // --- the page ------------------------------------------------------------------------------------------------------

  /* The rows below the picture. Each is an answer of its own, and the page gets a turn after it. */
  function rows(figure, first, tell) {
    const from = encode(first);
    let apart = null, latest = 0;

    function pictureOf(name, image, factors) {
      if (name in changes) return changes[name](image);
      return name in redrawn ? redrawn[name](factors) : image;
    }

    async function answer(image, factors) {
      if (apart === null) return;
      const mine = ++latest, here = encode(image), told = [];
      for (const row of figure.querySelectorAll("[data-change]")) {
        const name = row.dataset.change, changed = pictureOf(name, image, factors);
        const origin = name === "your change" ? from : here;
        const percent = Math.round(100 * squaredDistance(encode(changed), origin) / apart);
        paint(row.querySelector("canvas"), changed);
        row.querySelector("[data-bar]").style.width = `${Math.min(percent, 130) / 1.3}%`;
        row.querySelector("[data-moved]").textContent = `${percent} %`;
        told.push({name, percent});
        await pause();
        if (mine !== latest) return;  // the picture has changed meanwhile
      }
      figure.dataset.answered = mine;
      const [own, ...others] = told, most = others.sort((a, b) => b.percent - a.percent);
      tell(`Your change: ${own.percent} %. Farthest: ${most[0].name}, ${most[0].percent} %. ` +
        `Least: ${most[most.length - 1].name}, ${most[most.length - 1].percent} %.`);
    }

    return {
      ready: encodedGallery().then(({codes}) => { apart = meanOverPairs(squaredDistance, codes); }),
      answer,
    };
  }

  document.querySelectorAll('figure[data-live="audit"]').forEach((figure) => start(figure, rows));
  return {changes, redrawn};
})();
