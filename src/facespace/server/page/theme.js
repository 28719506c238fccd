// Sets the chosen theme before the page is painted. This is a classic script, because modules run too late.
(() => {
  try {
    const theme = localStorage.getItem("facespace.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden. Then the system's theme is used.
  }
})();
