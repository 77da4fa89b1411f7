"""The steps of the event log as a model: every order of events and every fault, within a budget.

What is modelled is the clustered log: the steps of `turnwire_server.eventlog.base` on Redis, with the archive, in the
order of a life that `turnwire_server.conversations` keeps. The model is not the code. It says which orders of steps
the design allows, and `explore` shows that none of them breaks a guarantee; the contract tests show that the engines'
steps do what the model's do.

**The world.** Two nodes, A and B. A node has one `Task` for a life: where it is in the order of a life, and what it
has learnt. Redis is one partition per conversation (requests, log, leases) and one for the records of request ids; a
partition is always consistent in itself, two of them never are. The archive never loses and may be slow. A step takes
what the task knows, changes the stores at one stroke and answers; then, later, the next one. Anything may happen in
between. So a pause, a slow network and a busy node are all the same: somebody else's moves come first.

**The faults**, each as often as the `Budget` says: a node dies with its tasks; a node stands still past its lease and
goes on; a reply is lost, and the step is sent again; a copy of a message arrives late, whenever; Redis loses a suffix
(some moment is picked *from here on writes will be lost*, and later the fail-over brings that moment back) or
everything, of one partition or of all; a node drains; a create is refused. With ``is_slow`` nobody waits for the
archive to have a cancel or an ending. Losses and a slow archive are not combined (DESIGN section 2, *not meant*).
Clocks are as bad as they can be: fences only ever rise by one.

**The guarantees**, by their numbers in DESIGN section 2. Checked at every step:

1. within an epoch a log only grows, no event is in it twice, a request does not go back; one place, one request;
2. what was shown does not vanish, and not from under a living owner before the lease time is over;
3. only the newest owner writes, whatever was lost meanwhile; nothing is taken from a node whose lease holds; nothing
   is shown that the archive does not own; what was refused is not carried out; one turn at a time in a conversation;
4. the archive's ending stands and is what is published, nothing follows it in its epoch. *And*: from every state the
   end of everything can be reached without a further fault or wish (no turn hangs);
5. a request whose cancel was acknowledged has not ended `completed`, in the archive or in the log;
11. the tool with side effects runs at most once.

**Followers** need no model of their own. They are shown the log, so they have been shown all that was ever in it under
its epoch; a loss changes the epoch (`Conversation.inc`), and so does a re-entry (``rand``), which alters what lies
below a seq. That is why "the log only grows within an epoch" is the whole of guarantees 1 and 2.

**To read a counterexample**: it is the shortest one, a line a move. ``A's claim of request 0: running`` is a step of
node A and its answer, ``but the reply is lost`` means that A sends it again. ``forgotten`` and ``fenced`` are the two
ways in which a step finds out that its turn is gone: after a loss, or for good. The last line breaks the guarantee; for
*something never ends* it is the last one after which no end can be reached.

**What the first design lacked**, found here; each is a rule in `Rules` marked FIX, and `test_model` has its trace.

- `cancel_is_archived`: a cancel that was acknowledged from Redis alone is lost with it. It is posted, then put into
  the archive (also before the request is there), then posted again if the incarnation has changed, then acknowledged;
  the archive tells it to insert and take-over, and turns a `completed` that comes after it into `cancelled`. If two
  documents hold them, each side writes its own before it reads the other's, both by majority.
- `taker_looks`: a claimer that dies before it reads the record again leaves a recorded cancel unheard: takers read too.
- `take_over_asks`, `reenter_asks`: after a loss Redis has forgotten who was fenced. A taker leaves its fence in the
  archive before it goes on; an owner that would put its turn back asks there *in the new incarnation* and stops if the
  request has ended or has a later owner. `reenter_asks_again`: what it was told before yet another loss counts no more.
  (`Archived.holder` is there because fences here may be equal; in the code they are times of Redis in µs.)
- `append_compares_owner`: fence, owner and incarnation must be the writer's. A fence alone may be given twice, once
  before and once after a loss.
- `reenter_shown`: a claim of which nothing was shown is not put back: its owner may have been replaced without a word.
- `reenter_one_floor`: a fail-over may bring back a claim that had the floor and was released, beside the owner of the
  next one, who puts its turn back: two turns answer. Whoever re-enters takes the floor from what was never shown, and
  stays away when it has been given to another since the loss.
- `take_over_own`: after a loss a node may own what it has finished, or a claim whose answer it never got, and its lease
  is renewed for ever. A node takes over itself what it owns and does not run.
- `release_own`: a release undoes the claim of its own operation, while that one's fence stands; else a refused create
  pulls the turn from under an accepted one. `release_buries`: a claim that arrives after its release is refused.
- `release_strange`: a taker of a request whose id another claim has in the archive must release it, not just stop.
- `claim_names_its_fence`: a repeated claim must not be given the fence of somebody who took over meanwhile.
- `archive_orders`: a claim that was lost while its insert was under way, and one made after it, have the same ordinal
  and parent; a unique index on it refuses the second.
- `effect_marked`: `tool.running` may be lost together with its node. The right to run the k-th tool with side effects
  is taken in the archive, once; whoever is refused ends the turn `incomplete`.

Left out: the check of the record before the claim (the archive decides anyway), parking, delete, steering, deltas,
ledger rows, and a partitioned old primary that still takes writes: to its clients it is a loss that has yet to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.model.cancels import Cancels
from tests.model.losses import Losses
from tests.model.rules import Rules
from tests.model.state import (
    Config,
    Late,
    State,
    Task,
)
from tests.model.steps import Steps
from tests.model.stores import Done, Move, replaced


class Model(Steps, Cancels, Losses):
    """The transitions under a configuration and a set of rules."""

    def __init__(self, config: Config, rules: Rules | None = None) -> None:
        super().__init__(config, rules)
        self._names: dict[tuple[int, int, str], str] = {}
        self._steps: dict[str, Callable[[State, int, int, Task], Done | None]] = {
            "reserve": self._reserve,
            "claim": self._claim,
            "look": self._look,
            "put": self._put,
            "archive": self._archive,
            "created": self._created,
            "work": self._work,
            "effect": self._effect,
            "run tool": self._run_tool,
            "seal": self._seal,
            "seal queued": self._seal_queued,
            "end": self._end,
            "finish": self._finish,
            "ask": self._ask,
            "reenter": self._reenter,
            "release": self._release,
            "unreserve": self._unreserve,
            "hand over": self._hand_over,
        }

    # --- everything that may happen ------------------------------------------------------------------------

    def moves(self, s: State) -> Iterator[Move]:
        """All moves of a state, always in the same order."""
        for node, is_alive in enumerate(s.alive):
            if is_alive:
                for life in range(len(self.config.lives)):
                    task = s.tasks[node][life]
                    if task is None:
                        yield from self._begin(s, node, life)
                    else:
                        yield from self._go_on(s, node, life, task)
                yield from self._node_faults(s, node)
        for request in self.config.cancels:
            yield from self._cancel(s, request)
        for index in range(len(s.conversations)):
            yield from self._recover(s, index)
        yield from self._losses(s)
        if s.late is not None:
            done = self._steps[s.late.task.at](s._replace(late=None), s.late.node, s.late.life, s.late.task)
            after = s._replace(late=None) if done is None else done.state
            yield Move(f"the late copy of {self._name(*s.late)} arrives", True, after)

    def _name(self, node: int, life: int, task: Task) -> str:
        key = node, life, task.at
        if key not in self._names:
            self._names[key] = f"{'AB'[node]}'s {task.at} of request {self._call(life)}"
        return self._names[key]

    def _go_on(self, s: State, node: int, life: int, task: Task) -> Iterator[Move]:
        name = self._name(node, life, task)
        done = self._steps[task.at](s, node, life, task)
        if done is not None:
            yield Move(f"{name}: {done.said}", True, self._answered(done, node, life))
            if s.budget.lost_replies and done.state != s:
                budget = s.budget._replace(lost_replies=s.budget.lost_replies - 1)
                yield Move(f"{name}: {done.said}, but the reply is lost", False, done.state._replace(budget=budget))
        if s.budget.late and s.late is None and task.at not in ("run tool", "ask"):
            late = Late(node, life, task)
            budget = s.budget._replace(late=s.budget.late - 1)
            yield Move(f"{name} is sent twice, one copy is late", False, s._replace(late=late, budget=budget))
        if self.config.is_slow and task.at == "end":
            after = self._with_task(s, node, life, task._replace(at="finish", back="unarchived"))
            yield Move(f"{name}: the archive does not answer in time", True, after)
        request = self._conversation(s, life).requests[life]
        is_claimed = request is not None and request.op == task.op
        if s.budget.refusals and not task.taker and task.at == ("archive" if is_claimed else "claim"):
            # Before the claim the client is told that it is refused; after it only that the archive does not answer.
            refused = s.refused | 1 << task.op if task.at == "claim" else s.refused
            after = s._replace(budget=s.budget._replace(refusals=s.budget.refusals - 1), refused=refused)
            yield Move(f"{name} is refused", False, self._with_task(after, node, life, task._replace(at="release")))
        if s.budget.hand_overs and task.n and not task.queued and task.at in ("work", "seal"):
            budget = s.budget._replace(hand_overs=s.budget.hand_overs - 1)
            after = self._with_task(s._replace(budget=budget), node, life, task._replace(at="hand over"))
            yield Move(f"{'AB'[node]} drains", False, after)

    def _answered(self, done: Done, node: int, life: int) -> State:
        s = self._with_task(done.state, node, life, done.task)
        for other, task in done.begun:
            s = self._with_task(s, node, other, task)
        return s

    def _begin(self, s: State, node: int, life: int) -> Iterator[Move]:
        if s.budget.creates[life]:
            budget = s.budget._replace(creates=replaced(s.budget.creates, life, s.budget.creates[life] - 1))
            task = Task("reserve", op=s.next_op)
            after = self._with_task(s._replace(budget=budget, next_op=s.next_op + 1), node, life, task)
            yield Move(f"a client sends create {self._call(life)} to {'AB'[node]}", False, after)
        done = self._take_over(s, node, life)
        if done is not None:
            yield Move(f"{'AB'[node]} takes request {self._call(life)} over", True, self._answered(done, node, life))

    def _node_faults(self, s: State, node: int) -> Iterator[Move]:
        if s.budget.crashes and sum(s.alive) > 1:
            yield Move(
                f"{'AB'[node]} is killed",
                False,
                s._replace(
                    alive=replaced(s.alive, node, False),
                    tasks=replaced(s.tasks, node, (None,) * len(self.config.lives)),
                    budget=s.budget._replace(crashes=s.budget.crashes - 1),
                ),
            )
        for index, conversation in enumerate(s.conversations):
            bit = 1 << node
            if not conversation.leases & bit:
                after = self._with(s, index, conversation._replace(leases=conversation.leases | bit))
                yield Move(f"{'AB'[node]} renews its lease", True, after)
            elif s.budget.lapses and any(s.tasks[node]):
                after = self._with(s, index, conversation._replace(leases=conversation.leases & ~bit))
                budget = s.budget._replace(lapses=s.budget.lapses - 1)
                yield Move(f"{'AB'[node]} stands still for longer than its lease", False, after._replace(budget=budget))
