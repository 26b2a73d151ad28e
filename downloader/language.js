"use strict";
// A page from a file, or a browser that blocks storage, still works; it only forgets.
const memory = {
  get(key) { try { return localStorage.getItem("hf-models." + key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem("hf-models." + key, value); } catch { /* no storage */ } },
};

// The languages of a page: `words` by language and key go into every element with data-w, and into
// the attribute NAME of every element with data-w-NAME. `changed` is called after each change.
function languages(words, changed) {
  const button = document.getElementById("language");
  let language = "en";
  const word = (key) => words[language][key];
  function show(wanted) {
    language = wanted in words ? wanted : "en";
    document.documentElement.lang = language === "zh" ? "zh-CN" : language;
    document.title = word("title");
    for (const item of document.querySelectorAll("[data-w]")) item.textContent = word(item.dataset.w);
    for (const name of ["content", "placeholder", "aria-label", "href"]) {
      for (const item of document.querySelectorAll(`[data-w-${name}]`)) {
        item.setAttribute(name, word(item.getAttribute("data-w-" + name)));
      }
    }
    button.textContent = word("language");
    button.setAttribute("aria-label", word("language_label"));
    button.lang = language === "zh" ? "en" : "zh-CN";
    changed();
  }
  button.addEventListener("click", () => {
    show(language === "zh" ? "en" : "zh");
    memory.set("language", language);
  });
  return {
    word,
    begin() {
      button.hidden = false;
      show(memory.get("language") || (/^zh\b/i.test(navigator.language) ? "zh" : "en"));
    },
  };
}
