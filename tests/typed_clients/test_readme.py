"""The README generates clients by the commands that are tested."""

from tests.processes import ROOT
from tests.typed_clients import test_python, test_typescript


def test_the_readme_shows_the_commands_that_are_run() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in (test_python.GENERATE, test_typescript.GENERATE):
        assert f"\n```sh\n{command}\n```\n" in readme
