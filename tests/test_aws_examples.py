"""The examples for Lambda name what exists, and answer in its environment."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tracedbridge
from tests.aws.runtime_api import Environment
from tests.events.lambda_events import Asked, event_of
from tests.telemetry.received import Received
from tracedbridge.serving.receiver import Receiver

pytestmark = [pytest.mark.frameworks, pytest.mark.telemetry]

SOURCE = Path(tracedbridge.__file__).parents[1]
EXAMPLES = SOURCE / "examples" / "aws"
APPS = ("fastapi", "flask")


def template() -> Any:
    """Return the SAM template, its references as what they name."""
    yaml = pytest.importorskip("yaml")

    class Loader(yaml.SafeLoader):  # type: ignore[misc,name-defined]  # PyYAML's, which is Any here
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: {suffix: node.value})
    # Of our own file, by a safe loader.
    return yaml.load(EXAMPLES.joinpath("template.yaml").read_text(), Loader)


def test_the_template() -> None:
    """Its references, folders, handler and variables are there."""
    told = template()
    function = told["Globals"]["Function"]
    module, _, name = function["Handler"].partition(".")
    assert module == tracedbridge.__name__
    assert name == "handler"
    names = {*told["Parameters"], *told["Resources"]}
    variables = function["Environment"]["Variables"]
    assert {value["Ref"] for value in variables.values() if isinstance(value, dict)} <= names
    readme = SOURCE.joinpath("README.md").read_text()
    assert all(variable.startswith("OTEL_") or variable in readme for variable in variables)
    for resource in told["Resources"].values():
        folder = EXAMPLES / resource["Properties"]["CodeUri"]
        assert folder.joinpath(variables["TRACEDBRIDGE_APP"]).is_file()
        assert folder.joinpath("requirements.txt").is_file()
    for output in told["Outputs"].values():
        # SAM makes a resource of that name for a function's URL.
        assert output["Value"]["GetAtt"].partition(".")[0].removesuffix("Url") in names


def test_the_dockerfile() -> None:
    """It copies what is there, and runs the same handler."""
    text = EXAMPLES.joinpath("Dockerfile").read_text()
    (command,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    assert json.loads(command) == [template()["Globals"]["Function"]["Handler"]]
    for app in APPS:
        for source in re.findall(r"^COPY (\S+)", text, re.MULTILINE):
            assert EXAMPLES.joinpath(source.replace("${APP}", app)).exists()
    assert (
        f"ENV TRACEDBRIDGE_APP={template()['Globals']['Function']['Environment']['Variables']['TRACEDBRIDGE_APP']}"
        in text
    )


@pytest.mark.parametrize("app", APPS)
def test_answers(app: str, tmp_path: Path) -> None:
    """Each app answers by the real runtime client, and is told."""
    pytest.importorskip("awslambdaric")
    path = str(EXAMPLES / app / "index.py")
    with Receiver() as receiver:
        with Environment(path, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint) as environment:
            for kind in ("function url", "rest", "alb"):
                answer = environment.invoke(event_of(kind, Asked(path="/price/3"))).payload
                assert json.loads(answer["body"]) == {"id": 3, "cents": 43}
            who = environment.invoke(event_of("http 2.0", Asked(path="/who", stage="prod"))).payload
            environment.wait_until_idle()
        spans = Received(receiver).servers()
    assert json.loads(who["body"])["mounted at"] == "/prod"
    assert json.loads(who["body"])["request"] == spans[-1].attributes["faas.invocation_id"]
    assert len(spans) == 4
