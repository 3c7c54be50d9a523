"""Faults on purpose, and what the database and the service make of them.

`make test-faults` runs these. Whatever is chosen at random is chosen by the seed.
"""

from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.faults.tally import Tally
from tests.faults.world import Settled, World, made, settled_database

SEED = 1

_tally = pytest.StashKey[Tally]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=SEED, help="Of the faults that are chosen.")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_tally] = Tally()


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed of the faults: {config.getoption('seed')}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and not session.config.stash[_tally].is_clean:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    tally = config.stash[_tally]
    terminalreporter.section("faults")
    for kind, count in sorted(tally.faults.items()):
        terminalreporter.line(f"{count:6,}  {kind}")
    terminalreporter.line(f"{tally.answers:6,}  answers compared with the raw downloads")
    for note in tally.notes:
        terminalreporter.line(f"        {note}")
    terminalreporter.line(f"seed {config.getoption('seed')}: {tally}")


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    return pytestconfig.stash[_tally]


@pytest.fixture
def random(request: pytest.FixtureRequest) -> Random:
    """The test's own: whichever tests run before it, it chooses the same."""
    return Random(f"{request.config.getoption('seed')} {request.node.name}")


@pytest.fixture(scope="session")
async def world(
    server_url: str, _template: None, pytestconfig: pytest.Config
) -> AsyncIterator[World]:
    async with made(server_url, Random(pytestconfig.getoption("seed"))) as world:
        yield world


@pytest.fixture(scope="session")
async def settled(
    server_url: str, _template: None, pytestconfig: pytest.Config
) -> AsyncIterator[Settled]:
    async with settled_database(server_url, Random(pytestconfig.getoption("seed"))) as settled:
        yield settled
