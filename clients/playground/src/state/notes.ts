// What a turn showed besides its messages: when things happened, which deployments were tried, what was looked up, what
// it cost, how it ended. Made of the same events as the client's fold, and pure. A turn that this page has not watched
// has no note, or half of one: views show what there is.

import type { LogEvent, wire } from "@turnwire/client";

export interface Attempt {
  step: number;
  attempt: number;
  deployment: string;
  model: string;
  at: number;
  run?: number;
  failed?: { at: number; reason: string; next?: string };
}

export interface CallNote {
  startedAt?: number;
  runningAt?: number;
  fraction?: number;
  said?: string;
  durationMs?: number;
  outcome?: wire.ToolFailed["outcome"];
  decidedBy?: string;
  decision?: "approved" | "edited" | "denied";
}

export interface Ending {
  type: string;
  at: number;
  reason?: string;
  by?: string;
  into?: string;
  finishReason?: string;
  error?: wire.Failure;
  generated?: number;
  sent?: number;
  presented?: number;
  basis?: string;
}

export interface Note {
  requestId: string;
  firstSeq: number;
  lastSeq: number;
  createdAt?: number;
  queuedAt?: number;
  startedAt?: number;
  firstAt?: number;
  run?: number;
  route?: string;
  resets: number;
  attempts: readonly Attempt[];
  retrieval?: {
    state: "running" | "done" | "failed";
    query?: string;
    sources: readonly wire.Source[];
    reason?: string;
  };
  calls: Readonly<Record<string, CallNote>>;
  usage?: wire.UsageCompleted;
  ending?: Ending;
}

const EMPTY: Note = { requestId: "", firstSeq: 0, lastSeq: 0, resets: 0, attempts: [], calls: {} };

const withCall = (note: Note, id: string, change: Partial<CallNote>): Partial<Note> => ({
  calls: { ...note.calls, [id]: { ...note.calls[id], ...change } },
});

const endingOf = (event: Extract<LogEvent, { terminal: true }>): Ending => {
  const { type, ts, reason, by, into, finish_reason, error, generated, sent, presented, basis } =
    event as wire.MessageFailed &
      Partial<Omit<wire.MessageInterrupted, "type">> &
      Partial<Omit<wire.MessageMerged, "type">> & {
        by?: string;
        finish_reason?: string;
      };
  return {
    type: type.slice(8),
    at: ts,
    reason,
    by,
    into,
    finishReason: finish_reason,
    error,
    generated,
    sent,
    presented,
    basis,
  };
};

function change(note: Note, event: LogEvent): Partial<Note> {
  switch (event.type) {
    case "message.created":
      return { createdAt: event.ts };
    case "request.queued":
      return { queuedAt: note.queuedAt ?? event.ts };
    case "message.started":
      return { startedAt: note.startedAt ?? event.ts, run: event.run, route: event.route };
    case "step.started": {
      const { step, attempt, deployment, model, ts: at, run } = event;
      return { attempts: [...note.attempts, { step, attempt, deployment, model, at, run }], run: run ?? note.run };
    }
    case "step.failed":
      return {
        attempts: note.attempts.map((one) =>
          one.step === event.step && one.attempt === event.attempt && !one.failed
            ? { ...one, failed: { at: event.ts, reason: event.reason, next: event.next } }
            : one,
        ),
      };
    case "part.reset":
      return { resets: note.resets + 1 };
    case "output_text.delta":
    case "reasoning.delta":
      return { firstAt: note.firstAt ?? event.ts };
    case "retrieval.started":
      return { retrieval: { state: "running", query: event.query, sources: [] } };
    case "retrieval.completed":
      return { retrieval: { ...note.retrieval, state: "done", sources: event.sources } };
    case "retrieval.failed":
      return { retrieval: { sources: [], ...note.retrieval, state: "failed", reason: event.reason } };
    case "tool.started":
      return { firstAt: note.firstAt ?? event.ts, ...withCall(note, event.call_id, { startedAt: event.ts }) };
    case "tool.running":
      return withCall(note, event.call_id, { runningAt: event.ts });
    case "tool.progress":
      return withCall(note, event.call_id, { fraction: event.fraction, said: event.message });
    case "tool.approved":
      return withCall(note, event.call_id, { decidedBy: event.by, decision: event.arguments ? "edited" : "approved" });
    case "tool.denied":
      return withCall(note, event.call_id, { decidedBy: event.by, decision: "denied" });
    case "tool.completed":
      return withCall(note, event.call_id, { durationMs: event.duration_ms });
    case "tool.failed":
      return withCall(note, event.call_id, { outcome: event.outcome });
    case "usage.completed":
      return { usage: event };
    default:
      return "terminal" in event ? { ending: endingOf(event) } : {};
  }
}

/** The notes after `event`; the same object when the event is of no request. */
export function noted(notes: ReadonlyMap<string, Note>, event: LogEvent): ReadonlyMap<string, Note> {
  const { request_id: id } = event as { request_id?: string };
  if (!id) return notes;
  const note = notes.get(id) ?? { ...EMPTY, requestId: id, firstSeq: event.seq };
  // Sent again after a reload of the page whose notes were kept.
  if (event.seq <= note.lastSeq) return notes;
  return new Map(notes).set(id, { ...note, ...change(note, event), lastSeq: event.seq });
}
