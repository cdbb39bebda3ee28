// The λ explorer. Every number was computed by rdnlib/reproduction/analysis/explorer.py: here they are looked up and compared.
(() => {
  const NONE = -1;
  const [LABEL, CALIBRATED, BUDGET, ACCURACY, MADDS, SHARES, EXITS] = [0, 1, 2, 3, 4, 5, 6]; // of a method's row
  for (const root of document.querySelectorAll(".rdn-explorer:not(.rdn-x-on)")) start(root);

  function start(root) {
    const presets = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
    const one = (selector, within = root) => within.querySelector(selector);
    const all = (selector, within = root) => [...within.querySelectorAll(selector)];
    const sliders = Object.fromEntries(all("[data-handle]").map((l) => [l.dataset.handle, one("input", l)]));
    const images = all(".rdn-x-image").sort((a, b) => a.dataset.image - b.dataset.image);
    const calm = matchMedia("(prefers-reduced-motion: reduce)");
    let preset, follow, handle, position; // what the reader has chosen; follow: number of a method
    let picked = 0; // the image whose details are shown

    // --- what is stored

    const stored = (name = handle) => preset.handles[name === "own" ? preset.methods[follow].key : name];
    const rowAt = (method, at = stored().at[position]) => {
      if (preset.methods[method].key === "oracle") return preset.methods[method].rows[0];
      return at[method] === NONE ? null : preset.methods[method].rows[at[method]];
    };
    const followed = () => preset.pictures && preset.methods[follow];
    // Where the followed policy cannot be had: its cheapest member, or for a target its most accurate.
    const extreme = () => {
      const better = handle === "target" ? (a, b) => a[CALIBRATED] > b[CALIBRATED] : (a, b) => a[BUDGET] < b[BUDGET];
      return followed().rows.reduce((a, b) => (better(b, a) ? b : a));
    };
    const plane = () => one(`.rdn-x-plane[data-preset="${presets.indexOf(preset)}"]`);
    const shown = (method) => one(`[data-method="${preset.methods[method].key}"] input`, plane()).checked;

    // --- how numbers are said

    const amount = (v) => v.toFixed(v >= 100 ? 0 : v >= 10 ? 1 : 2);
    const madds = (v) => `${amount(v / preset.per)}\u00a0${preset.unit}`;
    const percent = (v) => `${v.toFixed(preset.digits)}\u00a0%`;
    const share = (v) => (preset.largest ? `${((100 * v) / preset.largest).toFixed(0)}\u00a0%` : "");
    const doll = (v) => "N" + String(v + 1).replace(/\d/g, (d) => "₀₁₂₃₄₅₆₇₈₉"[d]);
    const title = (method, row) => {
      const { name, parameter } = preset.methods[method];
      return `${name} (${parameter ? `${parameter}\u00a0=\u00a0` : ""}${row[LABEL]})`;
    };
    const value = (name, p) => {
      if (name === "target") return `${+preset.handles.target.values[p].toFixed(4)} %`;
      if (name === "budget") return madds(preset.handles.budget.values[p]);
      return rowAt(follow, stored("own").at[p])[LABEL];
    };

    // A handle that follows another says what the member that is shown has, on the calibration images.
    const said = (name, p) => {
      if (name === handle || !followed()) return value(name, p);
      const row = rowAt(follow) ?? extreme();
      return { own: row[LABEL], target: percent(row[CALIBRATED]), budget: madds(row[BUDGET]) }[name];
    };

    // --- who wins here

    // Methods that are shown and can be had, the best first: by cost for a target, else by accuracy.
    function ranking() {
      const rivals = preset.methods.map((m, i) => [i, rowAt(i)]);
      const able = rivals.filter(([i, row]) => preset.methods[i].key !== "oracle" && row && shown(i));
      const cost = (a, b) => a[1][MADDS] - b[1][MADDS];
      const accuracy = (a, b) => b[1][ACCURACY] - a[1][ACCURACY];
      return able.sort((a, b) => (handle === "target" ? cost(a, b) || accuracy(a, b) : accuracy(a, b) || cost(a, b)));
    }

    // Half the 95 % interval of the difference in accuracy of two methods; null where it is not known.
    function half(a, b) {
      if (a > b) [a, b] = [b, a];
      let pair = 0;
      const count = stored().at[position].length;
      for (let i = 0; i < a; i++) pair += count - 1 - i;
      return stored().half[position][pair + b - a - 1];
    }

    function difference(a, b) {
      const gap = a[1][ACCURACY] - b[1][ACCURACY];
      const reach = half(a[0], b[0]);
      const digits = reach !== null && Math.abs(gap).toFixed(1) === reach.toFixed(1) ? 2 : preset.digits;
      const luck = Math.abs(gap) > reach ? "more than chance" : "within chance";
      const size = Math.abs(gap) < 1e-6 ? "is equally accurate" : `is ${Math.abs(gap).toFixed(digits)} points ${gap < 0 ? "less" : "more"} accurate`;
      return size + (reach === null ? "" : ` (±${reach.toFixed(digits)}, ${luck})`);
    }

    // The best method here, and how the followed one compares; where that is the best, the second.
    function words() {
      const ranked = ranking();
      const target = handle === "target";
      const limit = handle === "own" ? madds(rowAt(follow)[BUDGET]) : value(handle, position);
      const missing = followed() && shown(follow) && !rowAt(follow);
      const most = missing && (target ? `reaches at most ${percent(extreme()[CALIBRATED])} on the calibration images` : `costs at least ${madds(extreme()[BUDGET])}`);
      const lacks = missing ? ` Not the ${followed().name}: it ${most}.` : "";
      if (!ranked.length) return `None of the methods shown ${target ? `reaches ${limit}` : `costs at most ${limit} MAdds`}.${lacks}`;
      const [best, next] = ranked;
      const [cost, accuracy] = [`${madds(best[1][MADDS])} MAdds`, `${percent(best[1][ACCURACY])} accurate`];
      const first = target
        ? `Cheapest for a target of ${limit}: <b>${title(...best)}</b>, ${cost}, ${accuracy}.`
        : `Most accurate for at most ${limit} MAdds: <b>${title(...best)}</b>, ${accuracy}, ${cost}.`;
      const own = ranked.find(([i]) => followed() && i === follow && i !== best[0]);
      const other = own ?? (missing ? null : next);
      if (!other) return first + lacks;
      const more = other[1][MADDS] - best[1][MADDS];
      const part = (100 * Math.abs(more)) / best[1][MADDS];
      const spends = part < 0.5 ? "costs as much" : `costs ${part.toFixed(0)}\u00a0% ${more > 0 ? "more" : "less"}`;
      const facts = target ? [spends, difference(other, best)] : [difference(other, best), spends];
      return `${first} ${own ? "The" : "Next:"} ${title(...other)} ${facts.join(" and ")}.${lacks}`;
    }

    // --- drawing

    function show() {
      const at = stored().at[position];
      const ranked = ranking();
      for (const [name, slider] of Object.entries(sliders)) {
        const label = slider.parentElement;
        label.hidden = name === "own" && !followed();
        if (label.hidden) continue;
        if (name === "own") label.firstChild.textContent = followed().parameter;
        slider.max = stored(name).at.length - 1;
        slider.value = name === handle ? position : nearest(name);
        label.classList.toggle("rdn-x-moved", name === handle);
        one("output", label).textContent = said(name, slider.value);
        slider.setAttribute("aria-valuetext", spoken(name, slider.value, ranked));
      }
      one(".rdn-x-words").innerHTML = words();
      for (const svg of all(":scope > svg", plane())) svg.setAttribute("aria-label", `Accuracy against MAdds. ${one(".rdn-x-words").textContent}`);
      preset.methods.forEach((method, i) => {
        const row = rowAt(i, at);
        const line = one(`[data-method="${method.key}"]`, plane());
        const dot = one(`[data-dot="${method.key}"]`, plane());
        const [[left, across], [top, up]] = preset.plane;
        line.classList.toggle("rdn-x-best", ranked[0]?.[0] === i);
        const texts = row
          ? [method.parameter === "λ" ? `λ\u00a0=\u00a0${row[LABEL]}` : row[LABEL] || "–", percent(row[ACCURACY]), `${madds(row[MADDS])}${preset.largest ? ` (${share(row[MADDS])})` : ""}`]
          : ["–", "–", "–"];
        all("td", line).forEach((cell, c) => (cell.textContent = texts[c]));
        one(`[id$="curve-${method.key}"]`, plane()).style.display = shown(i) ? "" : "none";
        dot.setAttribute("display", row && shown(i) ? "inline" : "none");
        if (row) dot.setAttribute("cx", left + across * row[MADDS]);
        if (row) dot.setAttribute("cy", top + up * row[ACCURACY]);
      });
      if (followed()) move(rowAt(follow) ?? extreme());
    }

    // The position of another handle that is nearest to the member shown.
    function nearest(name) {
      const row = followed() ? (rowAt(follow) ?? extreme()) : (ranking()[0]?.[1] ?? preset.methods[0].rows[0]);
      const { values, at } = stored(name);
      const column = name === "target" ? CALIBRATED : BUDGET;
      const numbers = values ?? at.map((each) => rowAt(follow, each)[BUDGET]);
      return numbers.reduce((best, v, i) => (Math.abs(v - row[column]) < Math.abs(numbers[best] - row[column]) ? i : best), 0);
    }

    function spoken(name, p, ranked) {
      const method = followed() ? follow : ranked[0]?.[0];
      const row = method === undefined ? null : rowAt(method);
      const begin = `${name === "own" ? `${followed().parameter} =` : name} ${said(name, p)}`;
      if (!row) return `${begin}: out of reach`;
      const whole = preset.largest ? `, ${share(row[MADDS])} of N${preset.k}` : "";
      return `${begin}: ${name === "own" ? "" : `${title(method, row)}, `}accuracy ${percent(row[ACCURACY])}, ${madds(row[MADDS])} MAdds${whole}`;
    }

    // Put every image below its exit, and let it travel there.
    function move(row) {
      const columns = all(".rdn-x-images");
      const before = images.map((image) => image.getBoundingClientRect());
      const focus = document.activeElement;
      const exits = [...row[EXITS]].map((digit) => parseInt(digit, 36));
      const { name, right } = preset.pictures;
      images.forEach((image, i) => {
        if (image.parentElement !== columns[exits[i]]) {
          const later = [...columns[exits[i]].children].find((other) => +other.dataset.image > i);
          columns[exits[i]].insertBefore(image, later ?? null);
        }
        image.classList.toggle("rdn-x-wrong", !right[i][exits[i]]);
        image.tabIndex = i === picked ? 0 : -1;
        image.setAttribute("aria-pressed", i === picked);
        image.setAttribute("aria-label", `${name[i]}, leaves at ${doll(exits[i])}, ${right[i][exits[i]] ? "right" : "wrong"}`);
      });
      if (images.includes(focus)) focus.focus({ preventScroll: true });
      all(".rdn-x-share").forEach((cell, v) => (cell.textContent = `${(row[SHARES][v] / 10).toFixed(0)} %`));
      if (!calm.matches) {
        images.forEach((image, i) => {
          const now = image.getBoundingClientRect();
          const [dx, dy] = [before[i].x - now.x, before[i].y - now.y];
          if (dx || dy) image.animate([{ transform: `translate(${dx}px,${dy}px)` }, { transform: "none" }], { duration: 350, easing: "ease-out" });
        });
      }
      detail(exits[picked]);
    }

    // The chosen image: its p_v, whether each sub-network is right, and what leaving there costs.
    function detail(exit) {
      const { name, right, p } = preset.pictures;
      const lines = p[picked].map((each, v) => {
        const colour = all(".rdn-x-exit")[v].style.backgroundColor;
        return `<tr class="${v === exit ? "rdn-x-here" : ""}"><th scope="row">${doll(v)}</th><td><span class="rdn-x-bar" style="width:${each}%;background:${colour}"></span>${each} %</td><td>${right[picked][v] ? "right" : "wrong"}</td><td>${madds(followed().costs[v])}</td></tr>`;
      });
      const other = followed().key === "dynamic" ? "" : " The bars are the paper’s policy’s, which decides once, after N₁.";
      one(".rdn-x-detail").innerHTML = `<img class="dark-light" alt="" src="${one("img", images[picked]).src}"><div><p></p><table><thead><tr><th scope="col">exit</th><th scope="col">p<sub>v</sub>: is N<sub>v</sub> right?</th><th scope="col">answer</th><th scope="col">MAdds</th></tr></thead><tbody>${lines.join("")}</tbody></table></div>`;
      one(".rdn-x-detail p").textContent = `${name[picked]}: leaves at ${doll(exit)}, ${madds(followed().costs[exit])} MAdds, ${right[picked][exit] ? "right" : "wrong"}.${other}`;
    }

    // --- what the reader does

    function choose(number) {
      preset = presets[number];
      const begin = preset.start ?? { handle: "budget", position: Math.floor(preset.handles.budget.at.length / 2) };
      ({ handle, position } = begin);
      follow = Math.max(0, preset.methods.findIndex((method) => method.key === begin.follow));
      one('[data-choice="follow"]').value = preset.methods[follow].key;
      for (const part of all("[data-run]")) part.hidden = !preset.pictures;
      for (const part of all("[data-preset]")) part.hidden = part.dataset.preset !== String(number);
      show();
    }

    for (const [name, slider] of Object.entries(sliders)) {
      slider.addEventListener("input", () => {
        [handle, position] = [name, +slider.value];
        show();
      });
    }
    one('[data-choice="preset"]').addEventListener("change", (event) => choose(+event.target.value));
    one('[data-choice="follow"]').addEventListener("change", (event) => {
      const place = rowAt(follow) ?? extreme();
      follow = preset.methods.findIndex((method) => method.key === event.target.value);
      if (handle === "own") {
        const costs = stored().at.map((at) => rowAt(follow, at)[BUDGET]);
        position = costs.reduce((best, v, i) => (Math.abs(v - place[BUDGET]) < Math.abs(costs[best] - place[BUDGET]) ? i : best), 0);
      }
      show();
    });
    for (const box of all(".rdn-x-plane input")) box.addEventListener("change", show);
    const pick = (image) => {
      picked = images.indexOf(image);
      image.focus({ preventScroll: true });
      show();
    };
    for (const image of images) image.addEventListener("click", () => pick(image));
    one(".rdn-x-columns").addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const order = all(".rdn-x-image"); // as they stand
      pick(order[(order.indexOf(images[picked]) + step + order.length) % order.length]);
    });

    root.classList.add("rdn-x-on");
    choose(0);
  }
})();
