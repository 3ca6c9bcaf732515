"""What Prometheus is told about requests. Labels are bounded: routes by their templates, methods by those we serve."""

from __future__ import annotations

from functools import lru_cache

from aiohttp import web
from prometheus_client import Counter, Histogram

REQUESTS = Counter("landlord_http_requests", "Requests answered.", ["route", "method", "status"])
SECONDS = Histogram(
    "landlord_http_request_seconds",
    "Time until the answer was ready.",
    ["route", "method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@lru_cache(maxsize=1024)
def _count(route: str, method: str, status: int) -> Counter:
    return REQUESTS.labels(route, method, str(status))


@lru_cache(maxsize=256)
def _seconds(route: str, method: str) -> Histogram:
    return SECONDS.labels(route, method)


def observe(request: web.Request, *, status: int, seconds: float) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unmatched"
    method = request.method if request.method in METHODS else "other"
    _count(route, method, status).inc()
    _seconds(route, method).observe(seconds)
