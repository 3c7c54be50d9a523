"""Limits of dumps. Files may come from anybody, so they are read in bounded pieces."""

BATCH_ROWS = 2_000  # rows that are written, or read, at a time
MAX_ROWS = 5_000_000  # per day; PyPI has less than a million packages
MAX_LINE_BYTES = 4 * 2**20  # per row of text, with its line breaks; most have a few hundred
MAX_UNPACKED_BYTES = 8 * 2**30  # per file; a day of PyPI has a few hundred million

# Per column and row group of Parquet, unpacked: it may be a single page, which is unpacked at once.
# A day of PyPI in one row group has about 50 MB.
MAX_CHUNK_BYTES = 256 * 2**20

# Per batch in Arrow, and per column's texts in a batch. 2,000 usual rows have 500 kB.
MAX_BATCH_BYTES = 64 * 2**20
MAX_BATCH_CATEGORIES = 1_000_000  # texts per column of a batch of Parquet

MAX_PACKAGE_CHARACTERS = 1_000  # more than the pipeline accepts, which reports the name

# Weights approximate the memory of categories: their characters, and a constant for each.
CATEGORY_WEIGHT = 100
MAX_BATCH_WEIGHT = 2**24  # 2,000 rows of PyPI have a third of it
# Per breakdown of a row: about 10,000 categories, far more than there are real ones. Clients can
# invent Python versions.
MAX_BREAKDOWN_WEIGHT = 2**20
