/* The timeline: lanes of each rank on one time axis, drawn on a canvas as large as what is seen of it. Only lanes in
   view are drawn, so that 64 ranks cost no more than 8. Times are in microseconds. */

const LANES = ["compute", "send", "receive", "wait"];
const KINDS = ["compute", "merge", "post", "send", "receive", "wait"];
const GUTTER = 66;
const AXIS = 26;
const laneOf = (kind) => (LANES.includes(kind) ? kind : "compute");
const colorOf = (kind) => (KINDS.includes(kind) ? kind : "post");

class Timeline {
  constructor(box, canvas, spacer, changed) {
    Object.assign(this, { box, canvas, spacer, changed, lanes: [], view: [0, 1], whole: 1, arrows: false, chosen: null });
    this.context = canvas.getContext("2d");
    this.pending = false;
    new ResizeObserver(() => this.resize()).observe(box);
    box.addEventListener("scroll", () => this.draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.restyle());
  }

  /* data: { kinds, measured, predicted }, see `timelines` in comparison_page.py; sources: which of the two. */
  show(data, sources) {
    this.data = data;
    this.sources = sources.filter((source) => data[source].length);
    this.chosen = null;
    const all = this.sources.flatMap((source) => data[source]);
    this.whole = Math.max(1, ...all.map((rank) => rank.start.reduce((end, start, n) => Math.max(end, start + rank.length[n]), 0)));
    this.lay(all);
    this.view = [0, this.whole];
    this.box.scrollTop = 0;
    this.resize();
  }

  /* Lanes from the top down; one that no rank of a source uses, as where messages were not measured, is left out. */
  lay(all) {
    const { kinds } = this.data;
    const filled = (source, lane) => this.data[source].some((rank) => rank.kind.some((kind) => laneOf(kinds[kind]) === lane));
    const lanes = new Map(this.sources.map((source) => [source, LANES.filter((lane) => lane === "compute" || filled(source, lane))]));
    const ranks = [...new Set(all.map(({ rank }) => rank))].sort((a, b) => a - b);
    const byRank = new Map(this.sources.map((source) => [source, new Map(this.data[source].map((of) => [of.rank, of]))]));
    this.lanes = [];
    this.titles = [];
    this.place = new Map();
    let y = AXIS + 2;
    for (const rank of ranks) {
      const top = y;
      for (const source of this.sources) {
        const events = byRank.get(source).get(rank);
        if (!events) continue;
        this.titles.push({ rank, source, y: y + 13 });
        y += 18;
        const groups = new Map(lanes.get(source).map((lane) => [lane, []]));
        events.kind.forEach((kind, n) => groups.get(laneOf(kinds[kind])).push(n));
        for (const [lane, numbers] of groups) {
          numbers.sort((a, b) => events.start[a] - events.start[b]);
          const rows = numbers.reduce((most, n) => Math.max(most, events.row[n] + 1), 1);
          const height = Math.min(30, Math.max(13, 5 * rows));
          this.place.set(`${source} ${rank} ${lane}`, this.lanes.length);
          this.lanes.push({ rank, source, lane, events, numbers, rows, y, height });
          y += height + 2;
        }
        y += 3;
      }
      y += 6;
      this.titles[this.titles.length - 1].ground = [top, y - 3];
    }
    this.height = y;
  }

