"use strict";
(() => {
  const own = document.currentScript.dataset;
  const suffixes = own.suffixes.split(" "), largestBytes = Number(own.largest), mostCrops = Number(own.most);
  const AT_ONCE = 4, PATIENCE_MS = 120000;
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
    const items = chosen.filter(isCrop).sort((a, b) => (a.path < b.path ? -1 : 1));
    const others = chosen.length - items.length;
    if (!items.length) return fail(`There is no image among the ${chosen.length} files. Choose files that end in ${suffixes.join(", ")}.`);
    if (items.length > mostCrops) return fail(`${items.length} images are more than the page takes (${mostCrops}). Use glomedge infer for so many.`);
    const large = items.find(item => item.file.size > largestBytes);
    if (large) return fail(`${large.path} is larger than ${Math.floor(largestBytes / 1e6)} MB. Leave it out.`);
    busy = true;
    stopped = false;
    stopper = new AbortController();
    by("results").hidden = true;
    by("work").hidden = false;
    by("drop").setAttribute("aria-busy", "true");
    try {
      await clear();
      run = (await (await ask("POST", "v1/runs")).json()).id;
      await classify(items, others);
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

  // No crop is on its way any more when this returns or fails: the run can then be forgotten.
  async function classify(items, others) {
    const { signal } = stopper;
    let next = 0, done = 0, errors = 0;
    by("bar").max = items.length;
    const progress = () => {
      by("bar").value = done;
      const skipped = others ? `; ${others} other files left out` : "";
      say(`${done} of ${items.length} crops classified${errors ? `, ${errors} without an answer` : ""}${skipped}.`);
    };
    progress();
    async function worker() {
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
    if (stopped) {
      say("Stopped. Nothing was kept.");
      await clear();
    }
  }

  function stop() {
    stopped = true;
    stopper.abort();
  }

  // The report that can be downloaded is also what is shown: one page for both, made by the server.
  async function show() {
    await ask("POST", `v1/runs/${run}/finish`);
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

  async function download(name) {
    const data = await (await ask("GET", `v1/runs/${run}/${name}`)).blob();
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
