"""The documentation shows the commands that the tests run."""

from tests.processes import ROOT
from tests.typed_clients import test_openapi_generator, test_python, test_typescript


def test_the_document_shows_the_commands_that_are_run() -> None:
    document = (ROOT / "docs" / "api.md").read_text()
    for command in (
        test_python.GENERATE,
        test_typescript.GENERATE,
        test_openapi_generator.GENERATE_GO,
        test_openapi_generator.GENERATE_JAVA,
    ):
        assert f"\n```sh\n{command}\n```\n" in document
