"""Payload models of the data endpoints, as they are declared."""

from pydantic import BaseModel

from app.main import ENDPOINTS

PAYLOADS: dict[str, type[BaseModel]] = {
    endpoint.path.removeprefix("/api/"): endpoint.payload for endpoint in ENDPOINTS
}
"""Examples by path template below `/api/`."""

SERIES_PAYLOADS = {
    path.removeprefix("packages/{package}/"): payload
    for path, payload in PAYLOADS.items()
    if path.startswith("packages/{package}/")
    and not path.endswith(("/total", "/history", "/python_support"))
}
"""Examples of the endpoints of one package, by the last segment of the path."""
