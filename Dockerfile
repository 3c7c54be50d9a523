# The first stage builds the wheel and installs it. Only the environment is copied to the image.
FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS base

FROM base AS build
ENV PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements ./requirements
RUN pip install --require-hashes --only-binary :all: --requirement requirements/build.txt \
    && python -m venv --without-pip /srv/venv \
    && pip --python /srv/venv/bin/python install --require-hashes --only-binary :all: --requirement requirements/image.txt
COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY alembic ./alembic
COPY app ./app
RUN pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /srv/venv/bin/python install --no-deps --no-index dist/*.whl

FROM base
RUN pip uninstall --yes pip \
    && rm -r /usr/local/lib/python3.13/ensurepip \
    && install --directory --owner 10001 --group 10001 /srv/.data
COPY --from=build /srv/venv /srv/venv
WORKDIR /srv
ENV PATH=/srv/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8000 \
    LOG_FORMAT=json \
    INGEST_SOURCE=bigquery
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
CMD ["pypi-stats", "serve"]
