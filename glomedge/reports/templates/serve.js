"use strict";
(() => {
  const own = document.currentScript.dataset;
  const suffixes = own.suffixes.split(" "), largestBytes = Number(own.largest), mostCrops = Number(own.most);
  const endings = Object.fromEntries(Object.entries(JSON.parse(own.slides)).map(([kind, text]) => [kind, text.split(" ")]));
  const mostSlidesBytes = Number(own.mostSlides);
  const sized = bytes => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);
  const AT_ONCE = 4, OUTLINES_AT_ONCE = 8, PATIENCE_MS = 120000;
  const by = id => document.getElementById(id);
  let run = null, stopped = false, busy = false, stopper = null;

  by("token-row").hidden = own.token !== "yes";
  const say = text => { by("said").textContent = text; };
  const fail = text => { by("wrong").textContent = text; };
  const pause = (ms, signal) => new Promise(done => {
    setTimeout(done, ms);
    signal?.addEventListener("abort", done, { once: true });
  });

  // --- talking to the server -----------------------------------------------------------------------------------------
  async function ask(method, path, body, signal) {
    const headers = by("token").value ? { Authorization: `Bearer ${by("token").value}` } : {};
    const begin = performance.now();
    for (;;) {
      const reply = await fetch(path, { method, body, headers, signal, cache: "no-store" });
      if (reply.ok) return reply;
      // Full for the moment: the server says when to come again.
      if (reply.status === 503 && performance.now() - begin < PATIENCE_MS && !stopped) {
        await pause(1000 * Math.min(5, Number(reply.headers.get("Retry-After")) || 1), signal);
        continue;
      }
      let words = `The server answered ${reply.status}.`;
      try { words = (await reply.json()).error; } catch { /* no JSON: the number has to do */ }
      throw new Error(words);
    }
  }

  // --- which files ---------------------------------------------------------------------------------------------------
  const named = (path, file) => ({ path, file });
  const parts = path => path.split("/");

  // As in a folder that is given to glomedge infer: paths are relative to it, and it is not part of them.
  function relative(items) {
    const top = items.length && parts(items[0].path)[0];
    const shared = items.length && items.every(item => parts(item.path).length > 1 && parts(item.path)[0] === top);
    return shared ? items.map(item => named(parts(item.path).slice(1).join("/"), item.file)) : items;
  }
  const isCrop = item => {
    const name = parts(item.path).pop().toLowerCase();
    return !name.startsWith(".") && !name.endsWith(".heatmap.jpg") && suffixes.some(end => name.endsWith(end));
  };

  // A slide, what belongs to it, and its outlines; as glomedge infer pairs them, which says what is wrong with a pair.
  const stripped = (path, kinds) => path.slice(0, path.length - (kinds.find(end => path.toLowerCase().endsWith(end)) || "").length);
  function slideFiles(items) {
    if (!endings.sure) return [];
    const ends = (item, kind) => endings[kind].some(end => item.path.toLowerCase().endsWith(end));
    const outlines = new Map();
    for (const item of items) {
      const stem = stripped(stripped(item.path, endings.packed), endings.outlines);
      if (stem !== item.path) outlines.set(stem, [...(outlines.get(stem) || []), item]);
    }
    const found = new Map();
    for (const item of items.filter(each => ends(each, "sure") || ends(each, "shared"))) {
      const stem = item.path.replace(/\.[^./]+$/, ""), folder = item.path.replace(/[^/]*$/, "");
      const its = [...new Set([item.path, stem, stem.replace(/\.ome$/i, "")])].flatMap(name => outlines.get(name) || []);
      if (!its.length && !ends(item, "sure")) continue;
      // One that cannot be answered is only named: a slide has gigabytes.
      const send = (each, data = each.file) => found.set(each.path, named(each.path, its.length === 1 ? data : new Blob([])));
      send(item);
      its.forEach(each => found.set(each.path, each));
      const others = /\.mrxs$/i.test(item.path) ? each => each.path.startsWith(`${stem}/`)
        : /\.dcm$/i.test(item.path) ? each => /\.dcm$/i.test(each.path) && each.path.replace(/[^/]*$/, "") === folder : () => false;
      items.filter(others).forEach(each => found.has(each.path) || send(each));
    }
    return [...found.values()];
  }

  function entries(reader) {
    return new Promise((done, wrong) => reader.readEntries(done, wrong));
  }
  async function walk(entry, into) {
    if (entry.isFile) {
      const file = await new Promise((done, wrong) => entry.file(done, wrong));
      into.push(named(entry.fullPath.replace(/^\//, ""), file));
      return;
    }
    const reader = entry.createReader();
    for (let some = await entries(reader); some.length; some = await entries(reader))
      for (const each of some) await walk(each, into);
  }
  async function dropped(transfer) {
    // Entries are gone once this function has waited for anything.
    const found = [...transfer.items].filter(item => item.kind === "file")
      .map(item => [item.webkitGetAsEntry && item.webkitGetAsEntry(), item.getAsFile()]);
    const items = [];
    for (const [entry, file] of found) {
      if (entry) await walk(entry, items);
      else if (file) items.push(named(file.name, file));
    }
    return items;
  }

  // --- one run -------------------------------------------------------------------------------------------------------
  async function start(all) {
    if (busy) return;
    fail("");
    const chosen = relative(all);
    const slides = slideFiles(chosen), ofSlides = new Set(slides.map(item => item.path));
    const items = chosen.filter(item => !ofSlides.has(item.path) && isCrop(item)).sort((a, b) => (a.path < b.path ? -1 : 1));
    const others = chosen.length - items.length - slides.length;
    if (!items.length && !slides.length) return fail(`There is no image among the ${chosen.length} files. Choose files that end in ${suffixes.join(", ")}.`);
    if (items.length > mostCrops) return fail(`${items.length} images are more than the page takes (${mostCrops}). Use glomedge infer for so many.`);
    const large = items.find(item => item.file.size > largestBytes);
    if (large) return fail(`${large.path} is larger than ${Math.floor(largestBytes / 1e6)} MB. Leave it out.`);
    const bytes = slides.reduce((sum, item) => sum + item.file.size, 0);
    if (bytes > mostSlidesBytes) return fail(`The slides have ${sized(bytes)}, and the server keeps ${sized(mostSlidesBytes)} of all pages. Drop fewer, or use glomedge infer.`);
    busy = true;
    stopped = false;
    stopper = new AbortController();
    by("results").hidden = true;
    by("work").hidden = false;
    by("drop").setAttribute("aria-busy", "true");
    try {
      await clear();
      run = (await (await ask("POST", "v1/runs")).json()).id;
      const outlines = await send(slides);
      // A picture beside a file that holds no outlines is a crop, as for glomedge infer.
      const byPath = new Map(chosen.map(item => [item.path, item]));
      const isSmall = name => byPath.has(name) && isCrop(byPath.get(name)) && byPath.get(name).file.size <= largestBytes;
      if (outlines) {
        items.push(...outlines.no_slides.filter(isSmall).map(name => byPath.get(name)));
        outlines.no_slides = outlines.no_slides.filter(name => !isSmall(name));
      }
      const total = items.length + (outlines?.outlines ?? 0);
      if (!stopped && total > mostCrops) throw new Error(`${items.length} images and ${outlines.outlines} outlines are more than the page takes (${mostCrops}). Use glomedge infer for so many.`);
      if (!stopped) await classify(items, outlines, others);
      if (stopped) {
        say("Stopped. Nothing was kept.");
        await clear();
      }
      if (!stopped) await show();
    } catch (error) {
      stopped = true;
      say("");
      fail(error instanceof TypeError ? "The server cannot be reached. Is it still running?" : error.message);
      await clear();
    } finally {
      busy = false;
      by("work").hidden = true;
      by("drop").removeAttribute("aria-busy");
    }
  }

  // How many outlines there are on the slides, once they are on the server.
  async function send(slides) {
    if (!slides.length) return { outlines: 0, no_slides: [] };
    const { signal } = stopper;
    by("bar").max = slides.reduce((sum, item) => sum + item.file.size, 0) || 1;
    by("bar").value = 0;
    try {
      for (const [number, item] of slides.entries()) {
        say(`File ${number + 1} of ${slides.length} of the slides is sent to the server: ${item.path} (${sized(item.file.size)}).`);
        await ask("PUT", `v1/runs/${run}/slides?name=${encodeURIComponent(item.path)}`, item.file, signal);
        by("bar").value += item.file.size;
      }
      say("The outlines are read.");
      return await (await ask("POST", `v1/runs/${run}/slides/read`, undefined, signal)).json();
    } catch (error) {
      if (!stopped) throw error;
    }
  }

  // Nothing is on its way any more when this returns or fails: the run can then be forgotten.
  async function classify(items, { outlines, no_slides }, others) {
    const { signal } = stopper;
    const total = items.length + outlines, of = outlines ? "glomeruli" : "crops";
    let next = 0, nextOutline = 0, done = 0, errors = 0;
    by("bar").max = total;
    const progress = () => {
      by("bar").value = done;
      const skipped = others ? `; ${others} other files left out` : "";
      const none = no_slides.length ? `; no slides, and left out: ${no_slides.join(", ")}` : "";
      say(`${done} of ${total} ${of} classified${errors ? `, ${errors} without an answer` : ""}${skipped}${none}.`);
    };
    progress();
    async function worker() {
      while (nextOutline < outlines && !stopped) {
        const from = nextOutline;
        nextOutline += OUTLINES_AT_ONCE;
        const some = await (await ask("POST", `v1/runs/${run}/outlines?from=${from}`, undefined, signal)).json();
        done += some.answered;
        errors += some.errors;
        progress();
      }
      while (next < items.length && !stopped) {
        const item = items[next];
        next += 1;
        const path = `v1/runs/${run}/crops?name=${encodeURIComponent(item.path)}`;
        const answer = await (await ask("PUT", path, item.file, signal)).json();
        done += 1;
        if (answer.status.startsWith("error:")) errors += 1;
        progress();
      }
    }
    let wrong = null;
    await Promise.all(Array.from({ length: AT_ONCE }, () => worker().catch(error => {
      if (stopped) return;  // broken off by whoever stopped, or by the first error
      wrong = error;
      stop();
    })));
    if (wrong) throw wrong;
  }

  function stop() {
    stopped = true;
    stopper.abort();
  }

  // The report that can be downloaded is also what is shown: one page for both, made by the server.
  async function show() {
    const { files } = await (await ask("POST", `v1/runs/${run}/finish`)).json();
    for (const button of document.querySelectorAll("button[data-file]")) button.hidden = !files.includes(button.dataset.file);
    const text = await (await ask("GET", `v1/runs/${run}/report.html`)).text();
    const page = new DOMParser().parseFromString(text, "text/html");
    const target = by("report");
    target.replaceChildren();
    for (const part of [page.querySelector("nav"), ...page.querySelector("main").children]) target.append(document.adoptNode(part));
    by("results").hidden = false;
    by("results-title").focus();
  }

  async function clear() {
    by("report").replaceChildren();
    by("results").hidden = true;
    const before = run;
    run = null;
    if (before) {
      try { await ask("DELETE", `v1/runs/${before}`); } catch { /* the server forgets it by itself */ }
    }
  }

  const download = name => saved(name, `v1/runs/${run}/${name}`);
  async function saved(name, path) {
    const data = await (await ask("GET", path)).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(data);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // --- hands ---------------------------------------------------------------------------------------------------------
  for (const [button, input] of [["pick-files", "files"], ["pick-folder", "folder"]]) {
    by(button).addEventListener("click", () => by(input).click());
    by(input).addEventListener("change", () => {
      const items = [...by(input).files].map(file => named(file.webkitRelativePath || file.name, file));
      by(input).value = "";
      start(items);
    });
  }
  by("stop").addEventListener("click", stop);
  by("clear").addEventListener("click", async () => { await clear(); say("Cleared."); by("pick-files").focus(); });
  for (const button of document.querySelectorAll("button[data-file]"))
    button.addEventListener("click", () => download(button.dataset.file).catch(error => fail(error.message)));
  by("label")?.addEventListener("click", () => saved("label.html", "label.html").catch(error => fail(error.message)));
  const over = on => by("drop").classList.toggle("over", on);
  addEventListener("dragover", event => { event.preventDefault(); over(true); });
  addEventListener("dragleave", event => { if (!event.relatedTarget) over(false); });
  addEventListener("drop", async event => {
    event.preventDefault();
    over(false);
    start(await dropped(event.dataTransfer));
  });
  addEventListener("pagehide", () => {
    if (run && !by("token").value) navigator.sendBeacon(`v1/runs/${run}/forget`);
  });
})();
