"""Limits for reading dumps. Files may come from anywhere, so they are read in bounded pieces."""

BATCH_ROWS = 2_000  # rows that are written, or read, at a time
MAX_BATCH_CATEGORIES = 500_000  # per batch that is read; 2,000 rows of PyPI have about 100,000
MAX_ROWS = 5_000_000  # per day; PyPI has less than a million packages
MAX_LINE_BYTES = 2**17  # per row of text, with its line breaks; most have a few hundred
MAX_LINES = 2 * MAX_ROWS  # per file of text, because blank lines do not count as rows
MAX_UNPACKED_BYTES = 8 * 2**30  # per file; a day of PyPI has a few hundred million
MAX_READER_BYTES = 2**30  # memory of the process that reads Parquet; a day of PyPI takes 200 MB
MAX_READER_SECONDS = 600  # CPU time of that process; a day of PyPI takes less than a minute
MAX_PACKAGE_CHARACTERS = 1_000  # more than the pipeline accepts, which reports the name
