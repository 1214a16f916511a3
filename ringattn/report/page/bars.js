/* Bars of the measured times, with the predictions and the bounds on the same scale. */

function drawBars(direction, choose) {
  const shown = ran.filter((result) => result.passes[direction]);
  shown.sort((a, b) => a.passes[direction].seconds - b.passes[direction].seconds);
  const home = byId(`bars-${direction}`);
  if (!shown.length) {
    home.append(element("p.hint", {}, "Nothing was run."));
    return;
  }
  const ends = shown.flatMap(({ passes: { [direction]: run } }) => [
    run.spread[1], run.predicted || 0, run.computeBound, run.wireBound || 0,
  ]);
  const largest = Math.max(...ends) * 1.03;
  const place = (seconds) => `${(100 * seconds) / largest}%`;
  const list = element("div.bars");
  const decimals = decimalsOf(Math.max(...shown.map((result) => result.passes[direction].seconds)) * 1e3);
  for (const result of shown) list.append(bar(result, direction, place, decimals, choose));
  const axis = element("div.axis", { "aria-hidden": "true" });
  const marks = ticks(0, largest * 1e3, 4);
  for (const mark of marks.found) {
    const label = element("span", {}, mark.toFixed(marks.decimals) + (mark ? "" : " ms"));
    label.style.left = place(mark / 1e3);
    axis.append(label);
  }
  list.append(axis);
  home.append(list);
}

function bar(result, direction, place, decimals, choose) {
  const run = result.passes[direction];
  const words = barWords(run);
  const name = element("button.name", { type: "button", "data-index": result.index, "data-direction": direction }, ...breakable(result.schedule));
  name.addEventListener("click", () => choose(result.index, direction));
  const track = element("div.track", { role: "img", "aria-label": `${result.schedule} ${direction}: ${words.join(", ")}` });
  const add = (kind, left, right) => {
    const part = element(`div.${kind}`);
    if (kind !== "bar") part.style.left = place(left);
    if (right !== undefined) part.style.width = place(right - left);
    track.append(part);
  };
  add("bar", 0, run.seconds);
  add("spread", run.spread[0], run.spread[1]);
  add("bound.compute", run.computeBound);
  if (run.wireBound !== null) add("bound.wire", run.wireBound);
  if (run.predicted !== null) add("predicted", run.predicted);
  track.addEventListener("pointermove", (event) => showTip([`${result.schedule} ${direction}`, ...words].join("\n"), event.clientX, event.clientY));
  track.addEventListener("pointerleave", hideTip);
  const off = run.off === null ? "" : `predicted ${percent(run.off)}`;
  const value = element("div.value", {}, `${digits(run.seconds * 1e3, decimals)} ms`, element("small", {}, off));
  return element("div.row", {}, name, track, value);
}

function barWords(run) {
  const words = [
    `measured ${milliseconds(run.seconds)} (${milliseconds(run.spread[0])} to ${milliseconds(run.spread[1])})`,
  ];
  if (run.predicted !== null) words.push(`predicted ${milliseconds(run.predicted)}, ${percent(run.off)}`);
  words.push(`compute bound ${milliseconds(run.computeBound)}`);
  if (run.wireBound !== null) words.push(`wire bound ${milliseconds(run.wireBound)}`);
  words.push(`reaches ${Math.round(100 * run.achieved)}% of its ${run.boundBy} bound`);
  return words;
}
