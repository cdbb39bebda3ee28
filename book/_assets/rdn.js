// Small repairs of the theme.

// The theme gives some controls a name that differs from the text they show, and leaves its logo outside every landmark.
document.addEventListener("DOMContentLoaded", () => {
  for (const control of document.querySelectorAll("summary, .search-button-field, .theme-switch-button")) {
    control.removeAttribute("aria-label");
  }
  const logo = document.querySelector(".navbar-brand.logo")?.parentElement;
  logo?.setAttribute("role", "navigation");
  logo?.setAttribute("aria-label", "Home");
  // an entry of the bibliography has a role that is no longer one
  for (const entry of document.querySelectorAll("[role=doc-biblioentry]")) entry.setAttribute("role", "listitem");
});
