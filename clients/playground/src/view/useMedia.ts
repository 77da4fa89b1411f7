import { useSyncExternalStore } from "react";

/** As in the style: below the first the inspector is a drawer, below the second the list is one too. */
export const WIDE = "(min-width: 1180px)";
export const SMALL = "(max-width: 799px)";

export function useMedia(query: string): boolean {
  return useSyncExternalStore(
    (changed) => {
      const media = matchMedia(query);
      media.addEventListener("change", changed);
      return () => media.removeEventListener("change", changed);
    },
    () => matchMedia(query).matches,
  );
}
