// Sets the chosen theme before the page is painted. A classic script on purpose: modules run too late.
(() => {
  try {
    const theme = localStorage.getItem("facespace.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden; the system's theme is used then.
  }
})();
