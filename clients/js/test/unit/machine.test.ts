// The connection's life, by a clock that the test holds. Each test says what happens and reads what is to be done.
import { describe, expect, test } from "vitest";
import { MOST_MS } from "../../src/backoff.js";
import { type Action, DIAL_MS, HEALTHY_MS, Machine, OFFLINE_MS, PROBE_MS, type Status } from "../../src/machine.js";
import type { Welcome } from "../../src/protocol.js";
import { welcome } from "../support/fake.js";
import { vectors } from "../support/vectors.js";

class Run {
  now = 0;
  random = 0.5;
  machine = new Machine(() => this.random);
  done: Action[] = [];
  status: Status = { state: "idle" };

  take(): Action[] {
    const taken = this.machine.actions.splice(0);
    this.done.push(...taken);
    for (const [what, about] of taken) if (what === "status") this.status = about as Status;
    return taken;
  }

  /** What is to be done besides telling the status. */
  get todo(): Action[] {
    return this.take().filter(([what]) => what !== "status");
  }

  /** To the next timer. */
  wait(): number {
    const at = this.machine.nextTimer();
    this.now = at;
    this.machine.tick(at);
    return at;
  }

  /** From a token to a welcome; gives the link. */
  open(about: Partial<Welcome> = {}): number {
    const link = this.todo.find(([what]) => what === "token")?.[1] as number;
    this.machine.token(link, "t", this.now);
    this.machine.dialed(link, this.now);
    this.machine.welcomed(link, welcome({ server_time: 0, ...about }) as Welcome, this.now);
    this.take();
    return link;
  }

  lose(link: number, code = 1006): void {
    this.machine.failed(link, this.now, `closed with ${code}`, code);
    this.take();
  }
}

function opened(about?: Partial<Welcome>): [Run, number] {
  const run = new Run();
  run.machine.want(0);
  return [run, run.open(about)];
}

describe("the way in", () => {
  test("goes from a token to a socket to hello to open", () => {
    const run = new Run();
    run.machine.want(0);
    expect(run.todo).toEqual([["token", 1, "connect"]]);
    run.machine.token(1, "t", 0);
    expect(run.todo).toEqual([["dial", 1]]);
    run.machine.dialed(1, 0);
    expect(run.todo).toEqual([["hello", 1]]);
    expect(run.status.state).toBe("connecting");
    run.machine.welcomed(1, welcome() as Welcome, 0);
    expect(run.todo.map(([what]) => what)).toEqual(["live"]);
    expect(run.status.state).toBe("open");
  });

  test("wanting it twice dials once", () => {
    const run = new Run();
    run.machine.want(0);
    run.machine.want(0);
    expect(run.todo).toEqual([["token", 1, "connect"]]);
  });

  test.each(["token", "dialing", "greeting"])("stuck at %s is given up after a while", (phase) => {
    const run = new Run();
    run.machine.want(0);
    if (phase !== "token") run.machine.token(1, "t", 0);
    if (phase === "greeting") run.machine.dialed(1, 0);
    run.take();
    expect(run.wait()).toBe(DIAL_MS);
    expect(run.todo).toEqual([["drop", 1]]);
    expect(run.status).toMatchObject({ state: "waiting", reason: `no answer while ${phase}` });
  });

  test("a token that cannot be had is tried again", () => {
    const run = new Run();
    run.machine.want(0);
    run.machine.noToken(1, "no token: 500", 0);
    run.take();
    expect(run.status).toMatchObject({ state: "waiting", reason: "no token: 500" });
    run.wait();
    expect(run.todo).toEqual([["token", 2, "connect"]]);
  });
});

