// React: hooks over the objects of the core, which already give the same view until something changes. Safe in
// StrictMode, since following outlives a component by a moment, and on a server, where nothing is followed.

import {
  createContext,
  createElement,
  type ReactNode,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useSyncExternalStore,
} from "react";
import { type Client, type ConnectOptions, connect } from "./client.js";
import type { Conversation, ConversationOptions, ConversationView } from "./conversation.js";
import type { Status } from "./machine.js";
import type { Presence } from "./protocol.js";
import type { Turn, TurnView } from "./turn.js";

export type ProviderProps = { children?: ReactNode } & (
  | { client: Client; url?: undefined; options?: undefined }
  | { url: string; options?: ConnectOptions; client?: undefined }
);

/** StrictMode takes a tree down and puts it up again. */
const GRACE_MS = 1_000;
const NOTHING: ConversationView = {
  status: "idle",
  messages: [],
  active: [],
  thread: [],
  hasOlder: false,
  context: {},
  present: [],
  members: [],
};
const IDLE: Status = { state: "idle" };
const NO_TURN: TurnView = { state: "preparing", text: "", parts: [] };
const never = () => () => {};

const Context = createContext<Client | undefined>(undefined);

/** Gives a client to what is below: one that is there already, or one for `url` that lives as long as this does. */
export function TurnwireProvider({ client, url, options, children }: ProviderProps): ReactNode {
  const first = useRef(options);
  // Another address is another client; other options of the same one are not.
  const own = useMemo(() => (client ? undefined : connect(url as string, first.current)), [client, url]);
  useEffect(() => {
    if (!own) return;
    clearTimeout(ends.get(own));
    return () =>
      void ends.set(
        own,
        setTimeout(() => own.close(), GRACE_MS),
      );
  }, [own]);
  return createElement(Context.Provider, { value: client ?? own }, children);
}

const ends = new WeakMap<Client, ReturnType<typeof setTimeout>>();

export function useClient(): Client {
  const client = useContext(Context);
  if (!client) throw new Error("no TurnwireProvider above");
  return client;
}

/** How the connection is. */
export function useStatus(): Status {
  const client = useClient();
  const subscribe = useMemo(() => (changed: () => void) => client.on("status", changed), [client]);
  return useSyncExternalStore(
    subscribe,
    () => client.status,
    () => IDLE,
  );
}

export interface UseConversation extends ConversationView {
  conversation: Conversation;
  send: Conversation["send"];
  regenerate: Conversation["regenerate"];
  loadOlder: Conversation["loadOlder"];
}

/** Follow a conversation while the component is there. */
export function useConversation(id: string, options?: ConversationOptions): UseConversation {
  const conversation = useClient().conversation(id, options);
  const view = useView(conversation);
  return useMemo(
    () => ({
      ...view,
      conversation,
      send: conversation.send.bind(conversation),
      regenerate: conversation.regenerate.bind(conversation),
      loadOlder: conversation.loadOlder.bind(conversation),
    }),
    [view, conversation],
  );
}

/** One turn as it is now: one that was just made, or by the ids of its conversation and itself. */
export function useTurn(turn: Turn | undefined): TurnView;
export function useTurn(conversationId: string, turnId: string): TurnView;
export function useTurn(of: Turn | string | undefined, turnId?: string): TurnView {
  const client = useContext(Context);
  const conversation = typeof of === "string" ? client?.conversation(of) : of?.conversation;
  const found = useRef<Turn>(undefined);
  const known = typeof of === "string" ? found.current : of;
  // Looking it up begins to follow it: not while rendering.
  const subscribe = useMemo(
    () => (changed: () => void) => {
      if (typeof of === "string") found.current = conversation?.turn(turnId as string);
      const stop = conversation?.subscribe(changed);
      changed();
      return () => stop?.();
    },
    [conversation, of, turnId],
  );
  const isSame = known && (turnId === undefined || known.id === turnId);
  return useSyncExternalStore(
    conversation ? subscribe : never,
    () => (typeof of === "string" ? found.current : of)?.view ?? NO_TURN,
    () => (isSame ? known.view : NO_TURN),
  );
}

/** Who is there, and saying what this user does. The state should be the same object while it means the same. */
export function usePresence(id: string, state?: unknown): readonly Presence[] {
  const conversation = useClient().conversation(id);
  useEffect(() => {
    if (state !== undefined) conversation.setPresence(state);
  }, [conversation, state]);
  return useView(conversation).present;
}

const useView = (conversation: Conversation): ConversationView =>
  useSyncExternalStore(
    conversation.subscribe,
    () => conversation.view,
    () => NOTHING,
  );
