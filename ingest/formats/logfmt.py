"""Lines of `key=value` pairs behind a time and a level, as agentgateway writes them by default."""

from __future__ import annotations

import re

import msgspec

from ..errors import MalformedEvent

_LOGFMT_PAIR = re.compile(r'(?:^|\s)([A-Za-z_][\w.-]*)=("(?:[^"\\]|\\.)*"|.*?)(?=\s[A-Za-z_][\w.-]*=|$)')
_LOGFMT_TIME = re.compile(r"\d{4}-\d\d-\d\dT\S+")


def decode_logfmt(line: str) -> dict[str, str]:
    """Pairs of one line; the time in front, where there is one, is `time`. Unquoted values may hold spaces.

    >>> decode_logfmt("2025-07-10T18:10:46Z\\tinfo\\trequest\\thttp.status=403 error=no token found duration=0ms")
    {'http.status': '403', 'error': 'no token found', 'duration': '0ms', 'time': '2025-07-10T18:10:46Z'}

    Raises:
        MalformedEvent: it holds no pair.
    """
    pairs = {name: _unquoted(value.strip()) for name, value in _LOGFMT_PAIR.findall(line.rstrip())}
    if not pairs:
        raise MalformedEvent("record is neither JSON nor a line of key=value pairs")
    time = _LOGFMT_TIME.match(line)
    if time:
        pairs.setdefault("time", time[0])
    return pairs


def _unquoted(value: str) -> str:
    if len(value) < 2 or value[0] != '"':
        return value
    try:
        return msgspec.json.decode(value, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return value[1:-1]
