"""Tells alert targets of drift: once per drift of a group, and again while it goes on."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import msgspec

from ..notify import ALERT_ROW_KIND
from ..records import OutboxRow, RiskLevel
from .records import PeerGroupDay

DRIFT_ALERT_TYPE = "io.trustwatch.alert.model-drift.v1"
_encode_alert = msgspec.json.Encoder().encode


def with_drift_start(day: PeerGroupDay, before: PeerGroupDay | None) -> PeerGroupDay:
    """*day* with the day on which its drift began: that of *before*, the group's last judged day, where it goes on."""
    if not day.drift.get("drifted"):
        return day
    since = day.day
    if before is not None and before.drift.get("drifted") and before.version == day.version:
        since = int(before.drift.get("since", before.day))
    return msgspec.structs.replace(day, drift={**day.drift, "since": since})


def drift_alert_row(day: PeerGroupDay, again_days: int, now_ms: int, source: str) -> OutboxRow:
    """The outbox row that tells of a drift. Its key is that of the drift and of how often it was told: it is told once.

    Args:
        day: judged, with `since`; see `with_drift_start`.
        again_days: one that goes on is told again after so many days.
        source: URI of this service.
    """
    since, told = int(day.drift["since"]), (day.day - int(day.drift["since"])) // again_days
    key = f"drift-{day.version}-{day.tenant}-{day.agent_type}-{since}-{told}"
    group = f"{day.tenant or '(no tenant)'}/{day.agent_type or '(no type)'}"
    data = {
        "message": f"{group} no longer behaves as in the history that model {day.version} learned from: "
        f"{', '.join(day.drift['drifted'])}; look whether work has changed, and retrain or investigate",
        "tenant": day.tenant,
        "agent_type": day.agent_type,
        "model_version": day.version,
        "day": (date(1970, 1, 1) + timedelta(days=day.day)).isoformat(),
        "events": day.events,
        "drifted": day.drift["drifted"],
        "scores": day.drift["scores"],
        "features": day.drift["features"],
        "since": (date(1970, 1, 1) + timedelta(days=since)).isoformat(),
        "risk_level": RiskLevel.MEDIUM.label,
        "suppressed_before": 0,
    }
    event = {
        "specversion": "1.0",
        "id": key,
        "type": DRIFT_ALERT_TYPE,
        "source": source,
        "subject": group,
        "time": datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": data,
    }
    tenant = "" if day.tenant == "*" else day.tenant
    return OutboxRow(
        key=key,
        kind=ALERT_ROW_KIND,
        target="",
        payload=_encode_alert(event),
        created_ms=now_ms,
        level=RiskLevel.MEDIUM,
        tenant=tenant,
    )
