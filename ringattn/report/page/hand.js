/* How a timeline is moved and read: wheel, drag, pinch, tap, keys. */

class Hand {
  constructor(timeline, tell) {
    this.timeline = timeline;
    this.tell = tell;
    this.fingers = new Map();
    this.moved = 0;
    const { box } = timeline;
    box.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    box.addEventListener("pointerdown", (event) => this.down(event));
    box.addEventListener("pointermove", (event) => this.move(event));
    box.addEventListener("pointerup", (event) => this.up(event));
    box.addEventListener("pointercancel", (event) => this.lift(event));
    box.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && !this.fingers.size && this.choose(null));
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("blur", hideTip);
  }

  at(event) {
    const around = this.timeline.canvas.getBoundingClientRect();
    return { x: event.clientX - around.left, y: event.clientY - around.top + this.timeline.box.scrollTop };
  }

  wheel(event) {
    const { timeline } = this;
    const sideways = event.shiftKey ? event.deltaY || event.deltaX : Math.abs(event.deltaX) > Math.abs(event.deltaY) ? event.deltaX : 0;
    if (!event.ctrlKey && !event.metaKey && sideways) {
      timeline.pan(timeline.time(sideways) - timeline.time(0));
    } else if (event.ctrlKey || event.metaKey || document.activeElement === timeline.box) {
      timeline.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * (event.ctrlKey ? 0.01 : 0.004)), this.at(event).x);
    } else {
      return;
    }
    event.preventDefault();
  }

  down(event) {
    if (event.button) return;
    this.fingers.set(event.pointerId, event);
    this.moved = 0;
    this.timeline.box.setPointerCapture(event.pointerId);
  }

  move(event) {
    const { timeline, fingers } = this;
    const before = fingers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") this.choose(this.hit(event), event);
      return;
    }
    const others = [...fingers.values()].filter((finger) => finger.pointerId !== event.pointerId);
    this.moved += Math.abs(event.clientX - before.clientX) + Math.abs(event.clientY - before.clientY);
    if (others.length) {
      const distance = (finger) => Math.max(20, Math.abs(finger.clientX - others[0].clientX));
      const middle = (this.at(event).x + this.at(others[0]).x) / 2;
      timeline.pan(timeline.time(0) - timeline.time((event.clientX - before.clientX) / 2));
      timeline.zoom(distance(before) / distance(event), middle);
    } else if (this.moved > 4) {
      timeline.box.classList.add("dragged");
      this.choose(null);
      timeline.pan(timeline.time(before.clientX) - timeline.time(event.clientX));
      if (event.pointerType === "mouse") timeline.box.scrollTop -= event.clientY - before.clientY;
    }
    fingers.set(event.pointerId, event);
  }

  up(event) {
    const tapped = this.fingers.size === 1 && this.moved <= 4;
    this.lift(event);
    if (tapped) this.choose(this.hit(event), event);
  }

  lift(event) {
    this.fingers.delete(event.pointerId);
    this.timeline.box.classList.remove("dragged");
  }

  /* The event at the pointer, or the nearest one within four pixels. */
  hit(event) {
    const { timeline } = this;
    const { x, y } = this.at(event);
    const lane = x < GUTTER || y < timeline.box.scrollTop + AXIS ? null : timeline.lanes.find((of) => y >= of.y && y < of.y + of.height + 2);
    if (!lane) return null;
    const row = Math.min(lane.rows - 1, Math.floor(((y - lane.y) / lane.height) * lane.rows));
    let best = null;
    let nearest = 4;
    for (const n of lane.numbers) {
      if (lane.events.row[n] !== row) continue;
      const left = timeline.x(lane.events.start[n]);
      const right = timeline.x(lane.events.start[n] + lane.events.length[n]);
      const away = x < left ? left - x : x > right ? x - right : 0;
      if (away < nearest || (away === 0 && nearest === 0)) [best, nearest] = [{ lane, n }, away];
    }
    return best;
  }

  choose(chosen, event = null) {
    const { timeline } = this;
    const same = chosen && timeline.chosen && chosen.lane === timeline.chosen.lane && chosen.n === timeline.chosen.n;
    timeline.chosen = chosen;
    if (chosen && event) showTip(eventWords(timeline, chosen).join("\n"), event.clientX, event.clientY);
    else hideTip();
    if (same) return;
    if (chosen) this.tell(eventWords(timeline, chosen));
    timeline.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { timeline } = this;
    const span = timeline.view[1] - timeline.view[0];
    const actions = {
      ArrowLeft: () => timeline.pan(-span / 8),
      ArrowRight: () => timeline.pan(span / 8),
      "+": () => timeline.zoom(1 / 1.5),
      "=": () => timeline.zoom(1 / 1.5),
      "-": () => timeline.zoom(1.5),
      0: () => timeline.look(0, timeline.whole),
      j: () => this.step(1, 0),
      k: () => this.step(-1, 0),
      ".": () => this.step(0, 1),
      ",": () => this.step(0, -1),
      Escape: () => this.choose(null),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    action();
    event.preventDefault();
  }

  /* Another lane, at about the same time, or another event of the same lane; what is chosen is brought into view. */
  step(lanes, events) {
    const { timeline } = this;
    const filled = timeline.lanes.filter((lane) => lane.numbers.length);
    if (!filled.length) return;
    const last = timeline.chosen;
    let lane = last ? last.lane : filled[0];
    let at = last ? lane.numbers.indexOf(last.n) : 0;
    if (last && lanes) {
      const start = lane.events.start[last.n];
      lane = filled[Math.min(filled.length - 1, Math.max(0, filled.indexOf(lane) + lanes))];
      const after = lane.numbers.findIndex((n) => lane.events.start[n] >= start);
      at = after < 0 ? lane.numbers.length - 1 : after;
    } else if (last) {
      at = Math.min(lane.numbers.length - 1, Math.max(0, at + events));
    }
    const n = lane.numbers[at];
    const { box, view } = timeline;
    if (lane.y < box.scrollTop + AXIS + 20) box.scrollTop = lane.y - AXIS - 20;
    if (lane.y + lane.height > box.scrollTop + timeline.seen) box.scrollTop = lane.y + lane.height + 20 - timeline.seen;
    const middle = lane.events.start[n] + lane.events.length[n] / 2;
    if (middle < view[0] || middle > view[1]) timeline.look(middle - (view[1] - view[0]) / 2, view[1] - view[0]);
    this.choose({ lane, n });
  }
}

/* What an event is, line by line. */
function eventWords(timeline, { lane, n }) {
  const { events, source, rank } = lane;
  const kind = timeline.data.kinds[events.kind[n]];
  const seconds = events.length[n] / 1e6;
  const start = events.start[n] / 1e6;
  const words = [`${kind}, step ${events.step[n]}`, `rank ${rank}, ${source}`];
  words.push(`${milliseconds(seconds)}, from ${milliseconds(start)} to ${milliseconds(start + seconds)}`);
  if (events.peer[n] >= 0) words.push(`${kind === "send" ? "to" : kind === "receive" ? "from" : "peer:"} rank ${events.peer[n]}`);
  if (events.bytes[n]) {
    const moves = kind === "send" || kind === "receive";
    const rate = moves && seconds > 0 ? `, ${digits(events.bytes[n] / seconds / 1e9)} GB/s` : "";
    words.push(`${mebibytes(events.bytes[n])} MiB${rate}`);
  }
  return words;
}
