"""What the scripts answer, as the port's types. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]
import orjson

from turnwire_protocol import Entry
from turnwire_server.eventlog.base import (
    ConversationRef,
    Intent,
    LiveRequest,
    Owned,
    Phase,
    Reentry,
    RequestInfo,
    RequestRef,
)

Raw = Sequence[Any]


def partition_of(tenant_id: str, name: str, partitions: int) -> int:
    """The partition of a conversation, or of a request id's record. The same on every node and version."""
    return zlib.crc32(f"{tenant_id}/{name}".encode()) % partitions


def fields_of(flat: Raw) -> dict[str, bytes]:
    """A hash as HGETALL gives it."""
    return {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}


class View:
    """Everything that is known of one request: ``view_of`` in Lua."""

    __slots__ = ("age_s", "conversation", "epoch", "fields", "intents", "place", "request")

    def __init__(self, raw: Raw) -> None:
        tenant, request, conversation = raw[0].decode(), raw[1].decode(), raw[2].decode()
        self.request = RequestRef(tenant, request)
        self.conversation = ConversationRef(tenant, conversation)
        self.epoch = raw[3].decode()
        self.fields = fields_of(raw[4])
        self.intents = intents_of(raw[5])
        self.place = raw[6]
        self.age_s = int(raw[7]) / 1000

    @property
    def spec(self) -> dict[str, Any]:
        return spec_of(self.fields["spec"], self.fields["parent"])

    @property
    def position(self) -> int | None:
        return int(self.place[0]) if self.place[0] else None

    @property
    def behind(self) -> str | None:
        return self.place[1].decode() if self.place[0] and self.place[1] else None

    def number(self, name: str) -> int:
        return int(self.fields[name])

    def owned(self) -> Owned:
        f = self.fields
        return Owned(
            request=self.request,
            conversation=self.conversation,
            phase=Phase(f["phase"].decode()),
            spec=self.spec,
            ordinal=self.number("ordinal"),
            fence=self.number("fence"),
            run=self.number("run"),
            n=self.number("n"),
            taken=self.number("taken"),
            first_seq=self.number("claim_seq") + 1,
            epoch=self.epoch,
            checkpoint=_loads(f["checkpoint"]),
            checkpoint_seq=self.number("checkpoint_seq"),
            ending=_loads(f["ending"]),
            intents=tuple(self.intents),
            presented=int(f.get("presented", b"0")),
            is_rebuilt=f.get("rebuilt") == b"1",
            may_have_lost=f.get("lossy") == b"1",
            age_s=self.age_s,
        )

    def info(self) -> RequestInfo:
        f = self.fields
        return RequestInfo(
            request=self.request,
            conversation=self.conversation,
            user_id=f["user"].decode(),
            fingerprint=f["fingerprint"].decode(),
            phase=Phase(f["phase"].decode()),
            state=f["state"].decode(),
            run=self.number("run"),
            ordinal=self.number("ordinal"),
            last_seq=self.number("last_seq"),
            confirmed=self.number("n") > 0,
            spec=self.spec,
            position=self.position,
            behind=self.behind,
            presented=int(f.get("presented", b"0")),
            decided=self._decided(),
        )

    def _decided(self) -> dict[str, Intent]:
        said = {intent.k: intent for intent in self.intents}
        firsts = {name[2:]: int(k) for name, k in self.fields.items() if name.startswith("d:")}
        return {question: said[k] for question, k in firsts.items() if k in said}


def spec_of(spec: bytes, parent: bytes) -> dict[str, Any]:
    """The stored spec with the parent that the claim gave it."""
    stored: dict[str, Any] = orjson.loads(spec)
    stored["parent_id"] = parent.decode() or None
    return stored


def intents_of(flat: Raw) -> list[Intent]:
    return [Intent(int(flat[i]), flat[i + 1].decode(), orjson.loads(flat[i + 2])) for i in range(0, len(flat), 3)]


def entries_of(flat: Raw) -> list[Entry]:
    return [Entry(int(flat[i]), int(flat[i + 1]), flat[i + 2]) for i in range(0, len(flat), 3)]


def live_of(raw: Raw) -> LiveRequest:
    """A request of ``live.lua``: request, ordinal, n, answer, head before, spec, parent, checkpoint, …"""
    return LiveRequest(
        request_id=raw[0].decode(),
        ordinal=int(raw[1]),
        spec=spec_of(raw[5], raw[6]),
        checkpoint=_loads(raw[7]),
        checkpoint_seq=int(raw[8]),
        first_seq=int(raw[9]) + 1,
        is_parked=not raw[7] and int(raw[8]) > 0,
    )


def packed(reentry: Reentry, rand: str) -> bytes:
    """A re-entry as ``enter`` in Lua reads it."""
    spec = reentry.spec
    fields = {
        "rand": rand,
        "inc": reentry.incarnation,
        "user": spec["user_id"],
        "fingerprint": spec["fingerprint"],
        "answer": spec["answer_id"],
        "spec": orjson.dumps(spec),
        "parent": spec.get("parent_id") or "",
        "ordinal": str(reentry.ordinal),
        "run": str(reentry.run),
        "n": str(reentry.n),
        "state": reentry.state,
        "checkpoint": b"" if reentry.checkpoint is None else orjson.dumps(reentry.checkpoint),
        "ending": b"" if reentry.ending is None else orjson.dumps(reentry.ending),
        "outcome": "" if reentry.ending is None else reentry.ending["outcome"],
    }
    # The old raw type for all: Lua's strings are bytes.
    return cast("bytes", msgpack.packb(fields, use_bin_type=False))


def _loads(data: bytes) -> Any:
    return orjson.loads(data) if data else None
