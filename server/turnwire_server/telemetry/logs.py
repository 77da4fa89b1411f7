"""Where log lines go and what they look like: text on a terminal, one JSON object a line otherwise.

Called once by the command line. Secrets are taken out of the finished line, after arguments, extra fields
and tracebacks have been put in, since each of them can carry one. Libraries are heard from `warning` on,
whatever the level: their debug lines hold what users wrote.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from turnwire_server.telemetry.redact import redactor

OWN_LOGGERS = ("turnwire_server", "turnwire_protocol")
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def configure_logging(
    level: str = "info", *, stream: TextIO | None = None, secrets: Iterable[str] = ()
) -> logging.Handler:
    """Sends all logging to `stream` (standard error by default). `secrets` are hidden wherever they
    appear. Calling it again replaces the first call's handler, which is returned."""
    target = stream if stream is not None else sys.stderr
    redact = redactor(secrets)
    handler = _Handler(target)
    handler.setFormatter(TextFormatter(redact) if target.isatty() else JsonFormatter(redact))
    own_level = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(own_level, logging.WARNING))
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(own_level)
    return handler


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """The standard one prints the record's arguments as they are, secrets included."""
        error = sys.exc_info()[0]
        if not isinstance(error, type) or issubclass(error, BrokenPipeError):
            return
        print(f"a log line from {record.name}:{record.lineno} was lost: {error.__name__}", file=sys.stderr)


class TextFormatter(logging.Formatter):
    """`12:00:00.000 INFO    turnwire_server.app: text key=value`"""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
        self._redact = redact

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        extras = "".join(f" {key}={value}" for key, value in _extras(record).items())
        return super().formatMessage(record) + extras

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """`{"time": …, "level": …, "logger": …, "message": …}` and the extra fields of the call."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _extras(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return orjson.dumps(self._clean(line), option=orjson.OPT_NON_STR_KEYS).decode()

    def _clean(self, value: Any) -> Any:
        """The value with redacted texts. Cleaned before it is encoded, so that escapes hide nothing."""
        match value:
            case None | bool() | int() | float():
                # orjson stops at 64 bits; such numbers are shown as text.
                return value if not isinstance(value, int) or abs(value) < 2**63 else str(value)
            case dict():
                return {self._text(key): self._named(key, entry) for key, entry in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self._clean(entry) for entry in value]
            case _:
                return self._text(value)

    def _named(self, key: object, value: Any) -> Any:
        """A text under a name such as `token`, of which the value alone would not say what it is."""
        if not isinstance(value, str):
            return self._clean(value)
        prefix = f"{key}="
        named = self._redact(prefix + value)
        return self._text(named.removeprefix(prefix))

    def _text(self, value: object) -> str:
        # Lone surrogates have no UTF-8; a log line must not be lost for one.
        return self._redact(str(value)).encode("utf-8", "replace").decode()


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
