// What is of use only once somebody wants a connection: it is loaded then. A page that only shows what it has kept, or a
// server that renders, never does.

export { Session } from "./session.js";
