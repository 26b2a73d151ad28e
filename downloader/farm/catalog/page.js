"use strict";
(() => {
  const { catalog, words, commands } = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const table = byId("models"), search = byId("search"), registry = byId("registry");
  const mirror = byId("mirror"), said = byId("said");
  // host, host:port, and a path for registries that proxy others under one
  const HOST = /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(\/[a-z0-9]+([._\/-]+[a-z0-9]+)*)?$/i;

  // A page from a file, or a browser that blocks storage, still works; it only forgets.
  const memory = {
    get(key) { try { return localStorage.getItem("hf-models." + key); } catch { return null; } },
    set(key, value) { try { localStorage.setItem("hf-models." + key, value); } catch { /* no storage */ } },
  };

  let language = "en";
  const word = (key) => words[language][key];

  const rows = catalog.models.map((model, place) => ({
    model, place, body: byId("m-" + model.tag),
    text: [model.tag, model.repo_id, model.license, model.commit, model.repo_type, model.task, model.description]
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
  function setLanguage(wanted) {
    language = wanted in words ? wanted : "en";
    root.lang = language === "zh" ? "zh-CN" : language;
    document.title = word("title");
    document.querySelector("meta[name=description]").content = word("description");
    for (const item of document.querySelectorAll("[data-w]")) item.textContent = word(item.dataset.w);
    for (const name of ["placeholder", "aria-label"]) {
      for (const item of document.querySelectorAll(`[data-w-${name}]`)) {
        item.setAttribute(name, word(item.getAttribute("data-w-" + name)));
      }
    }
    const button = byId("language");
    button.textContent = word("language");
    button.setAttribute("aria-label", word("language_label"));
    button.lang = language === "zh" ? "en" : "zh-CN";
    for (const [key, help] of [["gated", "gated_help"], ["partial", "partial_help"], ["behind", "behind_help"]]) {
      for (const item of table.querySelectorAll("." + key)) item.title = word(help);
    }
    showTheme();
    showCommands();
  }
  byId("language").addEventListener("click", () => {
    setLanguage(language === "zh" ? "en" : "zh");
    memory.set("language", language);
  });

  // --- commands ---------------------------------------------------------------------------
  const chosen = () => document.querySelector("input[name=command]:checked").value;

  function mirrorHost() {
    const text = mirror.value.trim().replace(/^https?:\/\//i, "").replace(/\/+$/, "");
    const isWrong = text !== "" && !HOST.test(text);
    mirror.setAttribute("aria-invalid", String(isWrong));
    byId("mirror-wrong").textContent = isWrong ? word("mirror_wrong") : "";
    return isWrong ? "" : text;
  }

  function showCommands() {
    const key = chosen(), host = mirrorHost();
    byId("help").textContent = word(key + "_help");
    for (const { model, body } of rows) {
      if (!model.published) continue;
      const isThere = model.registries.includes(registry.value);
      const name = isThere ? registry.value : model.registries[0];
      // A mirror is one of the chosen registry: it has nothing of another.
      const image = (host && isThere ? host + name.slice(name.indexOf("/")) : name) + ":" + model.tag;
      body.querySelector("code").textContent = commands[key].replace("{image}", image);
      // Only the first registry that has it was asked for the digest.
      const pin = body.querySelector(".pin");
      if (pin) pin.hidden = name !== model.registries[0];
      if (pin) pin.querySelector("samp").textContent = image.slice(0, -model.tag.length - 1) + "@" + model.digest;
      const copy = body.querySelector(".copy");
      copy.hidden = false;
      copy.setAttribute("aria-label", `${word("copy_of")} ${model.tag}`);
      const note = body.querySelector(".elsewhere");
      note.hidden = isThere;
      note.textContent = isThere ? "" : `${registry.value}: ${word("only_in")} ${name}`;
    }
  }

  for (const radio of document.querySelectorAll("input[name=command]")) {
    radio.addEventListener("change", () => { memory.set("command", chosen()); showCommands(); });
  }
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

  // --- search -----------------------------------------------------------------------------
  function showFound() {
    const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.body.hidden = !terms.every((term) => row.text.includes(term));
      shown += row.body.hidden ? 0 : 1;
    }
    byId("count").firstElementChild.textContent = terms.length ? `${shown} / ${rows.length}` : `${shown}`;
    byId("empty").hidden = shown > 0;
  }
  function clear() {
    search.value = "";
    showFound();
    search.focus();
  }
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
  const rank = (model) => (model.published ? (model.behind ? 1 : 0) : 2);
  const keys = {
    model: (model) => model.tag,
    license: (model) => model.license,
    size: (model) => model.size_bytes,
    files: (model) => model.files,
    layers: (model) => model.layers,
    version: (model) => model.committed_at,
    status: rank,
  };
  // Numbers and dates are of interest from the largest down.
  const DESCENDING = new Set(["size", "files", "layers", "version"]);

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
  const remembered = document.querySelector(`input[name=command][value="${CSS.escape(memory.get("command") || "")}"]`);
  if (remembered) remembered.checked = true;
  mirror.value = memory.get("mirror") || "";
  byId("language").hidden = byId("theme").hidden = false;
  setLanguage(memory.get("language") || (/^zh\b/i.test(navigator.language) ? "zh" : "en"));
  showFound();
})();
