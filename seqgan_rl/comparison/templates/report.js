// What needs JavaScript: sorting, the axis of the curves, the theme, the filter of runs, and the sample browser.
"use strict";
(() => {
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const number = (value, digits = 4) => {
    if (value === null) return "unknown";
    const text = Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-4)
      ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
    return text.replace(/-/g, "\u2212");
  };
  const mean = (values) => values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;

  for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;

  theme(document.querySelector(".theme"));
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll(".choices").forEach(choices);
  filter(document.querySelector("#run-filter"));
  samples(document.querySelector("#sample-browser"), JSON.parse(document.querySelector("#sample-data").textContent));

  function theme(button) {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
    const show = () => { button.textContent = isDark() ? "Light colours" : "Dark colours"; };
    button.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; show(); });
    dark.addEventListener("change", show);
    show();
  }

  // Cells carry data-value, a number or nothing; what is missing stays last. A column starts with its best.
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], original = [...body.rows];
    heads.forEach((head, column) => {
      if (head.dataset.first === undefined) return;
      const button = make("button", { type: "button", title: "Sort by this column" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const order = head.getAttribute("aria-sort");
        const next = order === null ? head.dataset.first : order === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const key = (row) => row.cells[column].dataset.value ?? "";
        const compare = (a, b) => {
          if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
          const difference = Number(key(a)) - Number(key(b));
          return sign * (Number.isNaN(difference) ? key(a).localeCompare(key(b)) : difference);
        };
        body.append(...[...original].sort(compare));
      });
    });
  }

  // Figures of which one is seen at a time, by buttons; all of them without JavaScript.
  function choices(box) {
    const options = [...box.querySelectorAll(":scope > [data-choice]")];
    const bar = make("div", { className: "switch" });
    bar.setAttribute("role", "group");
    bar.setAttribute("aria-label", box.dataset.label);
    const buttons = options.map((option) => make("button", { type: "button", textContent: option.dataset.choice }));
    const show = (chosen) => options.forEach((option, i) => {
      option.hidden = i !== chosen;
      buttons[i].setAttribute("aria-pressed", String(i === chosen));
    });
    buttons.forEach((button, i) => button.addEventListener("click", () => show(i)));
    bar.append(...buttons);
    options[0].before(bar);
    show(0);
  }

  function filter(input) {
    const runs = [...document.querySelectorAll("details.run")], count = document.querySelector("#run-count");
    const plain = (text) => text.toLowerCase().replace(/[\s,]+/g, " ").trim();
    const texts = runs.map((run) => plain([...run.querySelectorAll("summary, dt, dd")].map((e) => e.textContent).join(" ")));
    const show = () => {
      const parts = input.value.split(",").map(plain).filter(Boolean);
      runs.forEach((run, i) => { run.hidden = !parts.every((part) => texts[i].includes(part)); });
      for (const group of document.querySelectorAll("details.runs")) {
        group.hidden = !group.querySelector("details.run:not([hidden])");
        group.open = parts.length > 0;
      }
      count.textContent = `${runs.filter((run) => !run.hidden).length} of ${runs.length} runs`;
    };
    input.addEventListener("input", show);
    show();
  }

  function samples(box, tasks) {
    if (!box) return;
    const [taskSelect, seedSelect] = box.querySelectorAll("select");
    const chips = box.querySelector(".chips"), panels = box.querySelector(".panels");
    const ticks = box.querySelectorAll(".ticks > *");
    const tip = make("div", { className: "tip", hidden: true });
    tip.setAttribute("aria-hidden", "true"); // a token's label says the same
    document.body.append(tip);
    let current = null;

    tasks.forEach((task, i) => taskSelect.append(make("option", { value: String(i), textContent: task.label })));
    taskSelect.addEventListener("change", changeTask);
    seedSelect.addEventListener("change", draw);
    chips.addEventListener("change", draw);
    for (const event of ["pointerover", "focusin", "click"]) {
      panels.addEventListener(event, ({ target }) => { if (target.matches(".token")) point(target); });
    }
    panels.addEventListener("pointerout", leave);
    panels.addEventListener("focusout", leave);
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") leave(); });
    panels.addEventListener("keydown", move);
    changeTask();

    function changeTask() {
      const task = tasks[taskSelect.value], kept = seedSelect.value;
      const seeds = [...new Set(task.agents.flatMap((agent) => agent.seeds.map(({ seed }) => seed)))].sort((a, b) => a - b);
      seedSelect.replaceChildren(...seeds.map((seed) => make("option", { value: String(seed), textContent: String(seed) })));
      if (seeds.map(String).includes(kept)) seedSelect.value = kept;
      chips.replaceChildren(...task.agents.map((agent, i) => {
        const tick = make("input", { type: "checkbox", value: String(i), checked: task.shown.includes(agent.name) });
        return make("label", {}, tick, agent.name);
      }));
      const { low, middle, high } = task.scale;
      ticks[0].textContent = `\u2264 ${number(low, 3)}`;
      ticks[1].textContent = `${number(middle, 3)}, the mean`;
      ticks[2].textContent = `\u2265 ${number(high, 3)}`;
      draw();
    }

    function draw() {
      leave();
      const task = tasks[taskSelect.value], seed = Number(seedSelect.value);
      const chosen = [...chips.querySelectorAll(":checked")].map((tick) => task.agents[tick.value]);
      panels.replaceChildren(...chosen.map((agent) => panel(task, agent, seed)));
      if (!chosen.length) panels.append(make("p", { className: "muted", textContent: "Choose an agent above." }));
    }

    function panel(task, agent, seed) {
      const found = agent.seeds.find((entry) => entry.seed === seed);
      const section = make("section", { className: "panel" }, make("h3", { textContent: agent.name }));
      section.setAttribute("aria-label", agent.name);
      if (!found) section.append(make("p", { className: "muted", textContent: `No samples of seed ${seed}.` }));
      else {
        if (found.samples.length < found.total) {
          section.append(make("p", { className: "muted small", textContent: `The first ${found.samples.length} of ${found.total}.` }));
        }
        section.append(...found.samples.map((sample, i) => sequence(task, agent, sample, i)));
      }
      return section;
    }

    function sequence(task, agent, { words, values, length }, i) {
      const tokens = make("div", { className: "tokens" });
      const known = values.filter((value) => value !== null);
      const title = `Sample ${i + 1}, mean value ${number(mean(known), 3)}`;
      tokens.setAttribute("role", "group");
      tokens.setAttribute("aria-label", `${agent.name}, ${title}, ${length} tokens`);
      words.forEach((word, t) => {
        const value = values[t] ?? null;
        const token = make("button", { type: "button", className: "token", textContent: word, tabIndex: t ? -1 : 0, dir: "auto" });
        token.setAttribute("aria-label", `${word}, position ${t + 1}, value ${number(value)}`);
        token.dataset.position = String(t + 1);
        token.dataset.value = value === null ? "" : String(value);
        if (value === null) token.classList.add("unknown");
        else {
          const { low, middle, high } = task.scale;
          const end = value < middle ? low : high;
          const share = end === middle ? 0 : Math.min(1, (value - middle) / (end - middle));
          token.style.setProperty("--end", value < middle ? "var(--low)" : "var(--high)");
          token.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
        }
        tokens.append(token);
      });
      const shown = words.length < length ? `; the first ${words.length} of ${length} tokens` : "";
      return make("article", { className: "sample" }, make("p", { textContent: title + shown }), tokens);
    }

    function point(token) {
      leave();
      current = token;
      token.classList.add("current");
      const value = token.dataset.value === "" ? null : Number(token.dataset.value);
      tip.textContent = `value ${number(value)}, position ${token.dataset.position}`;
      tip.hidden = false;
      const place = token.getBoundingClientRect(), width = tip.offsetWidth;
      const left = Math.max(8, Math.min(place.left + place.width / 2 - width / 2, document.documentElement.clientWidth - width - 8));
      const above = place.top - tip.offsetHeight - 6;
      tip.style.left = `${left + scrollX}px`;
      tip.style.top = `${(above > 0 ? above : place.bottom + 6) + scrollY}px`;
    }

    function leave() {
      if (current) current.classList.remove("current");
      current = null;
      tip.hidden = true;
    }

    // One stop of the Tab key for each sequence; arrows move within it.
    function move(event) {
      if (!event.target.matches(".token")) return;
      const all = [...event.target.parentElement.children], here = all.indexOf(event.target);
      const forward = getComputedStyle(event.target.parentElement).direction === "rtl" ? -1 : 1;
      const to = { ArrowRight: here + forward, ArrowLeft: here - forward, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = all[Math.max(0, Math.min(to, all.length - 1))];
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  }
})();
