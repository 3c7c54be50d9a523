"""Parts of payload models that several endpoints share."""

from collections.abc import Mapping
from typing import Annotated, cast

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict

PackageField = Annotated[
    str, Field(description="Normalised name (PEP 503), or `__all__`.", examples=["requests"])
]


def not_null(schema: JsonDict) -> None:
    """Document a property that may be missing and is never null."""
    # Pydantic writes constraints of optional values by their names in Python.
    if "ge" in schema:
        schema["minimum"] = int(cast("float", schema.pop("ge")))
    schema.pop("default", None)


def example(payload: Mapping[str, object]) -> ConfigDict:
    """Return the configuration of a payload model with this example."""
    return ConfigDict(json_schema_extra=cast("JsonDict", {"examples": [payload]}))
