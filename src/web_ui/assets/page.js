// Refreshes, sorts and filters the content of the page. Texts are formatted as in table.rs and
// plot/unit.rs.
"use strict";

const UNKNOWN = "–";
const SPARKS = 48;
const [WIDTH, HEIGHT] = [96, 20];
const seconds = Number(document.body.dataset.seconds) || 5;
const status = document.getElementById("status");

// Number formatting.

function digits(number) {
  const size = Math.abs(number);
  const decimals = size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2;
  const text = number.toFixed(decimals);
  const short = text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  return short === "-0" ? "0" : short;
}

function scaled(number, base, names) {
  let at = 0;
  while (Math.abs(number) >= base - 0.5 && at + 1 < names.length) {
    number /= base;
    at += 1;
  }
  return `${digits(number)} ${names[at]}`;
}

const UNITS = {
  percent: (number) => `${digits(number)} %`,
  bytes: (number) => scaled(number, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]),
  rate: (number) =>
    scaled(number, 1000, ["B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s", "EB/s"]),
};

function amount(unit, number) {
  return Number.isFinite(number) ? UNITS[unit](number) : UNKNOWN;
}

function age(number) {
  if (!Number.isFinite(number)) return UNKNOWN;
  const all = Math.floor(Math.max(number, 0));
  const [minutes, hours, days] = [60, 3600, 86400].map((unit) => Math.floor(all / unit));
  if (days) return `${days} d ${hours % 24} h`;
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min` : `${all} s`;
}

// Cells.

function setText(element, text) {
  if (element && element.textContent !== text) element.textContent = text;
}

/** The cell of a row or list; sets its sort key. */
function cell(row, name, sort) {
  const found = row.querySelector(`[data-cell="${name}"]`);
  if (!found) return null;
  if (sort === undefined || sort === null || Number.isNaN(sort)) delete found.dataset.sort;
  else found.dataset.sort = sort;
  return found;
}

function setPlain(row, name, value) {
  const found = cell(row, name, value);
  if (!found) return;
  setText(found, value === undefined ? UNKNOWN : String(value));
  if (name === "image") found.title = value ?? "";
}

function setState(row, state, health) {
  const label = cell(row, "state", state ?? UNKNOWN)?.querySelector(".state");
  if (!label) return;
  label.dataset.state = state ?? UNKNOWN;
  if (health) label.dataset.health = health;
  else delete label.dataset.health;
  setText(label, health ? `${state}, ${health}` : state ?? UNKNOWN);
}

/** Sets a value and extends its sparkline if there is a new sample. */
function setSparked(row, name, unit, value, isNew) {
  const found = cell(row, name, value);
  if (!found) return;
  setText(found.querySelector(".value"), amount(unit, value));
  const spark = found.querySelector(".spark");
  if (!spark || !isNew) return;
  const previous = spark.dataset.values ? spark.dataset.values.split(",") : [];
  previous.push(Number.isFinite(value) ? String(value) : "");
  const values = previous.slice(-SPARKS);
  spark.dataset.values = values.join(",");
  spark.querySelector("path").setAttribute("d", sparkline(values));
}

function sparkline(values) {
  const numbers = values.map((value) => (value === "" ? NaN : Number(value)));
  const max = Math.max(0, ...numbers.filter(Number.isFinite));
  const scale = max > 0 ? HEIGHT / max : 0;
  const step = WIDTH / (SPARKS - 1);
  let path = "";
  let isDrawing = false;
  numbers.forEach((value, at) => {
    if (!Number.isFinite(value)) {
      isDrawing = false;
      return;
    }
    const x = WIDTH - (numbers.length - 1 - at) * step;
    const y = HEIGHT - Math.max(value, 0) * scale;
    path += `${isDrawing ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}${isDrawing ? "" : "h.1"}`;
    isDrawing = true;
  });
  return path;
}

function setRates(row, name, rates) {
  const known = Object.values(rates).filter(Number.isFinite);
  const sum = known.length ? known.reduce((one, other) => one + other, 0) : undefined;
  const found = cell(row, name, sum);
  for (const [rate, value] of Object.entries(rates)) {
    setText(found?.querySelector(`[data-rate="${rate}"] .value`), amount("rate", value));
  }
}

/** Sets the values of the latest sample in any row that has cells for them. */
function setLatest(row, latest = {}) {
  const isNew = latest.time !== undefined && row.dataset.time !== String(latest.time);
  if (isNew) row.dataset.time = latest.time;
  setSparked(row, "cpu", "percent", latest.cpu_percent, isNew);
  setSparked(row, "memory", "bytes", latest.memory_bytes, isNew);
  setRates(row, "network", {
    received: latest.received_bytes_per_second,
    sent: latest.sent_bytes_per_second,
  });
  setRates(row, "disk", {
    read: latest.read_bytes_per_second,
    written: latest.written_bytes_per_second,
  });
}

function setUptime(row, up) {
  setText(cell(row, "uptime", up), age(up));
}

function setName(row, title, href, note) {
  const found = cell(row, "name", title);
  const link = found.querySelector("a");
  setText(link, title);
  if (href) link.setAttribute("href", href);
  if (note !== undefined) setText(found.querySelector("small"), note);
}

// Tables.

const tables = new Map();

function rowsOf(name) {
  const body = tables.get(name)?.body;
  return new Map([...(body?.rows ?? [])].map((row) => [row.dataset.key, row]));
}

/** The row of a key, created if missing. */
function rowOf(name, rows, key) {
  const existing = rows.get(key);
  if (existing) return existing;
  const template = document.querySelector(`template[data-row="${name}"]`);
  const row = template.content.firstElementChild.cloneNode(true);
  row.dataset.key = key;
  tables.get(name).body.append(row);
  rows.set(key, row);
  return row;
}

function dropOthers(rows, keys) {
  for (const [key, row] of rows) if (!keys.has(key)) row.remove();
}

function isAbsent(text) {
  return text === undefined || text === UNKNOWN;
}

/** Compares two cells; unknown values are last in both directions. */
function compare(one, other, direction) {
  const [a, b] = [one?.dataset.sort, other?.dataset.sort];
  if (isAbsent(a) || isAbsent(b)) return isAbsent(a) - isAbsent(b);
  const [x, y] = [Number(a), Number(b)];
  const isNumber = one.classList.contains("number") && !Number.isNaN(x) && !Number.isNaN(y);
  const order = isNumber ? x - y : a.localeCompare(b, undefined, { numeric: true });
  return direction * order;
}

function sort(table) {
  if (!table.by) return;
  const rows = [...table.body.rows];
  const cellOf = (row) => row.querySelector(`[data-cell="${table.by}"]`);
  const sorted = [...rows].sort((one, other) => compare(cellOf(one), cellOf(other), table.direction));
  if (sorted.every((row, at) => row === rows[at])) return;
  // Keeps the focus on a link in a row.
  const focused = document.activeElement;
  table.body.append(...sorted);
  if (table.body.contains(focused)) focused.focus({ preventScroll: true });
}

function filter(table) {
  const word = table.input?.value.trim().toLowerCase() ?? "";
  let shown = 0;
  for (const row of table.body.rows) {
    const text = `${row.dataset.key} ${row.textContent}`.toLowerCase();
    const isShown = text.includes(word);
    if (row.hidden === isShown) row.hidden = !isShown;
    shown += isShown;
  }
  setText(table.count, word ? `${shown} of ${table.body.rows.length}` : "");
}

function show(name) {
  const table = tables.get(name);
  if (!table) return;
  sort(table);
  filter(table);
}

function sortBy(table, head) {
  const { cell: by } = head.dataset;
  const first = table.body.querySelector(`[data-cell="${by}"]`);
  const begin = first?.classList.contains("number") ? -1 : 1;
  table.direction = table.by === by ? -table.direction : begin;
  table.by = by;
  for (const other of table.element.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", table.direction > 0 ? "ascending" : "descending");
  sort(table);
}

for (const element of document.querySelectorAll("table[data-table]")) {
  const name = element.dataset.table;
  const input = document.querySelector(`[data-filter="${name}"]`);
  const count = document.querySelector(`[data-count="${name}"]`);
  const table = { element, body: element.tBodies[0], input, count };
  tables.set(name, table);
  for (const head of element.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sortBy(table, head));
    head.replaceChildren(button);
  }
  if (input) {
    input.closest(".filter").hidden = false;
    input.addEventListener("input", () => filter(table));
  }
}

// API requests.

async function get(path) {
  const signal = AbortSignal.timeout(10_000);
  const response = await fetch(path, { signal, credentials: "same-origin" });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? `status ${response.status}`);
  return body;
}

const WHY = {
  not_known: "unknown to the configured engines",
  engine_down: "the engine does not respond",
  not_asked: "no engine of this kind is configured",
  runtime_not_asked: "the runtime's API is not supported",
  unknown_runtime: "the cgroup path does not identify the runtime",
};

function note(container) {
  const { unnamed } = container;
  if (unnamed) {
    const why = WHY[unnamed.reason] ?? unnamed.reason;
    return unnamed.detail ? `${why}: ${unnamed.detail}` : why;
  }
  return container.is_current === false ? "last known state" : "";
}

/** Name of a container; without one its ID, shortened if long. */
function titleOf(container) {
  const name = container.name ?? container.domain?.name;
  if (name !== undefined) return name;
  const key = container.id ?? container.cgroup;
  return /^[0-9a-f]{64}$/i.test(key) ? key.slice(0, 12) : key;
}

function isRunning(container) {
  return container.state ? container.state === "running" : container.has_cgroup === true;
}

function upOf(container, time) {
  return isRunning(container) ? time - container.started : undefined;
}

async function refreshContainers() {
  const response = await get("/api/v1/containers");
  if (!response.containers) return;
  const [rows, domainRows] = [rowsOf("containers"), rowsOf("domains")];
  const keys = new Set();
  for (const container of response.containers) {
    const key = container.id ?? container.cgroup;
    const href = `/containers/${encodeURIComponent(key)}`;
    if (container.kind === "guest") {
      const name = container.domain?.name ?? key;
      const row = rowOf("domains", domainRows, name);
      setName(row, name, href);
      setLatest(row, container.latest);
      continue;
    }
    keys.add(key);
    const row = rowOf("containers", rows, key);
    setName(row, titleOf(container), href, note(container));
    setPlain(row, "image", container.image);
    setState(row, container.state, container.health);
    setLatest(row, container.latest);
    setPlain(row, "restarts", container.restarts);
    setUptime(row, upOf(container, response.time));
  }
  dropOthers(rows, keys);
  show("containers");
  show("domains");
}

async function refreshDomains() {
  const response = await get("/api/v1/domains");
  if (!response.domains) return;
  const rows = rowsOf("domains");
  for (const domain of response.domains) {
    const row = rowOf("domains", rows, domain.name);
    const state = domain.is_stuck ? "not responding" : domain.is_partial ? "incomplete data" : domain.title;
    setName(row, domain.name, undefined, state ?? "");
    setPlain(row, "vcpus", domain.vcpus);
    setState(row, domain.state);
    setUptime(row, response.time - domain.started);
  }
  dropOthers(rows, new Set(response.domains.map((domain) => domain.name)));
  show("domains");
}

async function refreshHost() {
  const response = await get("/api/v1/host");
  const facts = document.querySelector('[data-table="facts"]');
  setText(cell(facts, "uptime"), age(response.time - response.boot_time));
  const load = response.load && ["1m", "5m", "15m"].map((period) => response.load[period].toFixed(2)).join(" ");
  setText(cell(facts, "load"), load ?? UNKNOWN);
  const tiles = document.querySelector('[data-table="host"]');
  const latest = response.latest ?? {};
  const isNew = latest.time !== undefined && tiles.dataset.time !== String(latest.time);
  if (isNew) tiles.dataset.time = latest.time;
  const used = response.memory?.total_bytes - response.memory?.available_bytes;
  const memory = Number.isFinite(used) ? used : latest.memory_bytes;
  setSparked(tiles, "cpu", "percent", latest.cpu_percent, isNew);
  setSparked(tiles, "memory", "bytes", memory, isNew);
  setSparked(tiles, "received", "rate", latest.received_bytes_per_second, isNew);
  setSparked(tiles, "sent", "rate", latest.sent_bytes_per_second, isNew);
  setSparked(tiles, "read", "rate", latest.read_bytes_per_second, isNew);
  setSparked(tiles, "written", "rate", latest.written_bytes_per_second, isNew);
}

async function refreshCollectors() {
  const response = await get("/api/v1/collectors");
  const rows = rowsOf("collectors");
  for (const { name, last } of response.collectors) {
    const row = rows.get(name);
    if (!row || !last) continue;
    const outcome = cell(row, "outcome", last.outcome).querySelector(".state");
    outcome.dataset.state = last.outcome;
    setText(outcome, last.outcome);
    const duration = last.duration_seconds;
    setText(cell(row, "duration", duration), `${(duration * 1000).toFixed(2)} ms`);
    setText(cell(row, "error", last.error), last.error ?? "");
  }
  show("collectors");
}

/** Reloads a plot and replaces it once loaded, so that the layout does not shift. */
function refreshPicture(image) {
  const every = Math.max(seconds, Number(image.dataset.every) || 0) * 1000;
  const now = Date.now();
  if (now - (image.loadedAt ?? started) < every * 0.9) return;
  image.loadedAt = now;
  const source = image.parentElement.querySelector("source");
  const isSmall = matchMedia(source.media).matches;
  const url = new URL(isSmall ? source.srcset : image.src, location.href);
  url.searchParams.set("at", Math.round(now / 1000));
  const next = new Image();
  next.onload = () => {
    if (isSmall) source.srcset = next.src;
    else image.src = next.src;
  };
  next.src = url.href;
}

/** Reloads the page and replaces its numbers. */
async function refreshNumbers() {
  const response = await fetch(location.href, { signal: AbortSignal.timeout(10_000) });
  if (!response.ok) throw new Error(`status ${response.status}`);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const old of document.querySelectorAll("[data-fresh]")) {
    const fresh = page.querySelector(`[data-fresh="${old.dataset.fresh}"]`);
    if (fresh && fresh.innerHTML !== old.innerHTML) old.replaceChildren(...fresh.childNodes);
  }
}

async function refreshPictures() {
  document.querySelectorAll(".plots img").forEach(refreshPicture);
}

// Refresh intervals, in rounds. Domains are refreshed rarely, because each refresh queries
// libvirt.
const ROUNDS = {
  overview: [
    [1, refreshContainers],
    [1, refreshHost],
    [6, refreshCollectors],
    [12, refreshDomains],
  ],
  detail: [
    [1, refreshNumbers],
    [1, refreshPictures],
  ],
};

const started = Date.now();
let round = 0;
let timer;
let isBusy = false;

async function refresh() {
  if (isBusy) return;
  isBusy = true;
  round += 1;
  const due = ROUNDS[document.body.dataset.live].filter(([every]) => round % every === 0);
  const results = await Promise.allSettled(due.map(([, work]) => work()));
  const failed = results.find((result) => result.status === "rejected");
  setText(status, failed ? `Refresh failed: ${failed.reason.message}` : "");
  isBusy = false;
}

function go() {
  clearInterval(timer);
  if (document.hidden || !ROUNDS[document.body.dataset.live]) return;
  timer = setInterval(refresh, seconds * 1000);
}

document.addEventListener("visibilitychange", () => {
  go();
  if (!document.hidden && ROUNDS[document.body.dataset.live]) refresh();
});
go();
