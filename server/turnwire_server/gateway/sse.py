"""Server-sent events: bytes in, the data of whole events out.

Pure: no socket, no clock, no JSON. It works on bytes, so that a chunk may be cut anywhere, inside a line
ending or a UTF-8 sequence too. Only the `data` field is kept; comments, event names, ids and retry times
mean nothing in a model's stream. Above: `providers.chat_chunks`.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Far above any chunk a model server sends; keeps a stream without line ends from filling the memory."""

BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """One event has grown past the limit."""


class SSESplitter:
    """Gathers the bytes of one stream. Feed each read to `feed`, then call `end` once at the end."""

    __slots__ = ("_data", "_data_bytes", "_first", "_max_bytes", "_parts", "_parts_bytes", "_skip_lf")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_event_bytes
        self._parts: list[bytes] = []  # of the line that has not ended
        self._parts_bytes = 0
        self._data: list[bytes] = []  # data lines of the event that has not ended
        self._data_bytes = 0
        self._skip_lf = False  # the last chunk ended in CR: an LF that follows belongs to it
        self._first = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes, in order."""
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if not chunk:
            return []
        # bytes.splitlines knows exactly the three line endings of the format (str.splitlines knows more).
        lines = chunk.splitlines()
        last = chunk[-1]
        unfinished = lines.pop() if last not in b"\r\n" else b""
        self._skip_lf = last == 13  # CR
        if lines and self._parts:
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts.clear()
            self._parts_bytes = 0
        events = self._take_lines(lines)
        if unfinished:
            self._parts.append(unfinished)
            self._parts_bytes += len(unfinished)
        if self._parts_bytes + self._data_bytes > self._max_bytes:
            raise EventTooLarge
        return events

    @property
    def is_between_events(self) -> bool:
        """Whether what comes next begins an event."""
        return not (self._parts or self._data or self._skip_lf)

    def end(self) -> bytes | None:
        """The data of a last event that no blank line followed. It may have been cut off anywhere."""
        events = self._take_lines([b"".join(self._parts), b""])
        self._parts.clear()
        return events[0] if events else None

    def _take_lines(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        data = self._data
        for line in lines:
            if self._first:
                self._first = False
                line = line.removeprefix(BOM)
            if not line:
                if data:
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    self._data_bytes = 0
            elif line.startswith(b"data:"):
                value = line[6:] if line[5:6] == b" " else line[5:]
                data.append(value)
                self._data_bytes += len(value)
            elif line == b"data":
                data.append(b"")
        return events
