"""Errors that are reported to a client of the API or to an operator.

A `RequestError` becomes an RFC 9457 response (`app.api.problem_details`). An `OperatorError`
becomes one line of the command line or of the log. `DatabaseUnavailableError` is both.
"""

from dataclasses import dataclass
from datetime import date

# Errors of requests


class RequestError(Exception):
    """A request that fails. The text is the `detail` of the response."""

    status = 500

    data_as_of: date | None = None
    """Latest published day of the publication that the request was computed from."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class NotFoundError(RequestError):
    status = 404


@dataclass(frozen=True, slots=True)
class ArgumentError:
    """An argument with an invalid value, and a message that describes the valid values."""

    parameter: str
    message: str


class InvalidArgumentsError(RequestError):
    status = 422

    def __init__(self, errors: list[ArgumentError]) -> None:
        super().__init__("; ".join(f"{error.parameter}: {error.message}" for error in errors))
        self.errors = errors


class UnavailableError(RequestError):
    """A request that can be answered later."""

    status = 503

    def __init__(self, detail: str, retry_after_seconds: int = 5) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class OtherPublicationError(Exception):
    """A query saw another publication than the expected one, and has to be repeated."""


# Errors of commands and jobs


class OperatorError(Exception):
    """A command or job that failed. The exit status is 1.

    The text is one line without control characters, because it may quote a file or another server.
    """

    is_temporary = False
    """True if the same command or job may succeed a little later."""

    def __str__(self) -> str:
        text = " ".join(super().__str__().split())
        return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


class DatabaseUnavailableError(OperatorError, UnavailableError):
    """The database can't be reached. Only the message for operators says which one and why."""

    is_temporary = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.detail = "The database can't be reached at the moment."


class DatabaseRefusedError(DatabaseUnavailableError):
    """The database can't be used without a change by the operator, for example because the password
    is wrong or a pooler is in transaction mode.
    """

    is_temporary = False


class SettingsError(OperatorError):
    """A setting has an invalid value."""


class TableInUseError(OperatorError):
    """Readers prevented retention from dropping a table."""

    is_temporary = True


class LockLostError(OperatorError):
    is_temporary = True

    def __init__(self) -> None:
        super().__init__("the connection of the ingest lock was lost: nothing more was published")


class DayNotPublishedError(OperatorError):
    def __init__(self, day: date) -> None:
        super().__init__(f"{day} is not published: `pypi-stats status` lists the published days")


class MonthsNotStoredError(OperatorError):
    def __init__(self, first: object, last: object) -> None:
        super().__init__(f"no month from {first} to {last} is stored")


class IngestError(OperatorError):
    """A day was not published. The published data has not changed.

    `fault_kind` describes a fault in the data that other days are likely to have too.
    """

    def __init__(self, message: str, fault_kind: str | None = None) -> None:
        super().__init__(message)
        self.fault_kind = fault_kind


class DayTimeoutError(IngestError):
    is_temporary = True

    def __init__(self, period: object, seconds: float) -> None:
        super().__init__(f"{period} took more than {seconds:g} seconds")


class MixedDataError(IngestError):
    """Sample data and real data are never mixed, so no day can be published."""


class HeldDayError(IngestError):
    """A day's figures are not plausible. Its rows are stored, but not served."""

    def __init__(self, day: date, reason: str, fault_kind: str | None = None) -> None:
        advice = f"`pypi-stats ingest --date {day} --force` publishes it anyway"
        super().__init__(f"{day} is held, not published: {reason} ({advice})", fault_kind)
        self.reason = reason


class ShrunkDayError(IngestError):
    """A published day has fewer downloads in the source now, so the published rows stay."""

    def __init__(self, day: date, downloads: int, published: int) -> None:
        super().__init__(
            f"{day} has {downloads:,} downloads with mirrors now, and {published:,} are published: "
            f"the published day stays (`pypi-stats ingest --date {day} --force` replaces it)"
        )


class SourceError(IngestError):
    """The source of downloads refused the request, or is not set up."""


class SourceUnavailableError(SourceError):
    """The source of downloads can't be reached, or its response is incomplete."""

    is_temporary = True


class QueryLostError(SourceUnavailableError):
    """The result of a query can't be read any more, so the query has to run again."""


class SourceDayError(SourceError):
    """The source refused one day. Other days can succeed."""


class SourceDayUnavailableError(SourceDayError, SourceUnavailableError):
    """The server of one day's file can't be reached. Files of other days may be elsewhere."""


class RepeatedFaultError(IngestError):
    """Several days in a row have the same fault, so the other days were not tried."""


class DumpsError(OperatorError):
    """The folder or bucket of dumps can't be read or written."""


class MalformedDumpError(OperatorError):
    """A dump, or the list of dumps, has invalid content.

    `fault_kind` is the same text for all rows and files with this fault.
    """

    def __init__(self, fault_kind: str, *, place: str = "", value: object = None) -> None:
        shown = "" if value is None else f" ({value!r:.100})"
        super().__init__(f"{place}: {fault_kind}{shown}" if place else f"{fault_kind}{shown}")
        self.fault_kind = fault_kind
