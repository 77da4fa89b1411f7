// One stroke, 24 units. Icons say nothing to screen readers: what they stand on has words.

const PATHS = {
  logo: "M3 8.500h10a3.500 3.500 0 1 1-3.500 3.500v0a3.500 3.500 0 0 0 3.500 3.500h8",
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h10",
  close: "M6 6l12 12M18 6 6 18",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  left: "m14 6-6 6 6 6",
  right: "m10 6 6 6-6 6",
  trash: "M4 7h16M10 11v6M14 11v6M6 7l1 13h10l1-13M9 7V4h6v3",
  copy: "M9 9h11v11H9zM5 15V4h11",
  check: "m5 12.500 5 5L20 7",
  pencil: "m4 20 1-5L16 4l4 4L9 19zM13.500 6.500l4 4",
  again: "M20 11a8 8 0 1 0-2 6M20 5v6h-6",
  good: "M7 11v9H4v-9zM7 11l4-8a2.200 2.200 0 0 1 2.200 2.200V9H19a1.500 1.500 0 0 1 1.500 1.800l-1.400 7.700a2 2 0 0 1-2 1.500H7",
  poor: "M17 13V4h3v9zM17 13l-4 8a2.200 2.200 0 0 1-2.200-2.200V15H5a1.500 1.500 0 0 1-1.500-1.800l1.400-7.700a2 2 0 0 1 2-1.500H17",
  pulse: "M3 12h4l3-8 4 16 3-8h4",
  plug: "M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4",
  tool: "M14.500 6.500a4 4 0 0 1 5-3.800l-2.700 2.700 1.800 1.800 2.700-2.700a4 4 0 0 1-5.300 5L8 17.500A2.100 2.100 0 0 1 5 14.500l8-8",
  book: "M5 4h10a4 4 0 0 1 4 4v12H9a4 4 0 0 1-4-4zM5 16a4 4 0 0 1 4-4h10",
  bulb: "M9 18h6M10 21h4M8 14a5.500 5.500 0 1 1 8 0c-.8.8-1 1.300-1 2H9c0-.7-.2-1.200-1-2z",
  warn: "M12 4 2.500 20h19zM12 10v4M12 17v.01",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 3v1M12 20v1M3 12h1M20 12h1M5.600 5.600l.7.7M17.700 17.700l.7.7M5.600 18.400l.7-.7M17.700 6.300l.7-.7",
  moon: "M20 14.500A8 8 0 0 1 9.500 4 8 8 0 1 0 20 14.500",
  screen: "M3 5h18v11H3zM9 20h6M12 16v4",
  keys: "M3 7h18v10H3zM7 11h.01M11 11h.01M15 11h.01M8 14h8",
  note: "M5 4h14v10l-5 6H5zM14 20v-6h5M9 9h6",
  pause: "M8 5v14M16 5v14",
  play: "M7 4.500v15l12-7.500z",
  steer: "M5 19V9a4 4 0 0 1 4-4h10M15 1l4 4-4 4",
  cut: "M4 12h5M15 12h5M12 4v4M12 16v4M8 8l8 8",
  shield: "M12 3 4.500 6v5.500c0 5 3.500 8 7.500 9.500 4-1.500 7.500-4.500 7.500-9.500V6zM9 12l2.200 2.200L15.500 10",
  user: "M12 4a4 4 0 1 0 0 8 4 4 0 0 0 0-8M4.500 20a7.500 7.500 0 0 1 15 0",
  branch: "M6 4v16M6 14c7 0 11-2 11-7M17 7m-2.500 0a2.500 2.500 0 1 0 5 0 2.500 2.500 0 1 0-5 0",
  clock: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16M12 8v4l3 2",
  question: "M9 9a3 3 0 1 1 4.500 2.600c-1 .6-1.500 1.200-1.500 2.400M12 17.500v.01",
} as const;

export type IconName = keyof typeof PATHS | "stop";

export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
  return (
    <svg className="icon" viewBox="0 0 24 24" width={size} height={size} aria-hidden="true" focusable="false">
      {name === "stop" ? (
        <rect x="7" y="7" width="10" height="10" rx="2" fill="currentColor" />
      ) : (
        <path d={PATHS[name]} />
      )}
    </svg>
  );
}
