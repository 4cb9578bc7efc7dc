// The trace browser: unpacks embedded chunks, filters by an index, searches texts, shows a page of units.
// Texts reach the page through textContent alone; the page's content policy forbids any other way.
"use strict";
(() => {
  const PAGE = 20;
  const CACHED_CHUNKS = 24;
  const NOISE = 1, RATIONALE = 2;
  const FACETS = [
    ["outcome", "Outcome"], ["label", "Label"], ["dimension", "Dimension"], ["split", "Split"],
    ["proposal", "Proposal"], ["hint", "Label was"], ["run", "Run"], ["source", "Target of"], ["accepted_by", "Accepted by"],
  ];
  const FIELDS = 1, PEOPLE = 2, SD = 3, GROUP = 4, TRACE = 5, RATING = 6, ACCEPTED = 7, DRAWS = 8, REASONS = 9, ERROR = 10;

  const find = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const count = (number) => number.toLocaleString("en");
  const status = find("status"), list = find("units"), form = find("filters"), query = find("query");

  async function unpack(id) {
    const text = find(id).textContent;
    let bytes;
    if (Uint8Array.fromBase64) {
      bytes = Uint8Array.fromBase64(text);
    } else {
      const binary = atob(text);
      bytes = new Uint8Array(binary.length);
      for (let n = 0; n < binary.length; n++) bytes[n] = binary.charCodeAt(n);
    }
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  let index, matches, page = 0, turn = 0, asked = 0;
  const filters = new Map();
  const cache = new Map();

  async function readChunk(number) {
    let chunk = cache.get(number);
    cache.delete(number);
    if (chunk === undefined) chunk = unpack(`chunk-${number}`).then(JSON.parse);
    cache.set(number, chunk);
    if (cache.size > CACHED_CHUNKS) cache.delete(cache.keys().next().value);
    return chunk;
  }

  async function readRecord(number) {
    return (await readChunk(Math.floor(number / index.chunk)))[number % index.chunk];
  }

  // --- what matches ---

  function filterByIndex() {
    const wanted = [];
    for (const [name, value] of filters) {
      if (name === "noise" || name === "reasons") continue;
      wanted.push([index.facets[name].codes, value]);
    }
    const flags = (filters.has("noise") ? NOISE : 0) | (filters.has("reasons") ? RATIONALE : 0);
    const found = [];
    for (let n = 0; n < index.count; n++) {
      if ((index.flags[n] & flags) !== flags) continue;
      if (wanted.every(([codes, value]) => codes[n] === value)) found.push(n);
    }
    return found;
  }

  function holds(record, wanted) {
    const stack = [record];
    while (stack.length) {
      const value = stack.pop();
      if (typeof value === "string") {
        if (value.toLowerCase().includes(wanted)) return true;
      } else if (Array.isArray(value)) {
        for (const inner of value) stack.push(inner);
      }
    }
    return false;
  }

  async function update() {
    const own = ++turn;
    page = 0;
    const candidates = filterByIndex();
    const wanted = query.value.trim().toLowerCase();
    if (!wanted) {
      matches = candidates;
      return show();
    }
    matches = [];
    const searchable = JSON.stringify(wanted).slice(1, -1);
    let at = 0, shown = -1, told = performance.now();
    while (at < candidates.length) {
      const number = Math.floor(candidates[at] / index.chunk);
      let end = at;
      while (end < candidates.length && Math.floor(candidates[end] / index.chunk) === number) end++;
      const text = await unpack(`chunk-${number}`);
      if (own !== turn) return;
      if (text.toLowerCase().includes(searchable) || /[^\x20-\x7e]/.test(wanted)) {
        const records = JSON.parse(text);
        for (; at < end; at++) {
          if (holds(records[candidates[at] % index.chunk], wanted)) matches.push(candidates[at]);
        }
      }
      at = end;
      if (performance.now() - told > 200) {
        told = performance.now();
        if (shown < 0 && matches.length >= PAGE) {
          shown = 0;
          await show();
          if (own !== turn) return;
        }
        tell(` · searched ${Math.floor((100 * at) / candidates.length)}%`);
      }
    }
    if (own === turn) await show(page);
  }

  // --- what is shown ---

  function tell(more = "") {
    const first = page * PAGE, last = Math.min(first + PAGE, matches.length);
    const total = matches.length === index.count ? "" : ` (${count(index.count)} in all)`;
    const [many, one] = index.facets.run.names.length > 1 ? ["Rows", "row"] : ["Units", "unit"];
    status.textContent = matches.length
      ? `${many} ${count(first + 1)}–${count(last)} of ${count(matches.length)}${total}${more}`
      : `No ${one} matches${total}${more}`;
  }

  async function show(wanted = 0) {
    const own = turn, mine = ++asked;
    const pages = Math.max(1, Math.ceil(matches.length / PAGE));
    page = Math.min(Math.max(0, wanted), pages - 1);
    const shown = matches.slice(page * PAGE, (page + 1) * PAGE);
    const records = await Promise.all(shown.map(readRecord));
    // Another page may have been asked for, and be there already, while this one was unpacked.
    if (own !== turn || mine !== asked) return;
    list.replaceChildren(...records.map((record, n) => makeUnit(record, shown[n])));
    list.start = page * PAGE + 1;
    for (const pager of document.querySelectorAll(".pager")) updatePager(pager, pages);
    tell();
  }

  function facet(name, number) {
    const { names, codes } = index.facets[name];
    return names[codes[number]];
  }

  function makeText(pair, className = "") {
    const [text, cut] = pair;
    const part = make("div");
    const body = make("p", `text ${className}`.trim(), text);
    body.dir = "auto";
    part.append(body);
    if (text.length > 700 || text.split("\n").length > 9) {
      body.classList.add("closed");
      const button = make("button", "more", "Show all");
      button.type = "button";
      button.setAttribute("aria-expanded", "false");
      button.addEventListener("click", () => {
        const closed = body.classList.toggle("closed");
        button.textContent = closed ? "Show all" : "Show less";
        button.setAttribute("aria-expanded", String(!closed));
      });
      part.append(button);
    }
    if (cut) part.append(make("p", "note", `${count(cut)} more characters are not in this page.`));
    return part;
  }

  function makeAbout(record, number) {
    const about = make("div", "about");
    const name = make("h3", "", record[0]);
    name.dir = "auto";
    about.append(name);
    const say = (what, className) => about.append(make("span", className, what));
    const outcome = facet("outcome", number);
    if (facet("dimension", number)) say(facet("dimension", number));
    const label = make("span", "", "label ");
    label.append(make("b", "", facet("label", number)));
    about.append(label);
    say(outcome, `outcome-${["accepted", "exhausted", "failed", "quarantined"].includes(outcome) ? outcome : "other"}`);
    if (index.flags[number] & NOISE) say("suspected label noise", "noise");
    if (facet("split", number)) say(facet("split", number));
    if (index.facets.source.names.length > 1) say(`label of ${facet("source", number)}`);
    if (facet("proposal", number)) say(`proposal ${facet("proposal", number)}`);
    if (facet("hint", number) === "told") say("told the label", "noise");
    if (record[GROUP]) say(`group ${record[GROUP]}`);
    if (index.facets.run.names.length > 1) say(facet("run", number));
    return about;
  }

  function makeItem(record) {
    const item = make("div");
    for (const [name, ...text] of record[FIELDS]) {
      if (record[FIELDS].length > 1) item.append(make("h4", "", name));
      item.append(makeText(text));
    }
    if (record[PEOPLE].length) {
      const spread = record[SD] === null ? "" : ` · SD ${record[SD].toFixed(2)}`;
      item.append(make("p", "note", `people: ${record[PEOPLE].join("  ")}${spread}`));
    }
    return item;
  }

  function makeDraws(record) {
    const draws = make("ol", "draws");
    record[DRAWS].forEach(([reason, rating], n) => {
      const hit = reason === "accepted";
      const box = make("li", hit ? "hit" : rating === null ? "none" : "", rating === null ? "–" : rating);
      box.title = `draw ${n}: ${rating === null ? "no rating" : rating}, ${reason}`;
      box.append(make("span", "unseen", `, ${reason}`));
      draws.append(box);
    });
    draws.setAttribute("aria-label", `${record[DRAWS].length} draws and their ratings`);
    return draws;
  }

  function makeReasoning(record, number) {
    const side = make("div");
    if (record[TRACE]) {
      const rating = record[RATING] === null ? "" : `, rating ${record[RATING]}`;
      side.append(make("h4", "", `Inferred trace: draw ${record[ACCEPTED]}${rating}`));
      side.append(makeText(record[TRACE][0] ? record[TRACE] : ["(empty)", 0], "trace"));
    }
    if (record[ERROR]) side.append(make("h4", "", "Error"), makeText([record[ERROR], 0]));
    for (const [who, label, ...text] of record[REASONS]) {
      side.append(make("h4", "", ["Human rationale", who, label && `label ${label}`].filter(Boolean).join(" · ")));
      side.append(makeText(text, "human"));
    }
    if (record[DRAWS].length) side.append(make("h4", "", "Draws"), makeDraws(record));
    const kept = record[DRAWS].map((draw, n) => [n, ...draw]).filter((draw) => draw[3] !== null);
    if (kept.length) {
      const more = make("details");
      more.append(make("summary", "", `Texts of ${kept.length} other draw${kept.length > 1 ? "s" : ""}`));
      for (const [n, reason, rating, text, proposal] of kept) {
        const what = [`draw ${n}`, rating === null ? "no rating" : `rating ${rating}`, reason, proposal].filter(Boolean);
        more.append(make("h4", "", what.join(" · ")), makeText(text));
      }
      side.append(more);
    }
    return side;
  }

  function makeUnit(record, number) {
    const unit = make("li", "unit");
    unit.append(makeAbout(record, number), makeItem(record), makeReasoning(record, number));
    return unit;
  }

  // --- controls ---

  function makePager(pager) {
    const steps = [["first", "« First"], ["back", "‹ Previous"], ["next", "Next ›"], ["last", "Last »"]];
    const buttons = steps.map(([step, text]) => {
      const button = make("button", step, text);
      button.type = "button";
      button.addEventListener("click", async () => {
        const pages = Math.ceil(matches.length / PAGE);
        const to = { first: 0, back: page - 1, next: page + 1, last: pages - 1 }[step];
        await show(to);
        if (pager.id === "pager-bottom") find("status").scrollIntoView();
        if (button.disabled) list.focus({ preventScroll: true });
      });
      return button;
    });
    const label = make("label", "", "Page ");
    const input = make("input");
    input.type = "number";
    input.min = 1;
    input.addEventListener("change", () => show((parseInt(input.value, 10) || 1) - 1));
    label.append(input, make("span", "pages"));
    pager.append(buttons[0], buttons[1], label, buttons[2], buttons[3]);
    pager.setAttribute("role", "group");
    pager.setAttribute("aria-label", pager.id === "pager-top" ? "Pages" : "Pages, below the units");
  }

  function updatePager(pager, pages) {
    pager.hidden = pages < 2;
    const input = pager.querySelector("input");
    input.value = page + 1;
    input.max = pages;
    pager.querySelector(".pages").textContent = ` of ${count(pages)}`;
    for (const step of ["first", "back"]) pager.querySelector(`.${step}`).disabled = page === 0;
    for (const step of ["next", "last"]) pager.querySelector(`.${step}`).disabled = page >= pages - 1;
  }

  function makeSelect(name, title) {
    const { names, codes } = index.facets[name];
    if (names.length < 2) return;
    const counts = new Array(names.length).fill(0);
    for (const code of codes) counts[code]++;
    const label = make("label", "", title);
    const select = make("select");
    select.id = `filter-${name}`;
    const every = make("option", "", "all");
    every.value = "";
    select.append(every);
    const order = names.map((_, code) => code).sort((a, b) => names[a].localeCompare(names[b], "en", { numeric: true }));
    for (const code of name === "label" ? order.sort((a, b) => compareLabels(names[a], names[b])) : order) {
      const option = make("option", "", `${names[code] || "(none)"} (${count(counts[code])})`);
      option.value = String(code);
      select.append(option);
    }
    select.addEventListener("change", () => setFilter(name, select.value === "" ? null : Number(select.value)));
    label.append(select);
    find("facets").append(label);
  }

  function compareLabels(a, b) {
    const difference = Number(a) - Number(b);
    return Number.isNaN(difference) ? a.localeCompare(b) : difference;
  }

  function makeTick(name, title, flag) {
    const number = index.flags.reduce((sum, flags) => sum + ((flags & flag) > 0), 0);
    if (!number) return;
    const label = make("label", "tick");
    const box = make("input");
    box.type = "checkbox";
    box.id = `filter-${name}`;
    box.addEventListener("change", () => setFilter(name, box.checked ? 1 : null));
    label.append(box, make("span", "", `${title} (${count(number)})`));
    find("facets").append(label);
  }

  function setFilter(name, value) {
    if (value === null) filters.delete(name);
    else filters.set(name, value);
    update();
  }

  let waiting;
  query.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 250);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    update();
  });
  form.addEventListener("reset", () => {
    filters.clear();
    setTimeout(update);
  });
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      query.focus();
    }
  });

  async function start() {
    status.textContent = "Unpacking traces …";
    index = JSON.parse(await unpack("index"));
    for (const [name, title] of FACETS) makeSelect(name, title);
    makeTick("noise", "Suspected label noise", NOISE);
    makeTick("reasons", "With human rationale", RATIONALE);
    document.querySelectorAll(".pager").forEach(makePager);
    form.hidden = false;
    await update();
    document.documentElement.dataset.ready = "yes";
  }

  if (typeof DecompressionStream === "undefined") {
    status.textContent = "The trace browser needs a browser of 2023 or later (DecompressionStream).";
  } else {
    start().catch((error) => { status.textContent = `The traces can't be unpacked: ${error.message}`; });
  }
})();
