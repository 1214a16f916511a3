/* One schedule in detail: the pickers, its timeline, its links, its ranks. The last script: it starts the page. */

const SHOWN_LINKS = 12;

function legendOfKinds() {
  const words = {
    compute: "compute", merge: "merge: results that arrived are added", post: "post: messages are packed and handed over",
    send: "send", receive: "receive", wait: "wait",
  };
  for (const [kind, text] of Object.entries(words)) {
    byId("kinds").append(element("li", {}, element(kind === "wait" ? "span.wait" : `span.kind-${kind}`), text));
  }
  byId("kinds").append(element("li", {}, element("span.outline"), "paler, outlined: predicted"), element("li", {}, "numbers: steps"));
}

function drawLinks(links, seconds, all = false) {
  const home = byId("links");
  home.replaceChildren();
  if (!links.length) {
    home.append(element("p.hint", {}, "No cluster was described, so nothing is known of its links."));
    return;
  }
  const longest = Math.max(...links.map((link) => link[2])) || 1;
  const list = element("div.load");
  for (const [name, bytes, time] of all ? links : links.slice(0, SHOWN_LINKS)) {
    const bar = element("div.bar");
    bar.style.width = `${(100 * time) / longest}%`;
    const words = `${milliseconds(time)}, ${mebibytes(bytes)} MiB`;
    const track = element("div.track", { role: "img", "aria-label": `${name}: ${words}` }, bar);
    list.append(element("div.name", {}, name), track, element("div.value", {}, words));
  }
  home.append(list, element("p.hint", {}, `Time is bytes over bandwidth; the pass took ${milliseconds(seconds)}.`));
  if (!all && links.length > SHOWN_LINKS) {
    const more = element("button.more", { type: "button" }, `Show all ${links.length} links`);
    more.addEventListener("click", () => drawLinks(links, seconds, true));
    home.append(more);
  }
}

function drawRanks(result, run) {
  const columns = [
    ["rank", (rank) => String(rank)],
    ["host", (rank) => setup.hosts[rank] ?? ""],
    ["ms", (rank) => digits(run.byRank[rank] * 1e3)],
    ["ms waiting", (rank) => digits((run.exposed[rank] ?? 0) * 1e3)],
    ["predicted waiting", (rank) => (rank in run.predictedExposed ? digits(run.predictedExposed[rank] * 1e3) : "-")],
    ["MiB up", (rank) => mebibytes(run.up[rank] ?? 0)],
    ["MiB down", (rank) => mebibytes(run.down[rank] ?? 0)],
    ["MiB received", (rank) => mebibytes(run.received[rank] ?? 0)],
    ["MiB of buffers", (rank) => (rank in result.buffers ? mebibytes(result.buffers[rank]) : "-")],
    ["MiB at the peak", (rank) => (rank in result.memory ? mebibytes(result.memory[rank]) : "-")],
  ];
  const head = element("tr", {}, ...columns.map(([name]) => element("th", { scope: "col" }, name)));
  const rows = run.byRank.map((_, rank) =>
    element("tr", {}, ...columns.map(([, cell], n) => element(n ? "td" : "th", n ? {} : { scope: "row" }, cell(rank)))),
  );
  byId("ranks").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function startDetail() {
  const pickers = byId("pickers");
  const schedule = byId("pick-schedule");
  const directions = [...pickers.elements.direction];
  for (const result of ran) schedule.append(element("option", { value: result.index }, result.schedule));
  const say = ([from, to]) => {
    byId("view").textContent = `${milliseconds(from / 1e6)} to ${milliseconds(to / 1e6)} of ${milliseconds(timeline.whole / 1e6)}`;
  };
  const timeline = new Timeline(byId("timeline"), byId("canvas"), byId("spacer"), say);
  new Hand(timeline, (words) => (byId("event").textContent = words.join("; ")));

  function update() {
    const result = results[Number(schedule.value)];
    for (const radio of directions) radio.disabled = !result.passes[radio.value];
    if (directions.every((radio) => radio.disabled || !radio.checked)) directions.find((radio) => !radio.disabled).checked = true;
    const direction = pickers.elements.direction.value;
    const run = result.passes[direction];
    const source = byId("pick-source").value;
    const data = read(`timeline-${schedule.value}-${direction}`);
    timeline.arrows = byId("pick-arrows").checked;
    timeline.show(data, source === "both" ? ["measured", "predicted"] : [source]);
    byId("event").textContent = timeline.lanes.length ? "" : `No ${source === "both" ? "" : `${source} `}timeline was kept.`;
    byId("timeline").setAttribute("aria-label", `Timeline of the ranks: ${result.schedule}, ${direction}`);
    for (const button of document.querySelectorAll("button.name")) {
      button.setAttribute("aria-pressed", button.dataset.index === schedule.value && button.dataset.direction === direction);
    }
    drawLinks(run.links, run.seconds);
    drawRanks(result, run);
  }

  function choose(index, direction) {
    schedule.value = index;
    directions.find((radio) => radio.value === direction).checked = true;
    update();
    byId("detail").scrollIntoView();
    byId("timeline").focus({ preventScroll: true });
  }

  const tools = {
    in: () => timeline.zoom(1 / 1.5),
    out: () => timeline.zoom(1.5),
    left: () => timeline.pan((timeline.view[0] - timeline.view[1]) / 4),
    right: () => timeline.pan((timeline.view[1] - timeline.view[0]) / 4),
    whole: () => timeline.look(0, timeline.whole),
  };
  for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", tools[button.dataset.tool]);
  pickers.addEventListener("change", (event) => {
    if (event.target.id !== "pick-arrows") return update();
    timeline.arrows = event.target.checked;
    timeline.draw();
  });
  pickers.addEventListener("submit", (event) => event.preventDefault());
  for (const direction of ["forward", "backward"]) drawBars(direction, choose);
  legendOfKinds();
  update();
}

makeSortable(document.querySelector("#table table"));
if (ran.length) startDetail();
else byId("detail").hidden = true;
