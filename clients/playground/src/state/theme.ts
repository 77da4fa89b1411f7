// Light, dark, or as the system has it. `boot` sets it before the page is drawn; this changes it.

import { Store } from "./store";

export type Theme = "system" | "light" | "dark";
const KEY = "turnwire.theme";

const kept = (): Theme => {
  const theme = document.documentElement.dataset.theme;
  return theme === "light" || theme === "dark" ? theme : "system";
};

export const theme = new Store<Theme>(kept());

export function setTheme(wanted: Theme): void {
  if (wanted === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = wanted;
  try {
    if (wanted === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, wanted);
  } catch {}
  theme.set(wanted);
}
