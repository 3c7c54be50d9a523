"""The documented metrics, the example alerts, and the formats of `/metrics`."""

import re

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text_families

from app.metrics import PublicationMetrics, exposition
from tests.processes import ROOT

DATA = PublicationMetrics(1.0, 2.0, 3.0, 4.0)
DOCUMENTED = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)


def test_the_example_alerts_use_documented_metrics() -> None:
    document = yaml.safe_load((ROOT / "docs" / "prometheus-alerts.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    used = set()
    for rule in rules:
        promql_parser.parse(rule["expr"])
        used |= set(re.findall(r"\bpypi_stats_\w+", rule["expr"]))
        assert rule["annotations"]["summary"]
        assert rule["for"]
    assert used <= set(DOCUMENTED)
    assert {"pypi_stats_data_age_seconds", "pypi_stats_held_dates"} <= used


def test_every_metric_is_documented() -> None:
    ours = {family.name for family in REGISTRY.collect() if family.name.startswith("pypi_stats_")}
    assert len(ours) + len(list(DATA.collect())) == len(DOCUMENTED)


@pytest.mark.parametrize(
    ("accept", "is_open_metrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("text/plain;version=1.x", False),
        ("application/openmetrics-text;q=0, text/plain", False),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3", True),
        ("Application/OpenMetrics-Text; version=x", True),
    ],
)
def test_openmetrics_is_sent_to_clients_that_accept_it(accept: str, is_open_metrics: bool) -> None:
    content, media_type = exposition(DATA, accept)
    expected = "application/openmetrics-text" if is_open_metrics else "text/plain"
    assert media_type.startswith(expected)
    parse = openmetrics.text_string_to_metric_families if is_open_metrics else text_families
    samples = {one.name: one.value for family in parse(content.decode()) for one in family.samples}
    assert samples["pypi_stats_held_dates"] == 3
    assert "process_cpu_seconds_total" in samples
