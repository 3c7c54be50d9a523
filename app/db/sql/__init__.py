"""The long SQL statements, each in a file of its own."""

from pathlib import Path


def load_sql(name: str, **parts: object) -> str:
    """Return a statement with its `{placeholders}` replaced by these parts."""
    statement = (Path(__file__).parent / f"{name}.sql").read_text()
    for placeholder, part in parts.items():
        statement = statement.replace(f"{{{placeholder}}}", str(part))
    return statement
