// Before anything is drawn: the theme that was chosen, so that the page does not flash in the other one.
try {
  const theme = localStorage.getItem("turnwire.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {} // storage may be forbidden
