"""Known breaks in the figures: the files that list them, and which days they make comparable."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from app.domain.events import ARTIFACTS_SINCE, CountedFiles, Event, EventKind, KnownEvents
from app.errors import SettingsError
from app.settings import load_settings

ALL, ARTIFACTS = CountedFiles.ALL, CountedFiles.ARTIFACTS
DAY = timedelta(days=1)

OWN = """
[[events]]
date = 2026-03-01
end_date = 2026-03-10
kind = "definition"
summary = "Our mirror was counted."
url = "https://stats.example/mirror"

[[events]]
date = "2026-05-01"
kind = "outage"
summary = " We lost a disk. "
url = "http://stats.example/disk"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownEvents:
    file = tmp_path / "events.toml"
    # Editors on Windows begin a file with a byte order mark.
    file.write_text(OWN, encoding="utf-8-sig")
    monkeypatch.setenv("INGEST_EVENTS_FILE", str(file))
    return KnownEvents(load_settings().ingest_events_file)


def test_the_known_events_of_pypi() -> None:
    known = [(event.date, event.end_date, event.kind) for event in KnownEvents().newest_first]
    assert known == [
        (ARTIFACTS_SINCE, None, "definition"),
        (date(2021, 11, 26), date(2021, 12, 10), "outage"),
        (date(2016, 1, 1), date(2018, 7, 26), "outage"),
    ]


def test_an_operator_adds_events(own: KnownEvents) -> None:
    dates = [event.date for event in own.newest_first]
    assert dates == sorted(dates, reverse=True)
    assert len(dates) == len(KnownEvents().newest_first) + 2
    (disk,) = (event for event in own.newest_first if event.date == date(2026, 5, 1))
    assert (disk.end_date, disk.kind) == (None, EventKind.OUTAGE)
    assert disk.summary == "We lost a disk."
    assert own.digest != KnownEvents().digest


@pytest.mark.parametrize(
    ("content", "right"),
    [
        (None, "should name a file that can be read (No such file"),
        ("[[events]\n", "TOML file"),
        ("\xff", "TOML file"),
        (f"events = {'[' * 10_000}", "TOML file"),
        ("events = 1\n", "events: Input should be a valid tuple"),
        ("", "events: Field required"),
        ('[[event]]\ndate = "2026-05-01"\n', "events: Field required"),
        (OWN + "number = 1\n", "[[events]] number 2, number: Extra inputs are not permitted"),
        (OWN.replace("outage", "fire"), "number 2, kind: Input should be 'definition' or 'outage'"),
        (OWN.replace("2026-03-10", "2026-02-28"), "number 1: end_date should not be before date"),
        (OWN.replace("2026-03-01", "2026-02-29"), "TOML file"),
        *(
            (OWN.replace('"2026-05-01"', value), "number 2, date: should be a day such as")
            for value in ('"May"', '"20260501"')
        ),
        *(
            (OWN.replace('"2026-05-01"', value), "number 2, date: Input should be a valid date")
            for value in ("20260501", "2026-05-01T00:00:00Z", "true")
        ),
        *(
            (OWN.replace("http://", value), "number 2, url: String should match pattern")
            for value in ("//", "https:// ", "javascript:")
        ),
        (OWN.replace('" We lost a disk. "', '" "'), "number 2, summary: String should have at"),
        (OWN.replace('kind = "outage"\n', ""), "number 2, kind: Field required"),
    ],
)
def test_the_error_of_an_events_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, right: str
) -> None:
    file = tmp_path / "events.toml"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    monkeypatch.setenv("INGEST_EVENTS_FILE", str(file))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith("INGEST_EVENTS_FILE: ")
    assert right in message
    assert "\n" not in message


def _event(kind: str, start: date, end: date | None = None) -> Event:
    return Event(
        date=start, end_date=end, kind=EventKind(kind), summary="Lost", url="https://x.example"
    )


@pytest.mark.parametrize(
    ("kind", "end", "shown_after", "shown_later"),
    [
        # A permanent definition is a step on its first day.
        ("definition", None, False, False),
        ("definition", date(2026, 3, 10), True, False),
        ("outage", date(2026, 3, 10), True, False),
        # It has not ended.
        ("outage", None, True, True),
    ],
)
def test_which_charts_show_an_event(
    kind: str, end: date | None, shown_after: bool, shown_later: bool
) -> None:
    start = date(2026, 3, 1)
    event = _event(kind, start, end)
    assert not event.is_within(start - 9 * DAY, start - DAY)
    assert event.is_within(start - 9 * DAY, start)
    assert event.is_within(start, start)
    assert event.is_within(start + DAY, start + 5 * DAY) == shown_after
    assert event.is_within(start + 9 * DAY, start + 9 * DAY) == shown_after
    assert event.is_within(start + 10 * DAY, start + 99 * DAY) == shown_later


def test_changes_that_begin_together_differ_by_their_ends() -> None:
    start = date(2026, 3, 1)
    events = KnownEvents(_event("definition", start, start + days * DAY) for days in (5, 15))
    one, other = (events.definition(start + days * DAY, CountedFiles.ALL) for days in (3, 10))
    assert one != other


def test_days_before_and_after_a_change_are_not_comparable(own: KnownEvents) -> None:
    def of(day: date) -> object:
        return own.definition(day, ALL)

    before, changed, after = (ARTIFACTS_SINCE + days * DAY for days in (-1, 0, 1))
    assert of(before) == of(before - 30 * DAY)
    assert of(after) == of(after + 300 * DAY)
    # The day of the change is counted partly by each rule.
    assert len({of(before), of(changed), of(after)}) == 3
    # A temporary change leaves the days around it comparable, an outage all days.
    assert of(date(2026, 2, 28)) == of(date(2026, 3, 11)) == of(date(2026, 5, 1))
    assert of(date(2026, 3, 2)) == of(date(2026, 3, 9))
    assert len({of(date(2026, 3, day)) for day in (1, 2, 11)}) == 3
    assert of(date(2026, 3, 10)) not in (of(date(2026, 3, 9)), of(date(2026, 3, 11)))


def test_days_counted_by_artifacts_are_comparable_across_the_change(own: KnownEvents) -> None:
    around = [ARTIFACTS_SINCE + days * DAY for days in range(-40, 40)]
    by_artifacts = {own.definition(day, ARTIFACTS) for day in around}
    assert len(by_artifacts) == 1
    assert by_artifacts == {own.definition(ARTIFACTS_SINCE + DAY, ALL)}
    assert own.definition(ARTIFACTS_SINCE - DAY, ALL) not in by_artifacts
    # Other changes are none of files.
    assert own.definition(date(2026, 3, 2), ARTIFACTS) not in by_artifacts
