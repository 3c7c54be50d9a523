"""Formats of a response."""

JSON = b"application/json"
CSV = b"text/csv; charset=utf-8"

FORMAT = "format"
"""Argument that takes precedence over the `Accept` header."""
