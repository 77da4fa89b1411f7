"""`[limits]`: every size, count and time the server holds itself and its clients to.

Units are in the names: `_s` seconds, `_bytes` bytes, `_chars` UTF-16 code units, `_usd` US dollars; a name
without a unit is a count. Nothing here is enforced; whoever waits or stores reads its limit from here, so
that no number is written anywhere else.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from turnwire_server.settings.section import Bytes, Count, Seconds, SecondsOrNone, Section


class Limits(Section):
    """Sizes, counts and times. The defaults suit one node on two cores with people at the other end."""

    # The connection.
    heartbeat_s: Seconds = 20
    """Seconds of silence after which a client pings; after 2.5 times this without any frame the connection is
    closed with 4003. 20 stays below the idle time of usual proxies (30 to 60 s)."""
    hello_timeout_s: Seconds = 10
    """Seconds a new connection has for its `hello`, else it is closed with 4508."""
    auth_grace_s: SecondsOrNone = 30
    """Seconds between the expiry of a token and the close with 4401, for `auth.refresh` and for what runs."""
    frame_bytes: Bytes = 1_048_576
    """Largest frame a client may send; larger ones close with 1009."""
    input_chars: Count = 200_000
    """Largest user input of one request. At most a third of `frame_bytes`, since a UTF-16 unit takes up to
    three bytes: an input that is allowed always fits into a frame."""
    event_bytes: Bytes = 262_144
    """Largest event; a message that would make its event larger is left out and read from the history."""
    metadata_bytes: Bytes = 16_384
    """Largest `metadata` of a request or conversation, as JSON."""
    commands_per_s: Count = 50
    """Commands one connection may send per second; cancel, ping and refresh never count."""
    errors_per_minute: Count = 60
    """Errors one connection may cause per minute before it is closed with 4509."""
    connections: Count = 10_000
    """Connections of this process; at 20 kB each when idle the default takes 200 MB."""
    connections_per_user: Count = 50
    """Connections of one user of one tenant: a person with many tabs, not a program in a loop."""
    connections_per_tenant: Count = 5_000
    """Connections of one tenant, so that one tenant cannot take all of `connections`."""
    tenant_refresh_s: Seconds = 2
    """Seconds after which the tenants in use are read again from the archive, in one query: how long a change made with
    `turnwire tenant` takes to be live on every node."""
    follows_per_connection: Count = 256
    """Conversations that one connection may follow at once."""
    resume_entries: Annotated[int, Field(ge=64, le=64)] = 64
    """Entries of `resume` in one `hello`. Fixed by the protocol; named here so that it is written once."""
    disconnect_grace_s: SecondsOrNone = 5
    """Seconds without any connection of the author before a request with `on_disconnect: "cancel"` is
    cancelled. Long enough for a page reload, short enough to save tokens."""
    command_timeout_s: Seconds = 10
    """Seconds a command may take before it is answered `unavailable`."""
    slow_consumer_s: Seconds = 30
    """Seconds a connection may leave a frame unread before it is closed with 4001."""
    send_buffer_bytes: Bytes = 65_536
    """Bytes kept for one connection beyond the socket's own buffer; past that it catches up from the log."""

    # Followers, catching up, snapshots.
    tail_bytes: Bytes = 262_144
    """Bytes of newest events of one followed conversation kept in memory."""
    tails_bytes: Bytes = 67_108_864
    """Bytes of newest events of all followed conversations together kept in memory."""
    catchup_page_entries: Count = 1_000
    """Events read from the log at once for a connection that fell behind."""
    catchup_page_bytes: Bytes = 131_072
    """Bytes read from the log at once for a connection that fell behind."""
    catchup_concurrency: Count = 32
    """Pages read at once by the whole process; the others wait their turn."""
    replay_entries: Count = 10_000
    """Missed events that are still replayed; past that a snapshot is smaller and quicker."""
    snapshot_messages: Count = 100
    """Most messages in a snapshot; `before` leads to older ones."""
    snapshot_bytes: Bytes = 262_144
    """Most bytes of messages in a snapshot."""
    snapshot_concurrency: Count = 8
    """Snapshots built at once by the whole process."""
    page_items: Count = 100
    """Most items of a page of `conversation.list` and `conversation.history`."""

    # Turns.
    queued_per_conversation: Count = 20
    """Requests that may wait in one conversation; past that `busy`."""
    running_turns: Count = 2_000
    """Turns this process runs at once; past that `overloaded`."""
    turn_deadline_s: Seconds = 900
    """Seconds a turn may run before it ends `incomplete` with reason `deadline`."""
    interrupt_hold_s: Seconds = 3
    """Seconds that a tentative interrupt holds an answer back; past that it is taken for retracted."""
    held_chars: Count = 8_192
    """Characters of an answer that is held back which are kept; the provider is not read beyond them."""
    withheld_chars: Count = 262_144
    """Characters of an answer that is looked at before it is shown (`guards`); a longer one is refused."""
    retrieval_s: Seconds = 2
    """Seconds that searching documents may take."""
    classify_s: Seconds = 3
    """Seconds that the model of `tenants.*.classifier` has; past that the request takes its tenant's usual route."""
    steps_per_turn: Count = 8
    """Model calls of one turn, tool results in between; past that `incomplete` with reason `steps`."""
    checkpoint_events: Count = 200
    """Events of a running turn after which its partial message is stored, so that a snapshot folds few."""
    checkpoint_bytes: Bytes = 32_768
    """Bytes of events of a running turn after which its partial message is stored."""
    takeovers: Annotated[int, Field(ge=0, le=1000)] = 3
    """Times a turn is taken over after its process died; then it ends `incomplete`, `node_lost`, so that a
    turn that kills its process does not do so for ever."""
    takeover_age_s: Seconds = 3_600
    """Age in seconds past which a turn is ended instead of being taken over."""
    takeover_cost_usd: Annotated[Decimal, Field(ge=0)] = Decimal("1.00")
    """What a turn may have cost so far, in US dollars, to be taken over once more."""
    quota_fail: Literal["open", "closed"] = "open"
    """What happens to a tenant's new requests when what it has used cannot be counted: `open` lets them in, `closed`
    answers `unavailable`."""
    quota_recount_s: Seconds = 600
    """Seconds after which a tenant's spending is counted anew from the ledger."""
    reserved_output_tokens: Count = 1_000
    """Tokens of answer that a new request is expected to use until it has ended, for a tenant without
    `max_output_tokens`."""
    tool_timeout_s: Seconds = 30
    """Seconds a tool of the server may run, for tools that say nothing else; each of its retries anew."""
    tool_cancel_grace_s: Seconds = 2
    """Seconds a tool has to end after it was cancelled or its time was up. One that does not is left to itself: its
    call ends as `unknown`, and it keeps its place in `max_concurrency` until it really ends."""
    tool_queue_s: Seconds = 10
    """Seconds a call waits for a place when its tool has a `max_concurrency`; past that it is not run."""
    tool_threads: Count = 64
    """Tools that are plain functions run in threads; at most so many at once in this process, others wait."""
    tool_output_bytes: Bytes = 65_536
    """Largest tool result, as JSON, that is kept and shown to the model. A text is cut there; any other value that is
    larger makes the call fail."""
    client_tool_timeout_s: Seconds = 300
    """Seconds from the call of a client's tool to its result, the wait for a claim included."""
    claim_lapse_s: Seconds = 10
    """Seconds after the connection of whoever claimed a call has ended; then another client may claim it, or, if it has
    side effects, its effect is unknown."""
    approval_timeout_s: Seconds = 86_400
    """Seconds that a person has to approve a call, for tools that say nothing else."""
    park_after_s: Seconds = 5
    """Seconds that a turn waits for people before it is parked, which costs nothing but takes a moment to go on."""
    job_retries: Annotated[int, Field(ge=0)] = 5
    """How often a request in the background (`background: true`) is tried again when its model call has failed."""
    job_backoff_s: Seconds = 5
    """Seconds that it waits before the first of these tries; they double with each, and up to half is drawn by lot."""
    job_backoff_most_s: Seconds = 300
    """Seconds that it waits at most."""
    identical_calls: Count = 3
    """How often in a row a model may make the same call; past that `incomplete` with reason `steps`."""
    turn_cost_usd: Annotated[Decimal, Field(gt=0)] | None = None
    """What a turn may cost, in US dollars; past that no further step is begun: `incomplete` with reason `budget`."""
    tool_schema_bytes: Bytes = 32_768
    """Largest JSON Schema of a tool that an MCP server or a client offers."""
    mcp_tools: Count = 128
    """Most tools that are taken from one MCP server."""
    mcp_start_s: SecondsOrNone = 5
    """Seconds the start waits for the MCP servers; those that come later are offered later."""
    mcp_connect_s: Seconds = 20
    """Seconds an MCP server has to start, answer and list its tools."""
    mcp_retry_s: Seconds = 30
    """Seconds between two tries to reach an MCP server at most; the first come sooner."""
    mcp_refresh_s: Seconds = 60
    """Seconds after which the tools of an MCP server are listed again, which also shows whether it still answers."""
    reservation_s: Seconds = 600
    """Seconds a reserved request id stays taken when nothing was made of it. Far longer than any command
    may take, so that a slow create never meets its own lapsed reservation."""
    recorded_cancel_s: Seconds = 600
    """Seconds a cancel of a request not yet known is remembered (10 minutes, as the protocol says)."""
