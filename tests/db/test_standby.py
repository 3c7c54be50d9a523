"""A service on a read replica: here a server that was made one after its data was published."""

import os
from pathlib import Path

import httpx

from app.db.embedded import embedded_postgres
from app.db.engine import create_engine
from app.db.migrations import migrate
from app.main import create_app
from app.settings import Settings
from tests.days import days_ago, downloads, publish
from tests.waiting import until_known


async def test_a_read_replica_is_served_from(data_dir: Path, settings: Settings) -> None:
    with embedded_postgres(data_dir) as url:
        engine = create_engine(url)
        await migrate(engine)
        await publish(engine, days_ago(0), downloads("flask", 7))
        await engine.dispose()
    cluster = data_dir / "postgres"
    signal = cluster / "standby.signal"
    signal.touch()
    os.chown(signal, cluster.stat().st_uid, cluster.stat().st_gid)
    with embedded_postgres(data_dir) as url:
        engine = create_engine(url)
        await migrate(engine)
        await engine.dispose()
        app = create_app(settings, url)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.running(),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            await until_known(app)
            answer = await client.get("/api/packages/flask/recent")
            assert answer.json()["data"]["last_day"] == 7
            assert answer.headers["etag"]
            assert (await client.get("/ready")).status_code == 200
            status = (await client.get("/api/status")).json()
            assert (status["latest_day"], status["next_run"]) == (str(days_ago(0)), None)
    signal.unlink()
