"""What has to be stored and served: counted here from the raw downloads, one by one, without
anything of the service's own.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from random import Random

from app.domain.downloads import PackageDownloads
from tests.bigquery_table import Event

Days = Mapping[date, Sequence[Event]]
"""The raw downloads of each day that is published."""

Figure = tuple[str, date, str, str]
"""Package, day, series, category."""

MIRRORS = ("bandersnatch", "z3c.pypimirror", "Artifactory", "devpi")

PACKAGES = ("boto3", "flask", "numpy", "requests", "six", "zope-interface")

ALL = "__all__"

SERIES = ("overall", "python_major", "python_minor", "system")


def made_up(random: Random, day: date, count: int) -> list[Event]:
    """Return this many downloads of each package on the day. The first one counts everywhere."""
    return [
        Event(
            project=package,
            python=random.choice(["3.12.1", "3.13.0", "2.7.18", None]) if number else "3.12.1",
            installer=random.choice(["pip", "pip", "uv", "bandersnatch", None])
            if number
            else "pip",
            system=random.choice(["Linux", "Windows", "FreeBSD", None]) if number else "Linux",
            at=datetime.combine(day, time(random.randrange(24)), UTC),
        )
        for package in PACKAGES
        for number in range(count)
    ]


def categories(event: Event) -> Iterator[tuple[str, str]]:
    """The series and their categories that a download counts in."""
    yield "overall", "with_mirrors"
    if event.installer is None or event.installer in MIRRORS:
        return
    yield "overall", "without_mirrors"
    python = event.python.split(".") if event.python else None
    yield "python_major", python[0] if python else "null"
    yield "python_minor", ".".join(python[:2]) if python else "null"
    known = ("Linux", "Windows", "Darwin")
    system = event.system.lower() if event.system in known else "other"
    yield "system", system if event.system else "null"


def figures(days: Days) -> Counter[Figure]:
    """All that is to be stored."""
    counts: Counter[Figure] = Counter()
    for day, events in days.items():
        for event in events:
            assert event.project
            for series, category in categories(event):
                counts[event.project, day, series, category] += 1
                counts[ALL, day, series, category] += 1
    return counts


def answers(days: Days, retention_days: int) -> dict[str, object]:
    """All that is to be served, by its path."""
    latest = max(days)
    window = {
        day: events for day, events in days.items() if day > latest - timedelta(days=retention_days)
    }
    served: dict[str, dict[tuple[str, date], int]] = {}
    for (package, day, series, category), count in figures(window).items():
        for path in (f"/api/packages/{package}/{series}",):
            served.setdefault(path, {})[category, day] = count
    found: dict[str, object] = {}
    for path, counts in served.items():
        package, series = path.split("/")[-2:]
        data = [
            {"category": category, "date": str(day), "downloads": count}
            for (category, day), count in sorted(counts.items())
        ]
        found[path] = {"data": data, "package": package, "type": f"{series}_downloads"}
        if series == "overall":
            recent = {
                f"last_{name}": sum(
                    count
                    for (category, day), count in counts.items()
                    if category == "without_mirrors" and day > latest - timedelta(days=length)
                )
                for name, length in (("day", 1), ("week", 7), ("month", 30))
            }
            found[f"/api/packages/{package}/recent"] = {
                "data": recent,
                "package": package,
                "type": "recent_downloads",
            }
    return found


def rows(events: Iterable[Event]) -> list[PackageDownloads]:
    """Return the rows of a day as a correct source counts them."""
    counts = figures({date.min: list(events)})
    found = []
    for package in sorted({figure[0] for figure in counts} - {ALL}):
        breakdowns: dict[str, dict[str, int]] = {"python_minor": {}, "system": {}}
        for (name, _, series, category), count in counts.items():
            if name == package and series in breakdowns:
                breakdowns[series][category] = count
        found.append(
            PackageDownloads(
                package,
                counts[package, date.min, "overall", "with_mirrors"],
                counts[package, date.min, "overall", "without_mirrors"],
                breakdowns,
            )
        )
    return found
