// Tables and figures that are wider than the page, and a search that needs no server.

// Each gets a box that scrolls by itself, says that there is more to see, and can be reached by keyboard.
function boxed(table) {
  const box = document.createElement("div");
  box.className = "rdn-scroll";
  table.before(box);
  box.append(table);
  return box;
}

function mark(box) {
  const hidden = box.scrollWidth - box.clientWidth > 1;
  const right = box.scrollWidth - box.clientWidth - box.scrollLeft > 1;
  box.parentElement.dataset.more = hidden ? `${box.scrollLeft > 1 ? "left " : ""}${right ? "right" : ""}` : "none";
  if (hidden) {
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    const what = box.querySelector("caption")?.textContent.trim() || (box.querySelector("table") ? "Table" : "Figure");
    box.setAttribute("aria-label", `${what}, scrolls sideways`);
  } else {
    for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
  }
}

document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll(".bd-article table")) {
    for (const cell of table.querySelectorAll("th")) {  // the corner over the names of the rows heads nothing
      if (cell.textContent.trim() === "" && !cell.querySelector("img, svg")) cell.replaceWith(document.createElement("td"));
    }
    boxed(table);
  }
  const watch = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target.closest(".rdn-scroll"))));
  for (const box of document.querySelectorAll(".rdn-scroll")) {
    const frame = document.createElement("div");
    frame.className = "rdn-wide";
    box.before(frame);
    frame.append(box);
    box.addEventListener("scroll", () => mark(box), { passive: true });
    watch.observe(box);
    watch.observe(box.firstElementChild);
  }
});

// The search shows excerpts of the pages that it finds. A page opened from the disk may not read another one: there the texts of
// all pages come as a script.
if (location.protocol === "file:") {
  const root = document.documentElement.dataset.content_root;
  let texts;
  window.fetch = async (address) => {
    texts ??= new Promise((resolve) => {
      const script = document.createElement("script");
      script.src = `${root}_static/searchtexts.js`;
      script.onload = () => resolve(window.rdnTexts);
      document.head.append(script);
    });
    const page = new URL(address, location).href.replace(new URL(root, location).href, "").split("#")[0];
    const main = document.createElement("div");
    main.setAttribute("role", "main");
    main.textContent = (await texts)[decodeURI(page)] ?? "";
    return new Response(main.outerHTML);
  };
}
