"use strict";
(() => {
  const by = id => document.getElementById(id);
  const settings = JSON.parse(by("settings").textContent);
  const MOST_WORKERS = 4, MOST_CROPS = 5000, Z = 1.959963984540054;
  const NOTICE = document.querySelector("header .notice").textContent;
  const say = text => { by("said").textContent = text; };
  const fail = text => { by("wrong").textContent = text; };
  let workers = [], busy = false, stopped = false, rows = [];

  // --- what is in the page -------------------------------------------------------------------------------------------
  async function block(name) {
    const element = by(name), text = element.textContent.trim();
    element.remove();  // its memory is needed
    const packed = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), c => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  const asText = bytes => new TextDecoder().decode(bytes);

  function ask(worker, message, transfer = []) {
    return new Promise((done, wrong) => {
      worker.onmessage = ({ data }) => (data.failed === undefined ? done(data) : wrong(new Error(data.failed)));
      worker.onerror = event => wrong(new Error(event.message || "the worker ended"));
      worker.postMessage(message, transfer);
    });
  }
  async function begin() {
    say("The network is loaded and tested ...");
    const names = ["worker", "runtime", "wasm", "enhance", "model", "golden-crop", "golden-pixels"];
    const parts = {};
    for (const name of names) parts[name] = await block(name);
    const address = URL.createObjectURL(new Blob([parts.worker], { type: "text/javascript" }));
    const count = Math.max(1, Math.min(MOST_WORKERS, (navigator.hardwareConcurrency || 2) - 1));
    const message = {
      settings, runtime: asText(parts.runtime), wasm: parts.wasm, enhance: parts.enhance, model: parts.model,
      golden: { crop: parts["golden-crop"], pixels: parts["golden-pixels"] },
    };
    const made = Array.from({ length: count }, () => new Worker(address));
    try {
      await Promise.all(made.map(worker => ask(worker, message)));
    } catch (error) {
      made.forEach(worker => worker.terminate());
      say("");
      return fail(`This browser does not give the answers of glomedge, so nothing is classified: ${error.message}.`);
    }
    workers = made;
    for (const id of ["pick-files", "pick-folder"]) by(id).disabled = false;
    say("Ready. The self-test gave the pixels and the probability of glomedge.");
  }

  // --- files ---------------------------------------------------------------------------------------------------------
  const isCrop = item => /\.(png|jpe?g)$/i.test(item.path) && !item.path.split("/").pop().startsWith(".") && !/\.heatmap\.jpg$/i.test(item.path);
  async function walk(entry, into) {
    if (entry.isFile) {
      into.push({ path: entry.fullPath.replace(/^\//, ""), file: await new Promise((done, wrong) => entry.file(done, wrong)) });
      return;
    }
    const reader = entry.createReader(), next = () => new Promise((done, wrong) => reader.readEntries(done, wrong));
    for (let some = await next(); some.length; some = await next()) for (const each of some) await walk(each, into);
  }
  async function dropped(transfer) {
    // Entries are gone once this function has waited for anything.
    const found = [...transfer.items].filter(item => item.kind === "file").map(item => [item.webkitGetAsEntry?.(), item.getAsFile()]);
    const items = [];
    for (const [entry, file] of found) {
      if (entry) await walk(entry, items);
      else if (file) items.push({ path: file.name, file });
    }
    return items;
  }

  // --- one run -------------------------------------------------------------------------------------------------------
  async function start(all) {
    if (busy || !workers.length) return;
    fail("");
    const items = all.filter(isCrop).sort((a, b) => (a.path < b.path ? -1 : 1));
    if (!items.length) return fail(`There is no PNG or JPEG among the ${all.length} files. Choose crops of glomeruli, one each.`);
    if (items.length > MOST_CROPS) return fail(`${items.length} crops are more than the page takes (${MOST_CROPS}). Use glomedge infer.`);
    busy = true;
    stopped = false;
    rows = [];
    by("results").hidden = true;
    by("work").hidden = false;
    by("bar").max = items.length;
    const began = performance.now();
    let next = 0;
    async function work(worker) {
      while (next < items.length && !stopped) {
        const number = next++, { path, file } = items[number];
        const bytes = await file.arrayBuffer().catch(() => null);
        const found = bytes === null ? { error: "the file cannot be read" } : await ask(worker, { id: number, bytes }, [bytes]);
        rows.push({ path, file, probability: found.probability ?? null, message: found.error ?? found.note ?? "" });
        by("bar").value = rows.length;
        say(`${rows.length} of ${items.length} crops classified.`);
      }
    }
    try {
      await Promise.all(workers.map(work));
      const seconds = (performance.now() - began) / 1000;
      rows.sort((a, b) => (a.path < b.path ? -1 : 1));
      const others = all.length - items.length;
      say(`${rows.length} of ${items.length} crops in ${seconds.toFixed(1)} s (${(rows.length / seconds).toFixed(1)} a second)${others ? `; ${others} other files left out` : ""}.`);
      if (rows.length) show();
    } catch (error) {
      fail(`The network ended: ${error.message}. Load the page again.`);
      workers = [];
    } finally {
      busy = false;
      by("work").hidden = true;
    }
  }

  const isGs = row => row.probability >= settings.threshold;
  // Wilson EB, J Am Stat Assoc 1927;22:209.
  function interval(positive, total) {
    const centre = positive + (Z * Z) / 2, half = Z * Math.sqrt((positive * (total - positive)) / total + (Z * Z) / 4);
    return [Math.max(0, (centre - half) / (total + Z * Z)), Math.min(1, (centre + half) / (total + Z * Z))];
  }
  function cell(text, className = "") {
    const made = document.createElement("td");
    made.textContent = text;
    made.className = className;
    return made;
  }
  function show() {
    const answered = rows.filter(row => row.probability !== null), positive = answered.filter(isGs).length;
    const percent = share => (100 * share).toFixed(1);
    by("summary").textContent = answered.length
      ? `${positive} of ${answered.length} globally sclerotic: ${percent(positive / answered.length)}% (95% interval ${interval(positive, answered.length).map(percent).join(" to ")})` +
        (answered.length < rows.length ? `; ${rows.length - answered.length} without an answer.` : ".")
      : "No crop has an answer.";
    by("rows").replaceChildren(...rows.map(row => {
      const line = document.createElement("tr"), picture = document.createElement("td"), image = document.createElement("img");
      image.src = URL.createObjectURL(row.file);
      image.alt = "";
      image.loading = "lazy";
      image.width = 64;
      picture.append(image);
      const said = row.probability === null ? [cell("no answer", "flag"), cell("", "n"), cell(row.message)]
        : [cell(settings.class_names[Number(isGs(row))]), cell(row.probability.toFixed(3), "n"), cell(row.message)];
      line.append(picture, cell(row.path), ...said);
      return line;
    }));
    by("results").hidden = false;
    by("results-title").focus();
  }
  function clear() {
    for (const image of by("rows").querySelectorAll("img")) URL.revokeObjectURL(image.src);
    by("rows").replaceChildren();
    rows = [];
    by("results").hidden = true;
    say("Cleared.");
    by("pick-files").focus();
  }

  // Shortest decimal of a float32, as glomedge writes it.
  function shortest(value) {
    for (let digits = 1; digits < 9; digits++) if (Math.fround(Number(value.toPrecision(digits))) === value) return String(Number(value.toPrecision(digits)));
    return String(Number(value.toPrecision(9)));
  }
  function csv() {
    const text = value => `"${String(value).replace(/^(?=[=+\-@\t\r\n'])/, "'").replaceAll('"', '""')}"`;
    const lines = rows.map(row => {
      const label = row.probability === null ? "" : Number(isGs(row));
      const status = row.probability === null ? "error:browser" : "ok";
      return [text(row.path), row.probability === null ? "" : shortest(row.probability), label, label === "" ? "" : text(settings.class_names[label]), settings.threshold, status, settings.model_sha256, text(row.message), text(NOTICE)].join(",");
    });
    return ["path,probability,label,class_name,threshold,status,model_sha256,message,notice", ...lines, ""].join("\n");
  }
  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "predictions.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // --- hands ---------------------------------------------------------------------------------------------------------
  for (const [button, input] of [["pick-files", "files"], ["pick-folder", "folder"]]) {
    by(button).addEventListener("click", () => by(input).click());
    by(input).addEventListener("change", () => {
      const items = [...by(input).files].map(file => ({ path: file.webkitRelativePath || file.name, file }));
      by(input).value = "";
      start(items);
    });
  }
  by("stop").addEventListener("click", () => { stopped = true; });
  by("clear").addEventListener("click", clear);
  by("download").addEventListener("click", download);
  const over = on => by("drop").classList.toggle("over", on);
  addEventListener("dragover", event => { event.preventDefault(); over(true); });
  addEventListener("dragleave", event => { if (!event.relatedTarget) over(false); });
  addEventListener("drop", async event => {
    event.preventDefault();
    over(false);
    start(await dropped(event.dataTransfer));
  });
  begin().catch(error => { say(""); fail(`The page cannot work in this browser: ${error.message}.`); });
})();