  resize() {
    this.spacer.style.height = `${this.height || 80}px`;
    this.width = this.box.clientWidth;
    this.seen = Math.min(this.height || 80, this.box.clientHeight);
    const scale = devicePixelRatio || 1;
    this.canvas.width = Math.round(this.width * scale);
    this.canvas.height = Math.round(this.seen * scale);
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${this.seen}px`;
    this.scale = scale;
    this.restyle();
  }

  /* Colors are those of the style sheet, which follow the reader's choice of light or dark. */
  restyle() {
    const style = getComputedStyle(document.documentElement);
    const names = ["ground", "panel", "ink", "faint", "line", "focus", ...KINDS, ...KINDS.map((kind) => `on-${kind}`)];
    this.colors = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const pen = tile.getContext("2d");
    pen.strokeStyle = this.colors.wait;
    pen.lineWidth = 1.6;
    for (const shift of [-6, 0, 6]) {
      pen.moveTo(shift - 1, 7);
      pen.lineTo(shift + 7, -1);
    }
    pen.stroke();
    this.hatch = this.context.createPattern(tile, "repeat");
    this.draw();
  }

  x(time) {
    return GUTTER + ((time - this.view[0]) / (this.view[1] - this.view[0])) * (this.width - GUTTER - 8);
  }

  time(x) {
    return this.view[0] + ((x - GUTTER) / (this.width - GUTTER - 8)) * (this.view[1] - this.view[0]);
  }

  /* factor < 1 shows less time; what lies at x stays there. */
  zoom(factor, x = (this.width + GUTTER) / 2) {
    const at = this.time(Math.max(GUTTER, x));
    const span = Math.min(this.whole, Math.max(this.whole * 1e-5, (this.view[1] - this.view[0]) * factor));
    const share = (at - this.view[0]) / (this.view[1] - this.view[0]);
    this.look(at - share * span, span);
  }

  pan(time) {
    this.look(this.view[0] + time, this.view[1] - this.view[0]);
  }

  look(start, span) {
    const from = Math.min(Math.max(0, start), this.whole - span);
    this.view = [from, from + span];
    this.draw();
  }

  draw() {
    if (this.pending || !this.data) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.paint();
    });
  }

  paint() {
    const pen = this.context;
    const top = this.box.scrollTop;
    pen.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    pen.fillStyle = this.colors.ground;
    pen.fillRect(0, 0, this.width, this.seen);
    pen.translate(0, -top);
    pen.fillStyle = this.colors.panel;
    this.titles.forEach(({ rank, ground }) => ground && rank % 2 === 0 && pen.fillRect(0, ground[0], this.width, ground[1] - ground[0]));
    const marks = ticks(...this.view, (this.width - GUTTER) / 95);
    pen.fillStyle = this.colors.line;
    for (const mark of marks.found) pen.fillRect(Math.round(this.x(mark)), top, 1, this.seen);
    const inView = this.lanes.filter((lane) => lane.y + lane.height > top && lane.y < top + this.seen);
    this.paintTitles(pen, top);
    pen.save();
    pen.beginPath();
    pen.rect(GUTTER, top, this.width - GUTTER, this.seen);
    pen.clip();
    for (const lane of inView) this.paintLane(pen, lane);
    if (this.arrows) for (const lane of inView) if (lane.lane === "send") for (const n of lane.numbers) this.paintArrow(pen, lane, n, 0.5);
    if (this.chosen) this.paintChosen(pen);
    pen.restore();
    this.paintAxis(pen, top, marks);
    this.changed(this.view);
  }

  paintTitles(pen, top) {
    pen.textBaseline = "alphabetic";
    for (const { rank, source, y } of this.titles) {
      if (y < top || y > top + this.seen + 14) continue;
      pen.textAlign = "left";
      pen.fillStyle = this.colors.ink;
      pen.font = "600 12px ui-sans-serif, system-ui, 'DejaVu Sans', sans-serif";
      const words = `rank ${rank}`;
      pen.fillText(words, 8, y);
      const end = GUTTER + 2;
      pen.fillStyle = this.colors.faint;
      pen.font = "12px ui-sans-serif, system-ui, 'DejaVu Sans', sans-serif";
      pen.fillText(`${source}${source === this.sources[0] ? `, ${setup.hosts[rank] ?? ""}` : ""}`, end, y);
    }
    pen.font = "11px ui-sans-serif, system-ui, 'DejaVu Sans', sans-serif";
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    pen.fillStyle = this.colors.faint;
    for (const { lane, y, height } of this.lanes) {
      if (y + height > top && y < top + this.seen) pen.fillText(lane, GUTTER - 7, y + height / 2);
    }
  }

  paintLane(pen, lane) {
    const { events, numbers, source } = lane;
    const predicted = source === "predicted";
    const height = lane.height / lane.rows;
    const drawn = new Array(lane.rows).fill(-1);
    pen.textAlign = "center";
    pen.font = "10.5px ui-sans-serif, system-ui, 'DejaVu Sans', sans-serif";
    pen.fillStyle = this.colors.line;
    pen.fillRect(GUTTER, lane.y + lane.height, this.width - GUTTER, 0.5);
    for (const n of numbers) {
      const left = this.x(events.start[n]);
      if (left > this.width) break;
      const right = this.x(events.start[n] + events.length[n]);
      const row = events.row[n];
      /* An event behind less than half a pixel that is drawn already would not be seen. */
      if (right < GUTTER || right <= drawn[row] + 0.5) continue;
      drawn[row] = right;
      const kind = colorOf(this.data.kinds[events.kind[n]]);
      const wide = Math.max(1, right - left - (right - left > 4 ? 1 : 0));
      const y = lane.y + row * height;
      const tall = Math.max(1, height - (lane.rows > 1 ? 0.7 : 0));
      pen.globalAlpha = predicted ? 0.55 : 1;
      pen.fillStyle = kind === "wait" && wide > 3 ? this.hatch : this.colors[kind];
      pen.fillRect(left, y, wide, tall);
      pen.globalAlpha = 1;
      if ((kind === "wait" || predicted) && wide > 3 && tall > 4) {
        pen.strokeStyle = this.colors[kind];
        pen.lineWidth = 1;
        pen.strokeRect(left + 0.5, y + 0.5, wide - 1, tall - 1);
      }
      const label = String(events.step[n]);
      if (wide > 7 * label.length + 6 && tall >= 11 && kind !== "wait") {
        pen.fillStyle = predicted ? this.colors.ink : this.colors[`on-${kind}`];
        const seen = (Math.max(left, GUTTER) + Math.min(left + wide, this.width)) / 2;
        pen.fillText(label, seen, y + tall / 2 + 0.5);
      }
    }
  }

  paintAxis(pen, top, { found, decimals }) {
    pen.fillStyle = this.colors.ground;
    pen.fillRect(0, top, this.width, AXIS);
    pen.fillStyle = this.colors.faint;
    pen.font = "11px ui-sans-serif, system-ui, 'DejaVu Sans', sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "left";
    pen.fillText("ms", 8, top + AXIS / 2);
    pen.textAlign = "center";
    for (const mark of found) {
      const words = (mark / 1e3).toFixed(Math.min(6, decimals + 3)).replace(/\.?0+$/, "");
      pen.fillText(words, Math.min(Math.max(this.x(mark), GUTTER), this.width - 18), top + AXIS / 2);
    }
    pen.fillStyle = this.colors.line;
    pen.fillRect(0, top + AXIS - 1, this.width, 1);
  }

  /* Where an event lies on the canvas, or null where its lane is not shown. */
  spot(source, rank, n) {
    const events = this.data[source].find((of) => of.rank === rank);
    const lane = events && this.lanes[this.place.get(`${source} ${rank} ${laneOf(this.data.kinds[events.kind[n]])}`)];
    if (!lane) return null;
    const y = lane.y + ((events.row[n] + 0.5) * lane.height) / lane.rows;
    return { left: this.x(events.start[n]), right: this.x(events.start[n] + events.length[n]), y, lane };
  }

  /* From the begin of a send to the end of its receive; n is either of them. */
  paintArrow(pen, lane, n, alpha) {
    const { events, source, rank } = lane;
    if (events.pair[n] < 0) return;
    const here = this.spot(source, rank, n);
    const there = this.spot(source, events.peer[n], events.pair[n]);
    if (!here || !there) return;
    const [from, to] = lane.lane === "send" ? [here, there] : [there, here];
    const angle = Math.atan2(to.y - from.y, to.right - from.left);
    pen.globalAlpha = alpha;
    pen.strokeStyle = pen.fillStyle = this.colors.ink;
    pen.lineWidth = 1.4;
    pen.beginPath();
    pen.moveTo(from.left, from.y);
    pen.lineTo(to.right, to.y);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(to.right, to.y);
    for (const turn of [-0.4, 0.4]) pen.lineTo(to.right - 9 * Math.cos(angle + turn), to.y - 9 * Math.sin(angle + turn));
    pen.fill();
    pen.globalAlpha = 1;
  }

  paintChosen(pen) {
    const { lane, n } = this.chosen;
    if (n === null) return;
    const { left, right, y } = this.spot(lane.source, lane.rank, n);
    const tall = lane.height / lane.rows;
    pen.strokeStyle = this.colors.ink;
    pen.lineWidth = 2;
    pen.strokeRect(left - 1, y - tall / 2 - 1, Math.max(3, right - left) + 1, tall + 2);
    if (lane.lane === "send" || lane.lane === "receive") this.paintArrow(pen, lane, n, 1);
  }
}
