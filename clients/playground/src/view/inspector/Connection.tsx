// The connection: which state it is in, where each log stands, what the server allows, and ways to break it.

import type { ClientState } from "@turnwire/client";
import { useValue } from "../../state/store";
import { Button } from "../Button";
import { useNow, useSession } from "../context";
import { bytes, count, plural, seconds, words } from "../format";

const STATES: [ClientState, string][] = [
  ["idle", "Nothing has been needed yet"],
  ["connecting", "A socket is being opened"],
  ["open", "Welcomed by the server"],
  ["waiting", "Lost; the next try is timed"],
  ["offline", "No network; waits for it"],
  ["unauthorized", "Needs another token"],
  ["closed", "For good, until connected by hand"],
];

export function Connection({ roomId }: { roomId?: string }) {
  const session = useSession();
  const status = useValue(session.status);
  const traffic = useValue(session.traffic);
  const isOffline = useValue(session.line.offline);
  const now = useNow(status.nextAttemptAt ? 250 : 2_000);
  const { welcome } = session.client;
  const cursor = roomId ? traffic.cursors.get(roomId) : undefined;
  const { passed } = session.line;
  return (
    <>
      <ul className="states" aria-label="States of the connection">
        {STATES.map(([state, what]) => (
          <li
            key={state}
            className={state === status.state ? `now ${state}` : ""}
            aria-current={state === status.state || undefined}
            title={what}
          >
            {state}
          </li>
        ))}
      </ul>
      <p className="fine">
        {STATES.find(([state]) => state === status.state)?.[1]}
        {status.nextAttemptAt ? `: in ${seconds(Math.max(0, status.nextAttemptAt - now))}` : ""}
        {status.reason && status.state !== "open" ? ` (${status.reason}${status.code ? `, ${status.code}` : ""})` : ""}.
      </p>
      <div className="switches">
        <Button icon="plug" disabled={status.state !== "open"} onClick={() => session.line.cut()}>
          Drop the socket
        </Button>
        <Button
          icon={isOffline ? "play" : "pause"}
          aria-pressed={isOffline}
          onClick={() => session.line.setOffline(!isOffline)}
        >
          {isOffline ? "Go online" : "Go offline"}
        </Button>
        <Button icon="again" disabled={status.state === "open" || isOffline} onClick={() => session.client.connect()}>
          Reconnect now
        </Button>
        <Button tone="danger" icon="stop" disabled={status.state === "closed"} onClick={() => session.client.close()}>
          Close for good
        </Button>
      </div>
      <h3>Log</h3>
      <dl className="facts">
        <dt>Epoch</dt>
        <dd>{cursor ? <code>{cursor.epoch || "–"}</code> : "–"}</dd>
        <dt>Seq</dt>
        <dd>{cursor ? count(cursor.seq) : "–"}</dd>
        <dt>Last verdict</dt>
        <dd>{cursor?.verdict ?? "–"}</dd>
      </dl>
      <h3>Passed</h3>
      <dl className="facts">
        <dt>Messages</dt>
        <dd>{count(traffic.count)}</dd>
        <dt>In, out</dt>
        <dd>
          {bytes(passed.bytesIn)}, {bytes(passed.bytesOut)}
        </dd>
        <dt>Sockets so far</dt>
        <dd>{passed.sockets}</dd>
      </dl>
      {welcome && (
        <>
          <h3>Server</h3>
          <dl className="facts">
            <dt>Version</dt>
            <dd>
              {welcome.server.name} {welcome.server.version}, protocol {welcome.protocol}
            </dd>
            <dt>Node</dt>
            <dd>
              <code>{welcome.node_id}</code>
            </dd>
            <dt>You</dt>
            <dd>
              {welcome.user_id} of {welcome.tenant_id}
            </dd>
            <dt>Heartbeat</dt>
            <dd>{plural(welcome.heartbeat_s, "second")}</dd>
          </dl>
          <Limits limits={traffic.limits} />
          <h3>Limits of a connection</h3>
          <dl className="facts">
            {Object.entries(welcome.limits).map(([name, value]) => (
              <Fact key={name} name={words(name)} value={count(value)} />
            ))}
          </dl>
        </>
      )}
    </>
  );
}

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </>
  );
}

/** What the tenant has left, where it has limits. */
function Limits({ limits }: { limits?: Record<string, unknown> }) {
  const rows = Object.entries(limits ?? {}) as [
    string,
    { limit: number | string; remaining: number | string; reset_ms?: number },
  ][];
  if (!rows.length) return null;
  return (
    <>
      <h3>Left for the tenant</h3>
      {rows.map(([name, { limit, remaining, reset_ms }]) => (
        <div key={name} className="left">
          <span>{words(name)}</span>
          <span>
            {remaining} of {limit}
            {reset_ms ? `, whole in ${seconds(reset_ms)}` : ""}
          </span>
          <progress value={Number(remaining)} max={Number(limit)} aria-label={words(name)} />
        </div>
      ))}
    </>
  );
}
