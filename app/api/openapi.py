"""The OpenAPI document: FastAPI's, with errors under the media type that they have."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.problem_details import MEDIA_TYPE

_DESCRIPTION = """\
Download statistics of the packages on PyPI, as JSON, without a key.

* Source: PyPI's public BigQuery table of downloads, aggregated once a day (UTC).
* Known mirrors are left out of every figure but the category `with_mirrors`.
* Time series reach back {retention_days} days, ending with the latest published one: `/api/status`.
* A day on which a category had no download has no item.
* `__all__` as a package stands for every package together.

Data changes once a day: please cache answers. For bulk use, query BigQuery.
"""


def describe(app: FastAPI, retention_days: int) -> None:
    """Give the app its OpenAPI document."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = get_openapi(
                title=app.title,
                version=app.version,
                description=_DESCRIPTION.format(retention_days=retention_days),
                routes=app.routes,
            )
            _name_problems(app.openapi_schema)
        return app.openapi_schema

    # FastAPI documents this as the way to it.
    app.openapi = openapi  # type: ignore[method-assign]


def _name_problems(schema: dict[str, Any]) -> None:
    for path in schema["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status >= "400":
                    response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}
