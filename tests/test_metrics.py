"""What operators are told of the metrics."""

import re

import promql_parser
import yaml
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from app import metrics
from app.metrics import PublishedData
from tests.processes import ROOT


def _documented() -> str:
    """The rows of the README's table of metrics."""
    ours = [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]
    rows = []
    for metric in ours:
        (family,) = metric.describe()
        suffix = "_total" if family.type == "counter" else ""
        labels = ", ".join(f"`{name}`" for name in metric._labelnames)
        rows.append(f"| `{family.name}{suffix}` | {labels} | {family.documentation} |")
    registry = CollectorRegistry()
    registry.register(PublishedData(0, 0, 0, 0))
    rows += [f"| `{family.name}` |  | {family.documentation} |" for family in registry.collect()]
    return "\n".join(rows)


def test_the_readme_lists_every_metric() -> None:
    assert _documented() in (ROOT / "README.md").read_text(), (
        f"README.md should have\n{_documented()}"
    )


def test_the_example_alerts_ask_for_metrics_that_there_are() -> None:
    """And in a language that Prometheus speaks."""
    document = yaml.safe_load((ROOT / "docs" / "prometheus-alerts.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    documented = set(re.findall(r"^\| `(\w+)`", _documented(), re.MULTILINE))
    asked = set()
    for rule in rules:
        promql_parser.parse(rule["expr"])
        asked |= set(re.findall(r"\bpypi_stats_\w+", rule["expr"]))
        assert rule["annotations"]["summary"]
        assert rule["for"]
    assert asked <= documented
    assert {"pypi_stats_data_age_days", "pypi_stats_held_days"} <= asked


def test_ours_are_told_by_their_names() -> None:
    ours = {family.name for family in REGISTRY.collect() if family.name.startswith("pypi_stats_")}
    # Those of what is published are told by `exposition`.
    assert len(ours) + len(list(PublishedData(0, 0, 0, 0).collect())) == len(
        _documented().splitlines()
    )
