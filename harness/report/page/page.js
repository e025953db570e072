"use strict";
(() => {
  const SHOWN = 200; // lines of a list at a time
  const LONG = 1200; // characters shown before "show all"
  const get = (id) => document.getElementById(id);

  // --- data

  async function unpack(element) {
    const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }
  const unpacked = new Map();
  function data(id) {
    if (!unpacked.has(id)) unpacked.set(id, unpack(get(id)));
    return unpacked.get(id);
  }

  // --- elements: every text of others goes through textContent

  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "class") element.className = value;
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }
  function said(text) {
    const whole = text || "(nothing)";
    const block = make("p", { class: "said", dir: "auto" }, whole.slice(0, LONG));
    if (whole.length <= LONG) return block;
    const more = make("button", { type: "button", onclick: () => { block.textContent = whole; more.remove(); } },
      `show all ${whole.length} characters`);
    return make("div", {}, block, more);
  }
  function options(select, entries, chosen) {
    select.replaceChildren(...entries.map(([value, text]) => make("option", { value, selected: value === chosen }, text)));
  }
  const oneLine = (text) => text.replace(/\s+/g, " ").trim().slice(0, 160) || "(no text)";

  // A list of many lines: as many as fit, and a button for more.
  function fill(list, places, line, current, choose) {
    const show = (count) => {
      const lines = places.slice(0, count).map((place) =>
        make("li", {}, make("button", {
          type: "button", "data-place": place, onclick: () => choose(place),
        }, ...line(place))));
      if (places.length > count) {
        lines.push(make("li", {}, make("button", { type: "button", class: "more", onclick: () => show(count + SHOWN) },
          `${places.length - count} more`)));
      }
      const marked = list.querySelector('[aria-current="true"]');
      list.replaceChildren(...lines);
      if (marked) mark(list, Number(marked.dataset.place));
    };
    const at = places.indexOf(current);
    list.replaceChildren();
    show(Math.max(SHOWN, Math.ceil((at + 1) / SHOWN) * SHOWN));
  }
  // Scrolls the list alone: the page stays where the reader has it.
  function reveal(list, button) {
    if (!button) return;
    const [top, bottom] = [button.offsetTop - list.offsetTop, button.offsetTop - list.offsetTop + button.offsetHeight];
    if (top < list.scrollTop) list.scrollTop = top;
    else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
  }
  function mark(list, place) {
    for (const button of list.querySelectorAll("button[data-place]")) {
      const chosen = Number(button.dataset.place) === place;
      if (chosen) { button.setAttribute("aria-current", "true"); reveal(list, button); }
      else button.removeAttribute("aria-current");
    }
  }

  // --- what is looked at stands in the address, so that a link shows it to others

  const address = () => new URLSearchParams(location.hash.slice(1));
  function remember(state) {
    const hash = new URLSearchParams(Object.entries(state).filter(([, value]) => value !== "")).toString();
    history.replaceState(null, "", `#${hash}`);
  }

  // --- items

  const items = { suite: null, places: [], current: -1, ready: false };
  function outcome(candidate, place) {
    const value = candidate.value[place];
    if (value === null) return "none";
    return candidate.cause[place] ? "wrong" : "right";
  }
  function better(place, a, b) {
    const [x, y] = [a.value[place], b.value[place]];
    if (x === null || y === null || x === y) return 0;
    return (items.suite.lower ? x < y : x > y) ? 1 : -1;
  }
  const TESTS = {
    all: () => true,
    gained: (place, a, b) => better(place, b, a) > 0,
    lost: (place, a, b) => better(place, b, a) < 0,
    differ: (place, a, b) => a.output[place] !== b.output[place],
    "a-wrong": (place, a) => outcome(a, place) === "wrong" || outcome(a, place) === "none",
    "b-wrong": (place, a, b) => outcome(b, place) === "wrong" || outcome(b, place) === "none",
    "both-wrong": (place, a, b) => outcome(a, place) !== "right" && outcome(b, place) !== "right",
  };
  const chosen = () => [get("items-a"), get("items-b")].map((select) => items.suite.candidates[Number(select.value)]);

  async function openSuite(id, wanted) {
    items.suite = await data(id);
    const { candidates, items: all } = items.suite;
    const named = (name, fallback) => {
      const at = candidates.findIndex((candidate) => candidate.name === name);
      return String(at < 0 ? fallback : at);
    };
    const entries = candidates.map((candidate, at) => [String(at), candidate.title]);
    options(get("items-a"), entries, named(wanted.get("a"), items.suite.compared[0]));
    options(get("items-b"), entries, named(wanted.get("b"), items.suite.compared[1]));
    const tags = [...new Set(all.tags.flat())].sort();
    options(get("items-tag"), [["", "any"], ...tags.map((tag) => [tag, tag])], wanted.get("tag") || "");
    const gold = [...new Set(all.gold)].sort();
    get("items-gold-label").hidden = gold.length > 60 || gold.length < 2;
    options(get("items-gold"), [["", "any"], ...gold.map((label) => [label, oneLine(label)])], wanted.get("gold") || "");
    causes(wanted.get("cause") || "");
    get("items-show").value = Object.hasOwn(TESTS, wanted.get("show")) ? wanted.get("show") : "all";
    get("items-split").value = wanted.get("split") || "";
    get("items-search").value = wanted.get("search") || "";
    items.current = all.id.indexOf(wanted.get("item"));
    flips();
    filterItems();
    items.ready = true;
  }
  // Why B is wrong: each kind of cause, then the kinds with what was taken for what.
  function causes(wanted) {
    const [, b] = chosen();
    const counts = new Map();
    for (const cause of b.cause.filter(Boolean)) {
      for (const name of new Set([cause.split(":")[0], cause])) counts.set(name, (counts.get(name) || 0) + 1);
    }
    const listed = [...counts].filter(([name, count]) => !name.includes(":") || count > 1)
      .sort(([x, m], [y, n]) => Number(x.includes(":")) - Number(y.includes(":")) || n - m).slice(0, 60);
    options(get("items-cause"), [["", "any"], ...listed.map(([name, count]) => [name, `${oneLine(name)} (${count})`])],
      counts.has(wanted) ? wanted : "");
  }
  function filterItems() {
    const [a, b] = chosen();
    const all = items.suite.items;
    const test = TESTS[get("items-show").value];
    const [tag, gold, split, cause] = ["tag", "gold", "split", "cause"].map((name) => get(`items-${name}`).value);
    const search = get("items-search").value.toLowerCase();
    items.places = [...all.id.keys()].filter((place) =>
      test(place, a, b) && (!tag || all.tags[place].includes(tag)) && (!gold || all.gold[place] === gold) &&
      (!split || all.split[place] === split) &&
      (!cause || b.cause[place] === cause || b.cause[place].startsWith(`${cause}:`)) &&
      (!search || [all.text[place], all.gold[place], a.output[place], b.output[place], all.id[place]]
        .some((text) => text.toLowerCase().includes(search))));
    if (!items.places.includes(items.current)) items.current = items.places.length ? items.places[0] : -1;
    get("items-count").textContent = `${items.places.length} of ${all.id.length} items`;
    fill(get("items-list"), items.places, (place) => [sign(b, place), make("span", { class: "line", dir: "auto" },
      oneLine(all.text[place] || all.id[place]))], items.current, showItem);
    showItem(items.current);
  }
  function sign(candidate, place) {
    const what = outcome(candidate, place);
    if (what === "none") return make("span", { class: "soft" }, "no value");
    const shown = items.suite.rate ? what : candidate.value[place].toFixed(3);
    return make("span", { class: what === "right" ? "good" : "bad" }, shown);
  }
  function showItem(place) {
    items.current = place;
    mark(get("items-list"), place);
    const detail = get("items-detail");
    rememberItems();
    if (place < 0) { detail.replaceChildren(make("p", {}, "No item fits these filters.")); return; }
    const { items: all, candidates } = items.suite;
    const compared = chosen();
    const cards = candidates.map((candidate) => make("div", { class: compared.includes(candidate) ? "card compared" : "card" },
      make("h4", {}, candidate.title), sign(candidate, place),
      candidate.cause[place] ? make("span", { class: "soft", dir: "auto" }, ` ${candidate.cause[place]}`) : null,
      said(candidate.output[place])));
    detail.replaceChildren(
      make("h3", {}, `Item ${all.id[place]}`),
      make("p", { class: "soft" }, [all.split[place], ...all.tags[place]].join(", ")),
      said(all.text[place] || "(the text of this benchmark is not stored here)"),
      make("p", {}, "Right answer: ", make("span", { class: "good", dir: "auto" }, all.gold[place] || "(none is right by itself)")),
      make("div", { class: "cards" }, ...cards));
  }
  function rememberItems() {
    if (!items.ready) return;
    const [a, b] = chosen();
    const values = Object.fromEntries(["show", "cause", "tag", "gold", "split", "search"].map((name) => [name, get(`items-${name}`).value]));
    if (values.show === "all") values.show = "";
    remember({ view: "items", suite: items.suite.suite, a: a.name, b: b.name, ...values,
      item: items.current < 0 ? "" : items.suite.items.id[items.current] });
  }
  // What each candidate changed against A, one button a direction.
  function flips() {
    const { candidates, items: all } = items.suite;
    const [a] = chosen();
    const rows = candidates.filter((candidate) => candidate !== a).map((candidate) => {
      const count = (test) => [...all.id.keys()].filter((place) => TESTS[test](place, a, candidate)).length;
      const button = (test) => make("button", { type: "button", onclick: () => {
        get("items-b").value = String(candidates.indexOf(candidate));
        causes("");
        get("items-show").value = test;
        filterItems();
        get("items-list").scrollIntoView({ block: "nearest" });
      } }, String(count(test)));
      return make("tr", {}, make("th", { scope: "row" }, candidate.title), make("td", {}, button("gained")),
        make("td", {}, button("lost")));
    });
    const head = make("tr", {}, ...["candidate B", "better than A on", "worse than A on"].map((text) =>
      make("th", { scope: "col" }, text)));
    get("items-flips").replaceChildren(make("caption", {}, `Against A, ${a.title}: of all ${all.id.length} items, dev and test, those on which B does better or worse`),
      make("thead", {}, head), make("tbody", {}, ...rows));
  }

  // --- rows

  const rows = { all: [], places: [], current: -1, ready: false };
  async function openRows(wanted) {
    if (!rows.all.length) {
      const blocks = document.querySelectorAll('script[id^="rows-"]');
      for (const [number, element] of [...blocks].entries()) {
        get("rows-count").textContent = `unpacking ${number + 1} of ${blocks.length}`;
        const { columns, lines } = await unpack(element);
        const names = Object.keys(columns);
        for (let i = 0; i < columns.id.length; i += 1) {
          rows.all.push({ ...Object.fromEntries(names.map((name) => [name, columns[name][i]])), lines });
        }
      }
    }
    const count = (name) => {
      const counts = new Map();
      for (const row of rows.all) counts.set(row[name], (counts.get(row[name]) || 0) + 1);
      return [...counts].map(([value, number]) => [value, `${oneLine(value)} (${number})`]);
    };
    options(get("rows-state"), [["", "any"], ...count("state")], wanted.get("state") || "");
    const labels = count("label");
    get("rows-label-label").hidden = labels.length > 60 || labels.length < 2;
    options(get("rows-label"), [["", "any"], ...labels], wanted.get("label") || "");
    get("rows-search").value = wanted.get("search") || "";
    rows.current = rows.all.findIndex((row) => row.id === wanted.get("row"));
    filterRows();
    rows.ready = true;
  }
  function filterRows() {
    const [state, label] = [get("rows-state").value, get("rows-label").value];
    const search = get("rows-search").value.toLowerCase();
    rows.places = [...rows.all.keys()].filter((place) => {
      const row = rows.all[place];
      return (!state || row.state === state) && (!label || row.label === label) &&
        (!search || row.text.toLowerCase().includes(search) || row.answer.toLowerCase().includes(search) || row.id === search);
    });
    if (!rows.places.includes(rows.current)) rows.current = rows.places.length ? rows.places[0] : -1;
    get("rows-count").textContent = `${rows.places.length} of ${rows.all.length} rows`;
    fill(get("rows-list"), rows.places, (place) => [
      make("span", { class: rows.all[place].state === "kept" ? "good" : "bad" }, rows.all[place].state),
      make("span", { class: "line", dir: "auto" }, oneLine(rows.all[place].text)),
    ], rows.current, showRow);
    showRow(rows.current);
  }
  function facts(pairs) {
    return make("dl", { class: "facts" }, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", { dir: "auto" }, value)]));
  }
  function folded(title, text) {
    return text ? make("details", {}, make("summary", {}, title), make("pre", { tabindex: "0", dir: "auto" }, text)) : null;
  }
  async function showRow(place) {
    rows.current = place;
    mark(get("rows-list"), place);
    const detail = get("rows-detail");
    rememberRows();
    if (place < 0) { detail.replaceChildren(make("p", {}, "No row fits these filters.")); return; }
    const sources = await data("sources");
    const row = rows.all[place];
    const made = row.made;
    const pairs = [];
    for (const name of ["source", "reason", "template", "teacher", "step", "document", "tokens"]) {
      if (made[name]) pairs.push([name, String(made[name])]);
    }
    for (const [name, value] of Object.entries(made.attributes || {})) pairs.push([`attribute ${name}`, String(value)]);
    for (const id of made.seeds || []) pairs.push(["example shown", Object.hasOwn(sources.seeds, id) ? sources.seeds[id] : id]);
    for (const [name, teacher, text] of made.steps || []) pairs.push([`step ${name} (${teacher})`, text]);
    const verdicts = row.verdicts.map(([filter, keep, score, reason, against]) => make("tr", {},
      make("th", { scope: "row" }, filter),
      make("td", { class: keep ? "good" : "bad" }, keep ? "keep" : "drop"),
      make("td", {}, score === null ? "" : score.toPrecision(3)),
      make("td", { dir: "auto" }, [reason, against && `against: ${against}`].filter(Boolean).join("; "))));
    const head = ["filter", "verdict", "score", "why, and against what"].map((text) => make("th", { scope: "col" }, text));
    const template = Object.hasOwn(sources.templates, made.template || "") ? sources.templates[made.template] : "";
    detail.replaceChildren(...[
      make("h3", {}, `Row ${row.id}: ${row.state}`),
      said(row.text),
      make("p", {}, "Answer: "), said(row.answer),
      facts(pairs),
      verdicts.length ? make("div", { class: "wide", role: "region", "aria-label": "what the filters said", tabindex: "0" }, make("table", {}, make("caption", {}, "What the filters said"),
        make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...verdicts))) : null,
      folded("the prompt that the teacher was sent", row.prompt.map((line) => row.lines[line]).join("\n")),
      folded("the template of its prompt", template),
    ].filter(Boolean));
  }
  function rememberRows() {
    if (!rows.ready) return;
    remember({ view: "rows", state: get("rows-state").value, label: get("rows-label").value,
      search: get("rows-search").value, row: rows.current < 0 ? "" : rows.all[rows.current].id });
  }

  // --- start

  function later(work) {
    let waiting = 0;
    return () => { clearTimeout(waiting); waiting = setTimeout(work, 150); };
  }
  function step(by) {
    const inRows = document.activeElement && document.activeElement.closest("#rows");
    const view = inRows || address().get("view") === "rows" ? "rows" : "items";
    const state = view === "rows" ? rows : items;
    const at = state.places.indexOf(state.current) + by;
    if (at < 0 || at >= state.places.length) return;
    const list = get(`${view}-list`);
    while (!list.querySelector(`[data-place="${state.places[at]}"]`) && list.querySelector(".more")) list.querySelector(".more").click();
    (view === "rows" ? showRow : showItem)(state.places[at]);
  }
  function problem(where, error) {
    get(where).textContent = `This browser cannot show them: ${error.message}`;
  }
  for (const element of document.querySelectorAll(".script-only")) element.hidden = false;
  const suites = get("items-suite");
  if (suites) {
    const suiteId = (name) => [...suites.options].find((option) => option.textContent === name) || suites.options[0];
    const open = (wanted) => openSuite(suites.value, wanted).catch((error) => problem("items-count", error));
    const start = () => {
      const wanted = address();
      if (wanted.get("view") === "items") suites.value = suiteId(wanted.get("suite")).value;
      open(wanted.get("view") === "items" ? wanted : new URLSearchParams());
      if (wanted.get("view") === "items") get("items").scrollIntoView();
    };
    suites.addEventListener("change", () => open(new URLSearchParams()));
    get("items-a").addEventListener("change", () => { flips(); filterItems(); });
    get("items-b").addEventListener("change", () => { causes(get("items-cause").value); filterItems(); });
    for (const name of ["show", "cause", "tag", "gold", "split"]) get(`items-${name}`).addEventListener("change", filterItems);
    get("items-search").addEventListener("input", later(filterItems));
    window.addEventListener("hashchange", () => { if (address().get("view") === "items") start(); });
    start();
  }
  const rowsStart = get("rows-open");
  if (rowsStart) {
    const open = (wanted) => {
      rowsStart.hidden = true;
      get("rows-browser").hidden = false;
      openRows(wanted).catch((error) => problem("rows-count", error));
    };
    rowsStart.addEventListener("click", () => open(new URLSearchParams()));
    for (const name of ["state", "label"]) get(`rows-${name}`).addEventListener("change", filterRows);
    get("rows-search").addEventListener("input", later(filterRows));
    const start = () => {
      if (address().get("view") === "rows") { open(address()); get("rows").scrollIntoView(); }
    };
    window.addEventListener("hashchange", start);
    start();
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === "j") step(1);
    if (event.key === "k") step(-1);
  });
})();
