# Two stages: what builds stays behind.
FROM python:3.13-slim AS build
WORKDIR /srv
RUN python -m venv /srv/.venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app ./app
# Installed in place: the folder is where alembic.ini and the migrations are found.
RUN .venv/bin/python -m pip install --no-cache-dir --constraint constraints.txt --editable .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home app && install --directory --owner app /srv/.data
WORKDIR /srv
COPY --from=build /srv ./
COPY alembic.ini ./
COPY alembic ./alembic
ENV PATH=/srv/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    LOG_FORMAT=json \
    INGEST_SOURCE=bigquery
USER app
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
CMD ["python", "-m", "app", "serve"]