describe("coming back", () => {
  test("is at once after a healthy connection", () => {
    const [run, link] = opened();
    run.now = HEALTHY_MS;
    run.lose(link);
    expect(run.status).toMatchObject({ state: "waiting", nextAttemptAt: run.now });
  });

  test("waits longer each time, with full jitter, and never longer than the most", () => {
    const run = new Run();
    run.machine.want(0);
    const waits = [];
    for (let attempt = 0; attempt < 10; attempt++) {
      const link = run.take().find(([what]) => what === "token")?.[1] as number;
      run.lose(link);
      waits.push((run.status.nextAttemptAt as number) - run.now);
      run.wait();
    }
    expect(waits).toEqual([250, 500, 1000, 2000, 4000, 8000, 10000, 10000, 10000, 10000]);
    run.random = 0;
    run.lose(run.take().find(([what]) => what === "token")?.[1] as number);
    expect(run.status.nextAttemptAt).toBe(run.now);
    expect(MOST_MS).toBe(20_000);
  });

  test("of an overloaded server is not at once, and not before it says", () => {
    const [run, link] = opened();
    run.now = HEALTHY_MS;
    run.machine.stayAway(7000);
    run.lose(link, 4010);
    expect(run.status.nextAttemptAt).toBe(run.now + 7000);
  });

  test("never has two live links: what an old one brings does not count", () => {
    const [run, first] = opened();
    run.lose(first);
    run.wait();
    const second = run.open();
    expect(run.machine.isLive(first)).toBe(false);
    run.lose(first);
    run.machine.welcomed(first, welcome() as Welcome, run.now);
    expect(run.todo).toEqual([]);
    expect(run.machine.isLive(second)).toBe(true);
  });

  test.each(vectors("codes").close as { code: number; may_return: boolean }[])(
    "close code $code",
    ({ code, may_return }) => {
      const [run, link] = opened();
      run.lose(link, code);
      if (code === 4501 || code === 4503) {
        // Somebody else's token may do.
        expect(run.done.at(-2)).toEqual(["token", link + 1, "rejected"]);
      } else if (code === 4401) expect(run.done.at(-2)).toEqual(["token", link + 1, "expired"]);
      else expect(run.status.state).toBe(may_return ? "waiting" : "closed");
      expect(run.status.code === code || run.status.state === "connecting").toBe(true);
    },
  );

  test.each([
    [4499, "waiting"],
    [4999, "closed"],
    [1000, "waiting"],
    [1012, "waiting"],
    [3000, "waiting"],
  ])("a code of later versions: %i", (code, state) => {
    const [run, link] = opened();
    run.lose(link, code);
    expect(run.status).toMatchObject({ state, code });
  });
});

describe("tokens", () => {
  test("that expire again and again end as unauthorized, and somebody can begin anew", () => {
    const [run, link] = opened();
    run.lose(link, 4401);
    for (let next = link + 1; next <= link + 3; next++) run.lose(next, 4401);
    expect(run.status).toMatchObject({ state: "unauthorized", code: 4401 });
    run.machine.want(run.now);
    expect(run.todo.at(-1)).toEqual(["token", link + 4, "connect"]);
  });

  test("that are refused are asked for once more", () => {
    const [run, link] = opened();
    run.lose(link, 4501);
    run.lose(link + 1, 4501);
    expect(run.status.state).toBe("unauthorized");
  });

  test("are renewed in place before they expire", () => {
    const [run, link] = opened({ expires_at: 10_000 });
    expect(run.wait()).toBe(8_000);
    expect(run.todo).toEqual([["token", link, "refresh"]]);
    run.machine.token(link, "new", run.now);
    expect(run.todo).toEqual([["refresh", link, "new"]]);
    run.machine.renewed(20_000, run.now);
    run.wait(); // the heartbeat
    expect(run.wait()).toBe(8_000 + 16_000);
  });

  test("that cannot be renewed are tried again while the old one counts", () => {
    const [run, link] = opened({ expires_at: 10_000 });
    run.wait();
    run.machine.noToken(link, "away", run.now);
    run.take();
    expect(run.status.state).toBe("open");
    expect(run.wait()).toBe(16_000);
    expect(run.todo).toEqual([["token", link, "refresh"]]);
  });
});

