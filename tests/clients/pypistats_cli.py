"""The published client's command line, sent to another service, on a given day.

Arguments: the service's address, a folder for the client's cache, the day, and the client's own.
"""

import datetime as dt
import sys
from pathlib import Path
from types import SimpleNamespace

import pypistats
import pypistats._cache
import pypistats.cli

if __name__ == "__main__":
    address, cache, today, *arguments = sys.argv[1:]

    class Date(dt.date):
        """`--last-month` and `--this-month` would else depend on the day on which they are run."""

        @classmethod
        def today(cls) -> "Date":
            return cls.fromisoformat(today)

    pypistats.BASE_URL = f"{address}/api/"
    pypistats._cache.CACHE_DIR = Path(cache)
    pypistats.cli.dt = SimpleNamespace(date=Date, datetime=dt.datetime)
    sys.argv = ["pypistats", *arguments]
    pypistats.cli.main()
