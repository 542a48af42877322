"""/openapi.json is complete and true: schemathesis asks a running server what it allows, and what it forbids."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.serving.test_store_routes import Client

HERE = Path(__file__).parent
EXAMPLES = os.environ.get("FLORENCE2_EXAMPLES", "")  # a number: every phase, with so many examples


def asked_by_schemathesis(url, folder, *arguments, **more):
    """What it has to say once it has asked all that the description allows."""
    phases = "examples,coverage,fuzzing,stateful" if EXAMPLES else "fuzzing"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml"), "run"]
    command += [url + "/openapi.json", "--phases", phases, "--max-examples", EXAMPLES or "6", "--no-color"]
    command += ["--seed", "1", "--request-timeout", "60", "--suppress-health-check", "all", *arguments]
    env = {
        **os.environ,
        **more,
        "SCHEMATHESIS_HOOKS": "tests.serving.schemathesis_hooks",
        "PYTHONPATH": str(HERE.parent.parent),
    }
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_whatever_is_generated_from_the_description_is_answered_as_described(server, tmp_path):
    said = asked_by_schemathesis(server.url, tmp_path)
    described = httpx.get(server.url + "/openapi.json").json()
    assert f"Tested: {sum(map(len, described['paths'].values()))}\n" in said


@pytest.mark.slow
def test_so_are_the_routes_of_a_store(tmp_path):
    """Whatever is asked, then of pictures that there are; the corrections that were entered leave the store whole."""
    only = ("--include-path-regex", "^/(v1/)?store")
    with Client(tmp_path) as client:
        ids = json.dumps(client.ids())
        assert "Tested: 10\n" in asked_by_schemathesis(client.server.url, tmp_path, *only)
        asked_by_schemathesis(client.server.url, tmp_path, *only, "--mode", "positive", FLORENCE2_IMAGE_IDS=ids)
        assert client.store.verify() == [] and len(client.store.snapshots()) > 1


def test_every_route_describes_its_answers(server):
    described = httpx.get(server.url + "/openapi.json").json()
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert operation["description"] and {"200", "400", "401", "500"} <= set(operation["responses"])
            if path.startswith("/v1/") and "requestBody" in operation:
                assert {"413", "415", "422", "503", "504"} <= set(operation["responses"])
    body = described["components"]["requestBodies"]["Predict"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    asks = body["application/json"]["schema"]["properties"]["asks"]
    assert len(asks["items"]["oneOf"]) == len(httpx.get(server.url + "/v1/tasks").json()["tasks"]) == 17


def test_the_tasks_say_what_they_take(server):
    tasks = httpx.get(server.url + "/v1/tasks").json()["tasks"]
    assert tasks["OD"]["ask"]["required"] == ["task"] and "labels" in tasks["OD"]["ask"]["properties"]
    assert tasks["REGION_TO_OCR"]["ask"]["required"] == ["task", "region"]
    assert tasks["VQA"]["ask"]["required"] == ["task", "text"]
    assert tasks["OPEN_VOCABULARY_DETECTION"]["ask"]["anyOf"] == [{"required": ["text"]}, {"required": ["labels"]}]
    assert all(task["ask"]["additionalProperties"] is False for task in tasks.values())
