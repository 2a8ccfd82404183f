"use strict";
// Decodes and classifies crops beside the page, so that the page stays awake. Talks to nobody but the page.
(() => {
  const LARGEST_PX = 64e6, LEAST_SIDE_PX = 32;
  const JPEG_NOTE = "JPEG, decoded by the browser: damage inside the picture is not noticed";
  let ort, enhance, network, settings;

  // --- PNG: by the standard (ISO/IEC 15948), to the byte, whatever a browser does to colours --------------------------
  const SAMPLES = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
  const CRC = Int32Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  function crc(bytes) {
    let value = -1;
    for (const byte of bytes) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
    return ~value >>> 0;
  }
  function chunks(bytes) {
    const found = [], view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 8, name = ""; name !== "IEND"; ) {
      if (at + 12 > bytes.length) throw new Error("the file ends too early");
      const length = view.getUint32(at), end = at + 8 + length;
      if (end + 4 > bytes.length) throw new Error("the file ends too early");
      if (crc(bytes.subarray(at + 4, end)) !== view.getUint32(end)) throw new Error("the file is damaged");
      name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
      found.push({ name, data: bytes.subarray(at + 8, end) });
      at = end + 4;
    }
    return found;
  }
  async function unpacked(bytes, format) {
    return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format))).arrayBuffer());
  }
  function unfiltered(data, rows, rowBytes, step) {
    if (data.length !== rows * (rowBytes + 1)) throw new Error("the file is damaged");
    const out = new Uint8Array(rows * rowBytes);
    for (let row = 0; row < rows; row++) {
      const kind = data[row * (rowBytes + 1)], from = row * (rowBytes + 1) + 1, to = row * rowBytes;
      if (kind > 4) throw new Error("the file is damaged");
      for (let i = 0; i < rowBytes; i++) {
        const left = i < step ? 0 : out[to + i - step], up = row ? out[to + i - rowBytes] : 0;
        let guess = 0;
        if (kind === 1) guess = left;
        else if (kind === 2) guess = up;
        else if (kind === 3) guess = (left + up) >> 1;
        else if (kind === 4) {
          const corner = row && i >= step ? out[to + i - rowBytes - step] : 0, all = left + up - corner;
          const [a, b, c] = [Math.abs(all - left), Math.abs(all - up), Math.abs(all - corner)];
          guess = a <= b && a <= c ? left : b <= c ? up : corner;
        }
        out[to + i] = data[from + i] + guess;
      }
    }
    return out;
  }
  function checkSize(width, height) {
    if (width * height > LARGEST_PX) throw new Error("it has more than 64 million pixels, which is no glomerulus");
    if (Math.min(width, height) < LEAST_SIDE_PX) throw new Error(`it has less than ${LEAST_SIDE_PX} pixels a side`);
  }
  async function png(bytes) {
    const all = chunks(bytes), of = name => all.filter(chunk => chunk.name === name).map(chunk => chunk.data);
    const header = of("IHDR")[0], palette = of("PLTE")[0], keys = of("tRNS")[0];
    if (all[0].name !== "IHDR" || header.length !== 13) throw new Error("the file is damaged");
    const view = new DataView(header.buffer, header.byteOffset), width = view.getUint32(0), height = view.getUint32(4);
    const [depth, kind, , , interlaced] = header.subarray(8), samples = SAMPLES[kind];
    if (samples === undefined) throw new Error("the file is damaged");
    checkSize(width, height);
    if (depth !== 8 || interlaced || of("eXIf").length || (keys && kind !== 3))
      throw new Error("this kind of PNG is not read here (16 bits, interlaced, turned, one transparent colour). Save it as plain 8-bit RGB, or use glomedge infer");
    if (kind === 3 && !palette) throw new Error("the file is damaged");
    const packed = await unpacked(new Blob(of("IDAT")), "deflate").catch(() => { throw new Error("the file is damaged"); });
    const raw = unfiltered(packed, height, width * samples, samples);
    const rgb = new Uint8Array(width * height * 3);
    for (let i = 0, to = 0; i < raw.length; i += samples, to += 3) {
      let alpha = 255, at = [raw[i], raw[i], raw[i]];
      if (samples >= 3) at = [raw[i], raw[i + 1], raw[i + 2]];
      if (kind === 3) {
        if (3 * raw[i] >= palette.length) throw new Error("the file is damaged");
        at = palette.subarray(3 * raw[i], 3 * raw[i] + 3);
        alpha = keys && raw[i] < keys.length ? keys[raw[i]] : 255;
      } else if (samples % 2 === 0) alpha = raw[i + samples - 1];
      for (let channel = 0; channel < 3; channel++)  // on white where it is transparent
        rgb[to + channel] = Math.floor((at[channel] * alpha + 255 * (255 - alpha)) / 255 + 0.5);
    }
    return { rgb, width, height };
  }

  // --- JPEG: by the browser, whose pixels may differ by a grey level from those of glomedge ---------------------------
  // The segments (ITU-T T.81, annex B): what glomedge refuses before it decodes. Browsers draw CMYK, and half a picture, too.
  function checkJpeg(bytes) {
    const MOST_SCANS = 500, early = "the file ends too early", damaged = "the file is damaged";
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let at = 2, frame = null;
    for (let code = 0; code !== 0xda; ) {
      if (at < bytes.length && bytes[at] !== 0xff) throw new Error(damaged);
      while (bytes[at] === 0xff) at++;
      if (at + 3 > bytes.length) throw new Error(early);
      code = bytes[at];
      if (code === 0xd9) throw new Error(damaged);
      if (code === 0x01 || (code >= 0xd0 && code <= 0xd8)) { at++; continue; }
      const length = view.getUint16(at + 1);
      if (length < 2) throw new Error(damaged);
      if (at + 1 + length > bytes.length) throw new Error(early);
      if (code >= 0xc0 && code <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(code)) {
        if (length < 8) throw new Error(damaged);
        frame = { bits: bytes[at + 3], components: bytes[at + 8] };
      }
      at += 1 + length;
    }
    if (!frame) throw new Error(damaged);
    if (frame.components !== 1 && frame.components !== 3)
      throw new Error(`it has ${frame.components} colour components (CMYK?). Convert it to RGB and save it as PNG`);
    if (frame.bits !== 8) throw new Error(`it has ${frame.bits} bits a sample. Save it as 8-bit PNG`);
    let scans = 0, ends = false;
    for (let mark = bytes.indexOf(0xff, at); mark >= 0; mark = bytes.indexOf(0xff, mark + 1)) {
      if (bytes[mark + 1] === 0xd9) ends = true;
      if (bytes[mark + 1] === 0xda) scans++;
    }
    if (!ends) throw new Error(early);
    if (scans > MOST_SCANS) throw new Error("it has more scans than any real file. Save it as PNG");
  }
  async function drawn(blob) {
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
    const { width, height } = bitmap;
    checkSize(width, height);
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const rgba = context.getImageData(0, 0, width, height).data, rgb = new Uint8Array(width * height * 3);
    for (let i = 0, to = 0; i < rgba.length; i += 4, to += 3) rgb.set(rgba.subarray(i, i + 3), to);
    return { rgb, width, height };
  }
  // Some browsers change pixels that a page reads back, to hide who is there.
  async function canvasIsTrue() {
    const context = new OffscreenCanvas(64, 64).getContext("2d", { willReadFrequently: true });
    const pixels = context.createImageData(64, 64);
    for (let i = 0; i < pixels.data.length; i++) pixels.data[i] = i % 4 === 3 ? 255 : (i * 37) % 251;
    context.putImageData(pixels, 0, 0);
    return context.getImageData(0, 0, 64, 64).data.every((value, i) => value === pixels.data[i]);
  }
  async function decoded(bytes) {
    if (bytes[0] === 0x89 && bytes[1] === 0x50) return png(bytes);
    if (bytes[0] !== 0xff || bytes[1] !== 0xd8) throw new Error("it is neither PNG nor JPEG. Save it as PNG, or use glomedge infer");
    checkJpeg(bytes);
    if (!(await canvasIsTrue())) throw new Error("this browser changes the pixels of pictures (protection against fingerprinting). Use PNG");
    return drawn(new Blob([bytes])).catch(() => { throw new Error("the file is damaged"); });
  }

  // --- the two models ------------------------------------------------------------------------------------------------
  async function classify({ rgb, width, height }) {
    const { image } = await enhance.run({ crop: new ort.Tensor("uint8", rgb, [height, width, 3]) });
    const batch = new ort.Tensor("uint8", image.data, [1, ...image.dims]);
    const { probability } = await network.run({ images: batch }, ["probability"]);
    return { probability: probability.data[0], pixels: image.data };
  }
  async function selfTest(golden) {
    const { probability, pixels } = await classify(await png(golden.crop));
    const same = pixels.length === golden.pixels.length && pixels.every((value, i) => value === golden.pixels[i]);
    if (!same) throw new Error("the colours of the test crop are not those of glomedge");
    if (!(Math.abs(probability - settings.golden_probability) <= settings.golden_tolerance))
      throw new Error(`the test crop has probability ${probability}, not ${settings.golden_probability}`);
  }
  async function load(message) {
    settings = message.settings;
    const address = URL.createObjectURL(new Blob([message.runtime], { type: "text/javascript" }));
    ort = await import(address);
    URL.revokeObjectURL(address);
    ort.env.wasm.numThreads = 1;  // a page that is opened from disk gets no shared memory; there are several workers
    ort.env.wasm.wasmBinary = message.wasm.buffer;
    enhance = await ort.InferenceSession.create(message.enhance);
    network = await ort.InferenceSession.create(message.model);
    await selfTest(message.golden);
    return { ready: true };
  }
  async function answer(message) {
    try {
      const bytes = new Uint8Array(message.bytes), { probability } = await classify(await decoded(bytes));
      return { probability, note: bytes[0] === 0xff ? JPEG_NOTE : "" };
    } catch (error) {
      return { error: error.message };
    }
  }
  onmessage = async ({ data }) => {
    try {
      postMessage({ id: data.id, ...(data.id === undefined ? await load(data) : await answer(data)) });
    } catch (error) {
      postMessage({ failed: String(error.message || error) });
    }
  };
})();
