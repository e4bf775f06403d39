// Runs before the first paint, so that a page that was dark does not flash up light; viewer.js has the switch.
(() => {
  try {
    const theme = localStorage.getItem("tracedbridge.theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage is off: as the system has it.
  }
})();
