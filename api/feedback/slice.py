"""Feedback: what the slice adds to the application."""

from __future__ import annotations

from ..http.prometheus_metrics import MetricValues
from ..http.runtime import Runtime
from ..http.service_registry import ServiceRegistry
from ..http.slice import Slice
from .routes import router
from .service import FeedbackService


def _metric_values(services: ServiceRegistry) -> MetricValues:
    feedback, counts = services.find(FeedbackService), services.get(Runtime).pipeline_status.work_counts
    previews = None if feedback is None else feedback.preview_runner
    return {
        "trustwatch_feedback_rules": {
            (kind,): 0 if feedback is None else feedback.rule_publisher.active_counts[kind]
            for kind in ("agent", "peer_group")
        },
        "trustwatch_feedback_matched_total": {(): counts.get("feedback_matched", 0)},
        "trustwatch_feedback_previews_total": {}
        if previews is None
        else {(outcome,): count for outcome, count in previews.ended_counts.items()},
        "trustwatch_feedback_previews_waiting": {(): 0 if previews is None else previews.running_count},
    }


SLICE = Slice("feedback", routers=(router,), metrics=_metric_values)
