// Small repairs for Jupyter widgets on a static page, and for the theme's labels.

// The widget player (html-manager 1.x) typesets labels with MathJax 2's queue; the book ships MathJax 3.
document.addEventListener("DOMContentLoaded", () => {
  if (window.MathJax && !window.MathJax.Hub) {
    window.MathJax.Hub = { Queue: ([, , element]) => window.MathJax.typesetPromise?.([element]) };
  }
});

// A slider's handle has neither a name nor a spoken value: take them from its label and its read-out.
function nameSliders() {
  for (const handle of document.querySelectorAll(".noUi-handle")) {
    const widget = handle.closest(".widget-slider");
    const label = widget?.querySelector(".widget-label");
    const readout = widget?.querySelector(".widget-readout");
    set(handle, "aria-label", label?.title && label.title !== "null" ? label.title : label?.textContent);
    set(handle, "aria-valuetext", readout?.textContent);
  }
}

function set(element, attribute, value) {
  if (value && element.getAttribute(attribute) !== value) element.setAttribute(attribute, value);
}

window.addEventListener("load", () => {
  if (!document.querySelector('script[type^="application/vnd.jupyter.widget-view"]')) return;
  nameSliders();
  new MutationObserver(nameSliders).observe(document.querySelector("main"), {
    childList: true,
    subtree: true,
    characterData: true,
    attributeFilter: ["aria-valuetext"],
  });
});

// The theme gives some controls a name that differs from the text they show, and leaves its logo outside every landmark.
document.addEventListener("DOMContentLoaded", () => {
  for (const control of document.querySelectorAll("summary, .search-button-field, .theme-switch-button")) {
    control.removeAttribute("aria-label");
  }
  const logo = document.querySelector(".navbar-brand.logo")?.parentElement;
  logo?.setAttribute("role", "navigation");
  logo?.setAttribute("aria-label", "Home");
});
