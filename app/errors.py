"""Everything that can go wrong and that somebody is told about.

Each error carries the HTTP status that the API answers with, and two texts: `str(error)` is the
command line's one line and the log's, `detail` is what a client of the API is told.
"""

from dataclasses import dataclass
from datetime import date


class StatsError(Exception):
    status = 500

    may_pass = False
    """Whether doing the same again, a little later, may well succeed."""

    data_as_of: date | None = None
    """The latest published day in the data that the error is about."""

    @property
    def detail(self) -> str:
        return str(self)


class SettingsError(StatsError):
    """A setting has a value that the service cannot run with."""


# What a request asked for


class PackageNotFoundError(StatsError):
    status = 404


class BreakdownNotFoundError(StatsError):
    """A breakdown that no day has, or that does not apply to what is asked for."""

    status = 404


@dataclass(frozen=True, slots=True)
class ArgumentError:
    """One argument of a request with a value that is not right, and what would be."""

    parameter: str
    message: str


class InvalidArgumentsError(StatsError):
    status = 422

    def __init__(self, errors: list[ArgumentError]) -> None:
        super().__init__("; ".join(f"{error.parameter}: {error.message}" for error in errors))
        self.errors = errors


class OtherPublicationError(StatsError):
    """A query saw another publication than the expected one."""


class UnavailableError(StatsError):
    """What can't be answered now, and can be later."""

    status = 503
    retry_after_seconds = 5
    may_pass = True


class DatabaseUnavailableError(UnavailableError):
    @property
    def detail(self) -> str:
        return "The database can't be reached at the moment."


class DatabaseRefusedError(DatabaseUnavailableError):
    """It knows neither the user nor the database, and will not by itself."""

    may_pass = False


class RequestTimeoutError(UnavailableError):
    def __init__(self, seconds: float) -> None:
        super().__init__(f"The answer took more than {seconds:g} s.")


class StoppingError(UnavailableError):
    def __init__(self) -> None:
        super().__init__("The service is stopping.")


class NothingPublishedError(UnavailableError):
    retry_after_seconds = 300

    def __init__(self) -> None:
        super().__init__("No day has been published yet.")


class NotReadyError(UnavailableError):
    pass


# What an operator asked for


class DatabaseStartError(StatsError):
    """The embedded Postgres could not be started."""


class ServerStartError(StatsError):
    def __init__(self) -> None:
        super().__init__("the server did not start: its log says why")


class MigrationError(StatsError):
    """The database's schema is not one that this code can bring up to date."""


class TableInUseError(StatsError):
    may_pass = True

    def __init__(self) -> None:
        super().__init__(
            "retention: long transactions kept daily_downloads in use, so nothing was dropped; "
            "the next run tries again"
        )


class DayNotPublishedError(StatsError):
    def __init__(self, day: date) -> None:
        super().__init__(f"{day} is not published: `python -m app status` tells which days are")


class IngestError(StatsError):
    """A day was not published. What was held before is untouched."""


class DayWithoutDownloadsError(IngestError):
    """A day that nobody has downloads of: it is not over, or nobody counted yet."""

    def __init__(self, day: date, first: date, latest: date) -> None:
        super().__init__(
            f"{day} is no day with downloads: the first of them is {first}, "
            f"the latest complete UTC day is {latest}"
        )


class DayOutsideWindowError(IngestError):
    def __init__(self, day: date, first: date, latest: date) -> None:
        super().__init__(
            f"{day} is outside the window that is served, {first} to {latest}: "
            "RETENTION_DAYS sets its length"
        )


class EmptyDayError(IngestError):
    def __init__(self, day: date, source: str, rejected: int) -> None:
        rows = f"no valid rows ({rejected} rejected)" if rejected else "no rows"
        super().__init__(f"{source} has {rows} for {day}: nothing was published")


class DayTimeoutError(IngestError):
    may_pass = True

    def __init__(self, day: date, seconds: float) -> None:
        super().__init__(f"{day} took more than {seconds:g} seconds")


class DuplicatePackageError(IngestError):
    def __init__(self, day: date) -> None:
        super().__init__(f"the source gave a package more than once for {day}")


class SampleDataHeldError(IngestError):
    def __init__(self, source: str) -> None:
        super().__init__(
            f"the database holds sample data, which is never mixed with data from {source}: "
            "run `python -m app ingest --replace-sample` once to delete the sample "
            "as the first real day is published"
        )


class RealDataHeldError(IngestError):
    def __init__(self) -> None:
        super().__init__(
            "the database holds real data, which is never mixed with sample data: "
            "use another database for the sample"
        )


class HeldDayError(IngestError):
    """A day that was read and does not look plausible. It is held: kept, and not served."""

    def __init__(self, day: date, reason: str) -> None:
        super().__init__(
            f"{day} is held, not published: {reason} "
            f"(`python -m app ingest --date {day} --force` publishes it all the same)"
        )
        self.reason = reason


class NoSourceError(SettingsError):
    def __init__(self) -> None:
        super().__init__("INGEST_SOURCE=none: --source should name where the downloads come from")


class ShrunkDayError(IngestError):
    """A published day of which the source has less now."""

    def __init__(self, day: date, downloads: int, published: int) -> None:
        super().__init__(
            f"{day} has {downloads:,} downloads with mirrors now, and {published:,} are published: "
            f"it stays (`python -m app ingest --date {day} --force` replaces it)"
        )


class SourceError(IngestError):
    """The source of downloads refused, or is not set up."""


class SourceUnavailableError(SourceError):
    """The source of downloads is away, or broke off."""

    may_pass = True


class QueryLostError(SourceUnavailableError):
    """What a query had found is no longer there: it has to be asked anew."""


class SourceDayError(SourceError):
    """The source refused one day, and may give others."""


class DumpsError(StatsError):
    """The folder or bucket of dumps can't be written to, or read."""


class DumpsUnavailableError(UnavailableError):
    retry_after_seconds = 60

    @property
    def detail(self) -> str:
        return "The dumps can't be read at the moment."


class DumpNotFoundError(StatsError):
    status = 404

    def __init__(self) -> None:
        super().__init__("There is no such dump: /api/dumps lists those that there are.")


class MalformedDumpError(StatsError):
    """A file, or a list of files, is not what it should be."""


class LockLostError(StatsError):
    may_pass = True

    def __init__(self) -> None:
        super().__init__(
            "the connection that kept others from ingesting at the same time was lost: "
            "nothing more was published"
        )
