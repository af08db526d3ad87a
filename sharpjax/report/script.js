"use strict";
// Draws the charts, and lets all of them and the tables follow one choice of a point and of
// optimizers. Everything it shows is in the page: the element "state".
(() => {
  const state = JSON.parse(document.getElementById("state").textContent);
  const MOST_ROWS = 300;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const views = new Map(); // Figure name -> Vega view.
  const hidden = new Set(); // Labels.
  const chosen = {}; // Choice -> value.
  const switches = {}; // What can be turned off -> whether it is shown.
  const tables = {}; // Name -> rows.

  const make = (tag, attributes = {}, text = "") => {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
  };
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // --- Tables ---------------------------------------------------------------------------------

  const rowsOf = (name) => {
    if (!tables[name]) {
      const columns = Object.entries(state.data[name]).map(([key, values]) => [
        key,
        Array.isArray(values) ? values : values.codes.map((code) => values.levels[code]),
      ]);
      const count = columns.length ? columns[0][1].length : 0;
      tables[name] = Array.from({ length: count }, (_, i) =>
        Object.fromEntries(columns.map(([key, values]) => [key, values[i]]))
      );
    }
    return tables[name];
  };

  const said = (value) => {
    if (value === null) return "–";
    if (typeof value !== "number" || Number.isInteger(value)) return String(value);
    const short = Number(value.toPrecision(4));
    const size = Math.abs(short);
    return size >= 1e-4 && size < 1e6 ? String(short) : short.toExponential();
  };

  const isShown = (row, at) =>
    at.every((column) => row[column] === chosen[column]) &&
    ["algorithm", "other"].every((key) => !hidden.has(state.labels[row[key]]));

  const fill = (details) => {
    const name = details.dataset.table;
    const { columns, at } = state.tables[name];
    const rows = rowsOf(name).filter((row) => isShown(row, at));
    const body = make("tbody");
    for (const row of rows.slice(-MOST_ROWS)) {
      const line = body.appendChild(make("tr"));
      for (const column of columns) {
        const value = row[column];
        const look = typeof value === "string" ? {} : { class: "number" };
        line.appendChild(make("td", look, said(value)));
      }
    }
    details.querySelector("tbody").replaceWith(body);
    all("th", details).forEach((head, i) =>
      head.classList.toggle("number", Array.isArray(state.data[name][columns[i]])));
    const part = rows.length > MOST_ROWS ? `The last ${MOST_ROWS} of ${rows.length} rows. ` : "";
    const total = rowsOf(name).length;
    details.querySelector(".shown").textContent =
      `${part}${rows.length} of ${total} rows are chosen; the CSV file has all of them.`;
  };

  const quoted = (value) => {
    const text = value === null ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };

  const csv = (name) => {
    const { columns } = state.tables[name];
    const lines = rowsOf(name).map((row) => columns.map((c) => quoted(row[c])).join(","));
    return [columns.map(quoted).join(","), ...lines].join("\r\n") + "\r\n";
  };

  const download = (name, type, text) => {
    const link = make("a", { download: name });
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  // --- Charts ---------------------------------------------------------------------------------

  const signals = () => ({
    hidden: [...hidden],
    ...switches,
    ...Object.fromEntries(Object.entries(chosen).map(([key, value]) => [`choose_${key}`, value])),
  });

  const colour = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const config = () => {
    const ink = { labelColor: colour("--ink"), titleColor: colour("--ink") };
    const font = "system-ui, sans-serif";
    return {
      background: "transparent",
      font,
      view: { stroke: null },
      axis: {
        ...ink, labelFontSize: 11.5, titleFontSize: 12, titleFontWeight: "normal",
        gridColor: colour("--line"), domainColor: colour("--faint"), tickColor: colour("--faint"),
        gridOpacity: 0.7, labelOverlap: "greedy",
      },
      // 0.001 and 10,000 are read at once; what lies beyond is a power of ten.
      axisQuantitative: { format: "~g", tickCount: 6, labelExpr: "datum.label && datum.value && "
        + "(abs(datum.value) < 1e-3 || abs(datum.value) >= 1e6) ? format(datum.value, '~e') "
        + ": datum.label" },
      legend: { ...ink, labelFontSize: 12, titleFontWeight: "normal", symbolSize: 260 },
      rule: { color: colour("--faint") },
    };
  };

  // A black line would not be seen on a dark page.
  const LIGHTER = { "#000000": "#f2f2f2", "#444444": "#bbbbbb" };
  const seen = (given) => (dark.matches && LIGHTER[given]) || given;

  const adapt = (node, scales) => {
    if (Array.isArray(node)) return node.map((item) => adapt(item, scales));
    if (typeof node === "string") return seen(node);
    if (!node || typeof node !== "object") return node;
    const copy = Object.fromEntries(Object.entries(node).map(([k, v]) => [k, adapt(v, scales)]));
    for (const axis of ["x", "y"]) {
      const channel = node.encoding && node.encoding[axis];
      if (channel && channel.field && scales[axis]) {
        copy.encoding[axis] = { ...copy.encoding[axis],
          scale: { ...channel.scale, type: scales[axis],
            ...(scales[axis] === "linear" ? { zero: false } : { zero: undefined }) } };
      }
    }
    return copy;
  };

  const named = (node, found = new Set()) => {
    if (node && typeof node === "object") {
      if (node.data && node.data.name) found.add(node.data.name);
      Object.values(node).forEach((value) => named(value, found));
    }
    return found;
  };

  const draw = async (figure) => {
    const name = figure.dataset.figure;
    const { spec, scales } = state.figures[name];
    const made = adapt(spec, scales);
    const where = figure.querySelector(".chart");
    // Vega would lay the legend out before it knows how wide the chart is.
    const columns = Math.max(1, Math.floor((where.clientWidth - 40) / 175));
    const values = { labels: state.labels, legend_columns: columns, log_x: scales.x === "log", log_y: scales.y === "log",
      ...signals() };
    made.params = [...(made.params || []),
      ...Object.entries(values).map(([key, value]) => ({ name: key, value }))];
    made.datasets = { ...made.datasets };
    for (const table of named(spec)) if (state.data[table]) made.datasets[table] = rowsOf(table);
    const { view } = await window.vegaEmbed(where, made, {
      mode: "vega-lite", renderer: "svg", actions: false, logLevel: 1, config: config(),
    });
    where.classList.remove("waiting");
    if (views.has(name)) views.get(name).finalize();
    views.set(name, view);
    view.addEventListener("click", (_, item) => clicked(item));
  };

  const clicked = (item) => {
    if (!item || !item.datum) return;
    const role = (item.mark && item.mark.role) || "";
    if (role.startsWith("legend")) {
      if (Object.values(state.labels).includes(item.datum.value)) toggle(item.datum.value);
      return;
    }
    const values = state.choices.filter((key) => item.datum[key] != null);
    const at = { ...chosen, ...Object.fromEntries(values.map((key) => [key, item.datum[key]])) };
    if (state.points.some((row) => state.choices.every((key, i) => row[i] === at[key]))) {
      Object.assign(chosen, at);
      choices();
      update();
    }
  };

  const update = () => {
    for (const view of views.values()) {
      for (const [key, value] of Object.entries(signals())) view.signal(key, value);
      view.runAsync();
    }
    all("details[data-table]").forEach((details) => details.open && fill(details));
    for (const button of all("#optimizers [data-label]")) {
      button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.label)));
    }
    for (const button of all("[data-switch]")) {
      button.setAttribute("aria-pressed", String(switches[button.dataset.switch]));
    }
    document.getElementById("optimizers").querySelector(".all").textContent =
      hidden.size ? "Show all" : "Hide all";
  };

  // --- Choices --------------------------------------------------------------------------------

  const toggle = (label) => {
    if (!hidden.delete(label)) hidden.add(label);
    update();
  };

  // Each select offers what exists beside the choices before it.
  const choices = () => {
    const form = document.getElementById("choices");
    form.replaceChildren();
    let rows = state.points;
    state.choices.forEach((key, i) => {
      const values = [...new Set(rows.map((row) => row[i]))];
      if (!values.includes(chosen[key])) chosen[key] = values[values.length - 1];
      rows = rows.filter((row) => row[i] === chosen[key]);
      if (new Set(state.points.map((row) => row[i])).size < 2) return;
      const label = form.appendChild(make("label", {}, key));
      const select = label.appendChild(make("select", { name: key }));
      values.forEach((value, j) => {
        const text = typeof value === "string" ? state.labels[value] || value : said(value);
        const option = select.appendChild(make("option", { value: j }, text));
        option.selected = value === chosen[key];
      });
      select.addEventListener("change", () => {
        chosen[key] = values[Number(select.value)];
        choices();
        update();
        form.elements[key].focus();
      });
    });
    form.hidden = !form.children.length;
  };

  const optimizers = () => {
    const group = document.getElementById("optimizers");
    for (const { name, label, colour } of state.optimizers) {
      const button = group.appendChild(make("button", { type: "button", "data-label": label,
        "aria-pressed": "true" }, label));
      button.style.setProperty("--colour", seen(colour));
      button.classList.toggle("clipped", /_clip(_update)?(:|$)/.test(name));
      button.addEventListener("click", () => toggle(label));
    }
    const every = group.appendChild(make("button", { type: "button", class: "all" }, "Hide all"));
    every.addEventListener("click", () => {
      const labels = hidden.size ? [] : state.optimizers.map((one) => one.label);
      hidden.clear();
      labels.forEach((label) => hidden.add(label));
      update();
    });
    group.hidden = !state.optimizers.length;
  };

  const button = (where, text, title, act) => {
    const made = where.appendChild(make("button", { type: "button", title }, text));
    made.addEventListener("click", act);
  };

  const tools = () => {
    for (const figure of all("figure[data-figure]")) {
      const name = figure.dataset.figure;
      const bar = figure.querySelector(".tools");
      const { scales } = state.figures[name];
      for (const [key, text] of Object.entries(state.figures[name].switches)) {
        const turn = bar.appendChild(make("button", { type: "button", "data-switch": key,
          "aria-pressed": "true" }, text));
        switches[key] = true;
        turn.addEventListener("click", () => {
          switches[key] = !switches[key];
          update();
        });
      }
      for (const axis of Object.keys(scales)) {
        const turn = bar.appendChild(make("button", { type: "button", "data-axis": axis }));
        const say = () => { turn.textContent = `${axis}: ${scales[axis]}`; };
        turn.title = "Switch between a linear and a logarithmic axis";
        turn.addEventListener("click", async () => {
          scales[axis] = scales[axis] === "log" ? "linear" : "log";
          say();
          await draw(figure);
        });
        say();
      }
      button(bar, "SVG", "Download the figure as it is now", async () => {
        // With the page's background, on which its text can be read.
        const view = views.get(name).background(colour("--paper"));
        const text = await view.toSVG();
        view.background("transparent");
        download(`${name}.svg`, "image/svg+xml", text);
      });
    }
    for (const details of all("details[data-table]")) {
      const name = details.dataset.table;
      button(details.querySelector(".tools"), "CSV", "Download the whole table",
        () => download(`${name}.csv`, "text/csv", csv(name)));
      details.addEventListener("toggle", () => details.open && fill(details));
    }
    for (const figure of all("figure[data-static]")) {
      button(figure.querySelector(".tools"), "SVG", "Download the figure", () =>
        download(`${figure.dataset.static}.svg`, "image/svg+xml",
          new XMLSerializer().serializeToString(figure.querySelector("svg"))));
    }
    for (const block of all("[data-csv]")) {
      button(block.querySelector(".tools"), "CSV", "Download the table", () => {
        const lines = all("tr", block).map((row) =>
          [...row.children].map((cell) => quoted(cell.textContent.trim())).join(","));
        download(`${block.dataset.csv}.csv`, "text/csv", lines.join("\r\n") + "\r\n");
      });
    }
  };

  // The entry of the section that is being read.
  const follow = () => {
    const links = new Map(all("nav ol a").map((a) => [a.hash.slice(1), a]));
    const watch = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        links.forEach((a, name) => a.classList.toggle("here", name === target.id));
      }
    }, { rootMargin: "-15% 0px -75% 0px" });
    all("main section").forEach((section) => watch.observe(section));
  };

  const start = async () => {
    state.choices.forEach((key, i) => { chosen[key] = state.start[i]; });
    all(".help").forEach((element) => { element.hidden = false; });
    all(".chart").forEach((element) => element.classList.add("waiting"));
    choices();
    optimizers();
    tools();
    follow();
    update();
    const redraw = async () => { for (const figure of all("figure[data-figure]")) await draw(figure); };
    await redraw();
    dark.addEventListener("change", () => {
      state.optimizers.forEach(({ label, colour }) => all("#optimizers [data-label]")
        .filter((button) => button.dataset.label === label)
        .forEach((button) => button.style.setProperty("--colour", seen(colour))));
      redraw();
    });
    let width = window.innerWidth;
    let timer = 0;
    window.addEventListener("resize", () => {
      if (window.innerWidth === width) return;
      width = window.innerWidth;
      clearTimeout(timer);
      timer = setTimeout(redraw, 300);
    });
    document.documentElement.dataset.ready = "true";
  };

  start();
})();