describe("silence", () => {
  test("is broken by a ping, however much comes in", () => {
    const [run, link] = opened();
    run.machine.received(link);
    expect(run.wait()).toBe(20_000);
    expect(run.todo).toEqual([["ping", link]]);
  });

  test("after a ping ends the link", () => {
    const [run, link] = opened();
    run.wait();
    expect(run.wait()).toBe(20_000 + DIAL_MS);
    expect(run.todo.slice(0, 3)).toEqual([["ping", link], ["drop", link], ["lost"]]);
  });

  test("of a page that has come back is not borne for long", () => {
    const [run, link] = opened();
    run.machine.woke(true, 1000);
    expect(run.todo).toEqual([["ping", link]]);
    expect(run.wait()).toBe(1000 + PROBE_MS);
    run.take();
    expect(run.status.state).toBe("waiting");
  });

  test("that something breaks is none", () => {
    const [run, link] = opened();
    run.machine.woke(true, 1000);
    run.machine.received(link);
    expect(run.machine.nextTimer()).toBe(21_000);
  });
});

describe("networks", () => {
  test("that are gone are waited for, but not for ever", () => {
    const [run, link] = opened();
    run.machine.woke(false, 0);
    run.lose(link);
    expect(run.status).toMatchObject({ state: "offline", nextAttemptAt: OFFLINE_MS });
    run.wait();
    expect(run.todo.at(-1)).toEqual(["token", link + 1, "connect"]);
  });

  test("that come back end the waiting", () => {
    const [run, link] = opened();
    run.machine.woke(false, 0);
    run.lose(link);
    run.machine.woke(true, 5);
    expect(run.todo.at(-1)).toEqual(["token", link + 1, "connect"]);
  });

  test("that go while waiting are shown", () => {
    const [run, link] = opened();
    run.lose(link);
    run.machine.woke(false, 5);
    run.take();
    expect(run.status.state).toBe("offline");
  });
});

describe("goaway", () => {
  const goaway = { type: "goaway", reason: "shutdown", deadline_ms: 30_000, retry_after_ms: 500 } as const;

  test("opens the next link behind the old one, which ends when the new one is there", () => {
    const [run, old] = opened();
    run.machine.goaway(goaway, 0);
    expect(run.wait()).toBe(500);
    const next = run.open();
    expect(run.done.slice(-4).map(([what]) => what)).toEqual(["drop", "lost", "live", "status"]);
    expect([run.machine.isLive(old), run.machine.isLive(next)]).toEqual([false, true]);
  });

  test("the old link goes on while the next one fails", () => {
    const [run, old] = opened();
    run.machine.goaway(goaway, 0);
    run.wait();
    run.take();
    run.lose(old + 1);
    expect(run.machine.isLive(old)).toBe(true);
    run.lose(old, 4000);
    expect(run.status.state).toBe("waiting");
  });

  test("the next link takes over when the old one ends first", () => {
    const [run, old] = opened();
    run.machine.goaway(goaway, 0);
    run.wait();
    run.lose(old, 4000);
    expect(run.status.state).toBe("connecting");
    run.machine.token(old + 1, "t", run.now);
    expect(run.todo).toEqual([["dial", old + 1]]);
  });
});

describe("closing", () => {
  test("ends everything, until it is wanted again", () => {
    const [run, link] = opened();
    run.machine.close();
    expect(run.todo).toEqual([["drop", link], ["lost"]]);
    expect(run.status.state).toBe("closed");
    expect(run.machine.nextTimer()).toBe(Number.POSITIVE_INFINITY);
    run.machine.want(9);
    expect(run.todo).toEqual([["token", link + 1, "connect"]]);
  });
});

test("no state without a link is without a timer, but those that say so", () => {
  // Every way of failing, from every phase.
  for (const phase of ["token", "dialing", "greeting", "open"])
    for (const code of [1000, 1006, 4000, 4010, 4401, 4500, 4501, 4508]) {
      const run = new Run();
      run.machine.want(0);
      run.take();
      if (phase !== "token") run.machine.token(1, "t", 0);
      if (phase === "greeting" || phase === "open") run.machine.dialed(1, 0);
      if (phase === "open") run.machine.welcomed(1, welcome() as Welcome, 0);
      run.lose(1, code);
      const isStopped = ["unauthorized", "closed"].includes(run.status.state);
      expect(run.machine.nextTimer() < Number.POSITIVE_INFINITY).toBe(!isStopped);
    }
});
