(() => {
  const { catalog, words, commands, fitting } = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const table = byId("models"), search = byId("search"), registry = byId("registry");
  const mirror = byId("mirror"), said = byId("said"), chooser = byId("chooser");
  const filters = ["task", "parameters", "license", "size"].map((key) => byId("filter-" + key));
  // host, host:port, and a path for registries that proxy others under one
  const HOST = /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(\/[a-z0-9]+([._\/-]+[a-z0-9]+)*)?$/i;

  const { word, begin } = languages(words, showWords);

  const rows = catalog.models.map((model, place) => ({
    model, place, body: byId("m-" + model.tag),
    text: [model.tag, model.repo_id, model.license, model.commit, model.repo_type, model.task, model.library, model.description]
      .filter(Boolean).join(" ").toLowerCase(),
  }));

  // --- colors -----------------------------------------------------------------------------
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  function showTheme() {
    const button = byId("theme"), text = word(isDark() ? "light" : "dark");
    button.setAttribute("aria-label", text);
    button.title = text;
  }
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    memory.set("theme", root.dataset.theme);
    showTheme();
  });
  prefersDark.addEventListener("change", showTheme);

  // --- language ---------------------------------------------------------------------------
  function showWords() {
    for (const item of table.querySelectorAll(".copy")) {
      item.setAttribute("aria-label", `${word("copy_of")} ${item.closest("tbody").querySelector(".tag").textContent}`);
    }
    for (const [key, help] of [["gated", "gated_help"], ["partial", "partial_help"], ["behind", "behind_help"]]) {
      for (const item of table.querySelectorAll("." + key)) item.title = word(help);
    }
    showTheme();
    showCommands();
  }

  // --- commands ---------------------------------------------------------------------------
  // One chooser for all rows: it goes where one is open.
  const radios = [...chooser.querySelectorAll("input")];
  const isOpen = (row) => Boolean(row.body.querySelector("details[open]"));
  const HELPS = { restore: 1, export: 1, pull: 1, serve: 1, llama: 1 };

  function mirrorHost() {
    const text = mirror.value.trim().replace(/^https?:\/\//i, "").replace(/\/+$/, "");
    const isWrong = text !== "" && !HOST.test(text);
    mirror.setAttribute("aria-invalid", String(isWrong));
    byId("mirror-wrong").textContent = isWrong ? word("mirror_wrong") : "";
    return isWrong ? "" : text;
  }

  function choose(tag) {
    const wanted = memory.get("command") || "restore";
    for (const radio of radios) radio.parentElement.hidden = !fitting[tag].includes(radio.value);
    const key = fitting[tag].includes(wanted) ? wanted : "restore";
    radios.find((radio) => radio.value === key).checked = true;
    byId("help").textContent = word((key in HELPS ? key : "load") + "_help");
    byId("install").hidden = !commands[key].startsWith("hf-models ");
    return key;
  }

  function showCommand({ model, body }) {
    const details = body.querySelector("details"), line = details.querySelector(".line");
    if (line.previousElementSibling !== chooser) details.insertBefore(chooser, line);
    chooser.hidden = false;
    const isThere = model.registries.includes(registry.value);
    const name = isThere ? registry.value : model.registries[0];
    // A mirror is one of the chosen registry: it has nothing of another.
    const host = isThere ? mirrorHost() : "";
    const mirrored = host ? host + name.slice(name.indexOf("/")) : name;
    const command = commands[choose(model.tag)];
    const values = {
      origin: `${name}:${model.tag}`, image: `${mirrored}:${model.tag}`, mirror: host ? ` --mirror ${host}` : "",
      repo: model.repo_id, task: model.task,
    };
    line.querySelector("code").textContent = command.replace(/\{(\w+)\}/g, (_, key) => values[key]);
    // Only the first registry that has it was asked for the digest.
    const pin = details.querySelector(".pin");
    pin.hidden = name !== model.registries[0];
    pin.querySelector("samp").textContent = `${command.includes("{image}") ? mirrored : name}@${model.digest}`;
    const note = details.querySelector(".elsewhere");
    note.hidden = isThere;
    note.textContent = isThere ? "" : `${registry.value}: ${word("only_in")} ${name}`;
  }

  function showCommands() {
    mirrorHost();
    const row = rows.find(isOpen);
    if (row) showCommand(row);
  }

  table.addEventListener("toggle", (event) => {
    if (event.target.open) showCommand(rows.find((row) => row.body.contains(event.target)));
  }, true);
  chooser.addEventListener("change", (event) => { memory.set("command", event.target.value); showCommands(); });
  registry.addEventListener("change", () => { memory.set("registry", registry.value); showCommands(); });
  mirror.addEventListener("input", () => { memory.set("mirror", mirror.value.trim()); showCommands(); });

  // --- copy -------------------------------------------------------------------------------
  function select(node) {
    const selection = getSelection();
    selection.removeAllRanges();
    const range = document.createRange();
    range.selectNodeContents(node);
    selection.addRange(range);
  }

  async function copyText(node) {
    try {
      await navigator.clipboard.writeText(node.textContent);
      return true;
    } catch { // not https, or not allowed
      select(node);
      return document.execCommand("copy");
    }
  }

  table.addEventListener("click", async (event) => {
    const button = event.target.closest(".copy");
    if (!button) return;
    const label = button.firstElementChild;
    const isDone = await copyText(button.previousElementSibling);
    said.textContent = "";
    said.textContent = word(isDone ? "copied" : "copy_failed");
    label.textContent = said.textContent;
    button.classList.toggle("done", isDone);
    clearTimeout(button.timer);
    button.timer = setTimeout(() => {
      label.textContent = word("copy");
      button.classList.remove("done");
    }, 2000);
  });

  // --- search and filters -----------------------------------------------------------------
  function isWithin(number, band) {
    if (number === null) return false;
    const [from, to] = band.split("-").map((power) => (power ? 10 ** power : Infinity));
    return number >= (from > 1 ? from : 0) && number < to;
  }
  const tests = [
    (model, value) => model.task === value,
    (model, value) => isWithin(model.parameters, value),
    (model, value) => model.license === value,
    (model, value) => isWithin(model.size_bytes, value),
  ];

  function showFound() {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const isFiltered = terms.length > 0 || filters.some((item) => item.value);
    let shown = 0;
    for (const row of rows) {
      row.body.hidden = !(terms.every((term) => row.text.includes(term))
        && filters.every((item, i) => !item.value || tests[i](row.model, item.value)));
      shown += row.body.hidden ? 0 : 1;
    }
    byId("count").firstElementChild.textContent = isFiltered ? `${shown} / ${rows.length}` : `${shown}`;
    byId("empty").hidden = shown > 0 || !isFiltered;
    table.hidden = shown === 0;
  }
  function clear() {
    for (const item of [search, ...filters]) item.value = "";
    showFound();
    search.focus();
  }
  for (const item of filters) item.addEventListener("change", showFound);
  search.addEventListener("input", showFound);
  byId("clear").addEventListener("click", clear);
  document.addEventListener("keydown", (event) => {
    const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)
      && document.activeElement.type !== "radio";
    if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "Escape" && document.activeElement === search && search.value) {
      event.preventDefault();
      clear();
    }
  });

  // --- sort -------------------------------------------------------------------------------
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const keys = {
    model: (model) => model.tag,
    license: (model) => model.license,
    size: (model) => model.size_bytes,
    parameters: (model) => model.parameters,
    version: (model) => model.committed_at,
    published: (model) => (model.published ? model.published_at || model.committed_at : null),
  };
  // Numbers and dates are of interest from the largest down.
  const DESCENDING = new Set(["size", "parameters", "version", "published"]);

  function compare(key, direction) {
    return (a, b) => {
      const [x, y] = [keys[key](a.model), keys[key](b.model)];
      if (x === null || y === null) return (x === null) - (y === null) || a.place - b.place;
      const order = typeof x === "number" ? x - y : collator.compare(x, y);
      return order * direction || a.place - b.place;
    };
  }

  function sortBy(button) {
    const head = button.closest("th"), key = button.dataset.sort;
    const before = head.getAttribute("aria-sort");
    const first = DESCENDING.has(key) ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    for (const item of table.querySelectorAll("[aria-sort]")) item.removeAttribute("aria-sort");
    let order = (a, b) => a.place - b.place; // a third click gives the file's own order back
    if (before !== other) {
      const now = before === first ? other : first;
      head.setAttribute("aria-sort", now);
      order = compare(key, now === "ascending" ? 1 : -1);
    }
    for (const row of [...rows].sort(order)) table.append(row.body);
  }
  for (const button of table.querySelectorAll("[data-sort]")) {
    button.disabled = false;
    button.addEventListener("click", () => sortBy(button));
  }

  // --- begin ------------------------------------------------------------------------------
  root.classList.add("js");
  const theme = memory.get("theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  if (catalog.registries.includes(memory.get("registry"))) registry.value = memory.get("registry");
  mirror.value = memory.get("mirror") || "";
  for (const item of table.querySelectorAll(".copy")) item.hidden = false;
  byId("tools").hidden = byId("count").hidden = rows.length === 0;
  byId("more").open = matchMedia("(min-width: 60.01rem)").matches;
  byId("theme").hidden = false;
  begin();
  showFound();
  // The one that the address names is open, and the only one that there is.
  const open = rows.length === 1 ? rows[0] : rows.find(({ body }) => "#" + body.id === location.hash);
  const details = open && open.body.querySelector("details");
  if (details) details.open = true;
})();
