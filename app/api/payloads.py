"""Rendered bodies, which handlers return, and parts shared by the payload models."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

JSON = b"application/json"
CSV = b"text/csv; charset=utf-8"

PackageField = Annotated[
    str, Field(description="Normalised name (PEP 503), or `__all__`.", examples=["requests"])
]


class RenderedBody(NamedTuple):
    """The body that a handler returns."""

    body: bytes
    media_type: bytes = JSON
    is_cacheable: bool = True
    """False if a client can request any number of such responses, and other clients do not need
    them.
    """


class Payload(BaseModel):
    """The payload of an endpoint. Its fields are declared in the order of the JSON keys."""

    def to_json(self) -> bytes:
        """Return the payload as JSON without whitespace."""
        return self.model_dump_json().encode()


def without_default(schema: JsonDict) -> None:
    """Document a property as optional, without the default value of the model."""
    schema.pop("default")


def example_config(payload: Mapping[str, object]) -> ConfigDict:
    """Return the configuration of a payload model with this example."""
    return ConfigDict(json_schema_extra=cast("JsonDict", {"examples": [payload]}))


def csv_docs(example: str) -> Mapping[str, Any]:
    """Return the documentation of a response that is available as CSV as well."""
    schema = {"schema": {"type": "string"}, "example": example.replace("\n", "\r\n")}
    return {"content": {"text/csv": schema}}
