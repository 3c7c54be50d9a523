"""Limits for reading dumps. Files may come from anywhere, so they are read in bounded pieces."""

BATCH_ROWS = 2_000
"""Number of rows that are written or read at a time."""

MAX_BATCH_CATEGORIES = 500_000
"""Maximum number of categories in a batch that is read. 2,000 rows of PyPI have about 100,000."""

MAX_ROWS = 5_000_000
"""Maximum number of rows of a file. PyPI has less than a million packages."""

MAX_LINE_BYTES = 2**17
"""Maximum length of a row as text, with its line breaks. Most have a few hundred bytes."""

MAX_LINES = 2 * MAX_ROWS
"""Maximum number of lines of a file of text. Blank lines do not count as rows."""

MAX_UNPACKED_BYTES = 8 * 2**30
"""Maximum size of an unpacked file. A day of PyPI has a few hundred million bytes."""

MAX_READER_BYTES = 2**30
"""Maximum memory of the process that reads Parquet. A day of PyPI takes 200 MB."""

MAX_READER_SECONDS = 600
"""Maximum CPU time of that process. A day of PyPI takes less than a minute."""

MAX_PACKAGE_CHARACTERS = 1_000
"""Maximum length of a package's name. The pipeline accepts shorter names only, and
reports others.
"""
