import { type RefObject, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";

const NEAR = 60;

/** Keeps a scrolled list at its end while the reader is there, and leaves it alone while the reader is elsewhere. */
export function useSticky(scroller: RefObject<HTMLElement | null>, content: RefObject<HTMLElement | null>) {
  const sticks = useRef(true);
  const [isAtEnd, setAtEnd] = useState(true);

  const toEnd = useCallback(() => {
    const { current } = scroller;
    if (!current) return;
    sticks.current = true;
    setAtEnd(true);
    current.scrollTop = current.scrollHeight;
  }, [scroller]);

  useLayoutEffect(() => toEnd(), [toEnd]);
  useEffect(() => {
    const at = scroller.current;
    if (!at || !content.current) return;
    const scrolled = () => {
      sticks.current = at.scrollHeight - at.scrollTop - at.clientHeight < NEAR;
      setAtEnd(sticks.current);
    };
    const grown = new ResizeObserver(() => {
      if (sticks.current) at.scrollTop = at.scrollHeight;
      else scrolled();
    });
    at.addEventListener("scroll", scrolled, { passive: true });
    grown.observe(content.current);
    grown.observe(at);
    return () => {
      at.removeEventListener("scroll", scrolled);
      grown.disconnect();
    };
  }, [scroller, content]);
  return { isAtEnd, toEnd };
}
