"""Rules and board on a real Prometheus, which reads a real server that has something to tell."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agent.live_agent import free_port
from tests.support.server.live_server import ROOT, LiveServer

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "sandlot.rules.yml"
BOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "sandlot.json").read_text())
PATIENCE_S = 60.0
IMAGE = "sandlot/python"
LANGUAGES = {IMAGE: "python", "sandlot/node": "javascript"}  # only the first is pooled
# What has no data although all is well, and why.
EMPTY = {
    'changes(process_start_time_seconds{job="sandlot",instance=~"$instance"}[2m]) > 0': "the server was started once",
    'sandlot_requests_total{operation!="port.forward",status=~"5.."}': "the server fails nothing",
    'sandlot_create_errors_total{error=~"RuntimeFailure|EngineUnavailable|StartFailed|OutOfMemory|LinkLost|LinkClosed|'
    'AgentError|CapacityExhausted|Store.*"}': "no create fails because of the server",
    'sandlot_engine_calls_total{call!="image.pull",outcome=~"RuntimeFailure|EngineUnavailable|StartFailed"}': (
        "the engine fails nothing"
    ),
    'sandlot_sandbox_ends_total{reason=~"PROTOCOL_VIOLATION|AGENT_FAILED|CONTAINER_VANISHED"}': "no agent breaks",
}

pytestmark = [
    pytest.mark.skipif(
        shutil.which("prometheus") is None or shutil.which("promtool") is None,
        reason="needs prometheus and promtool: apt-get install prometheus",
    ),
    pytest.mark.timeout(600),  # the first one waits for a server, its work and several looks
]


# -- by promtool alone ----------------------------------------


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_configuration_is_valid() -> None:
    """As it is in the repository, with paths that only an installation has."""
    done = promtool("check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0, done.stderr


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    """And none fires when all is well: the cases are in `sandlot.test.yml`."""
    done = promtool("test", "rules", PROMETHEUS / "sandlot.test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_without_a_case() -> None:
    """One beside others, and one of its own."""
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    cases = re.findall(r"alertname: (\w+)", (PROMETHEUS / "sandlot.test.yml").read_text())
    assert alerts
    assert sorted(cases) == sorted(alerts * 3)


# -- a real one ----------------------------------------


class Prometheus:
    """A Prometheus with our configuration, which looks once a second."""

    def __init__(self, home: Path, server: LiveServer) -> None:
        (home / "key").write_text(server.key)
        text = (PROMETHEUS / "prometheus.yml").read_text()
        for ours, here in (
            ("localhost:8194", server.address.removeprefix("http://")),
            ("/etc/prometheus/sandlot-key", str(home / "key")),
            ("sandlot.rules.yml", str(RULES)),
            ("15s", "1s"),
        ):
            assert ours in text
            text = text.replace(ours, here)
        (home / "prometheus.yml").write_text(text)
        address = f"127.0.0.1:{free_port()}"
        self._log = (home / "log").open("w")
        self._process = subprocess.Popen(
            [
                *("prometheus", f"--config.file={home / 'prometheus.yml'}", f"--storage.tsdb.path={home / 'data'}"),
                *(f"--web.listen-address={address}", "--log.level=warn"),
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._client = httpx.Client(base_url=f"http://{address}/api/v1", timeout=PATIENCE_S, trust_env=False)

    def ask(self, query: str) -> list[Any]:
        """Return the samples of a query that are numbers."""
        answer = self._client.get("/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        return [sample for sample in answer["data"]["result"] if sample["value"][1] != "NaN"]

    def wait_looked(self, times: int = 2) -> None:
        """Wait until it has been answered again, and has evaluated its rules."""
        before = self._looks()
        _wait(lambda: self._looks() >= before + times)

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with their health."""
        groups = self._client.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def close(self) -> None:
        """End it."""
        self._client.close()
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._log.close()

    def _looks(self) -> int:
        try:
            found = self.ask('sum_over_time(up{job="sandlot"}[10m])')
        except (httpx.HTTPError, ValueError):  # it is not up yet
            return 0
        return int(found[0]["value"][1]) if found else 0


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Load:
    """What gives each metric something to tell."""

    def __init__(self, server: LiveServer) -> None:
        key = {"OPEN-SANDBOX-API-KEY": server.key}
        self._client = httpx.Client(base_url=f"{server.address}/v1", headers=key, timeout=60, trust_env=False)
        self._box = self._create(IMAGE)
        self._endpoint = f"/sandboxes/{self._box}/proxy"
        self._post("44772/command", {"command": "python3 -m http.server 8000", "background": True})
        _wait(lambda: self._client.get(f"{self._endpoint}/8000/").status_code == 200)

    def once(self) -> None:
        """Do a little of everything."""
        self._post("44772/command", {"command": "echo out; exit 3"})
        self._post("44772/code", {"code": "1 + 1", "context": {"language": "python"}})
        assert self._client.get(f"{self._endpoint}/8000/").status_code == 200
        assert self._client.get("/sandboxes", headers={"OPEN-SANDBOX-API-KEY": "wrong"}).status_code == 401
        # Nobody listens there, so the engine's pull fails at once.
        assert self._request("localhost:9/nothing").status_code == 400
        for image, language in LANGUAGES.items():
            box = self._create(image)
            code = {"sandbox_id": box, "code": "1 + 1", "language": language}
            assert self._client.post("/contexts/execute", json=code).status_code == 200
            assert self._client.delete(f"/sandboxes/{box}").status_code == 204

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _create(self, image: str) -> str:
        answer = self._request(image)
        assert answer.status_code == 202, answer.text
        made: str = answer.json()["id"]
        return made

    def _request(self, image: str) -> httpx.Response:
        wish = {
            "image": {"uri": image},
            "entrypoint": ["sleep", "inf"],
            "timeout": 600,
            "resourceLimits": {"cpu": "1", "memory": "1Gi"},
        }
        return self._client.post("/sandboxes", json=wish)

    def _post(self, path: str, body: object) -> None:
        answer = self._client.post(f"{self._endpoint}/{path}", json=body)
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen work begin, go on and end."""
    with LiveServer(["--image", IMAGE, "--pool-size", "1"]) as server:
        load = Load(server)
        load.once()
        found = Prometheus(tmp_path_factory.mktemp("prometheus"), server)
        try:
            found.wait_looked()
            load.once()
            found.wait_looked(3)
            yield found
        finally:
            found.close()
            load.close()


def queries() -> list[str]:
    """All queries of the board."""
    targets = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", ())]
    return [*targets, *(each["expr"] for each in BOARD["annotations"]["list"])]


def test_each_query_of_the_board_has_data(prometheus: Prometheus) -> None:
    """With the variables as Grafana fills them in at the beginning."""
    found = {query: prometheus.ask(_filled_in(query)) for query in queries()}
    assert len(found) > 50
    assert [query for query, samples in found.items() if not samples and query not in EMPTY] == []
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
            assert all(label in sample["metric"] for sample in prometheus.ask(metric))


def _filled_in(query: str) -> str:
    # All that was done, however long a loaded machine took for it.
    return query.replace("$__rate_interval", "10m").replace("$instance", ".+")


def test_each_recorded_rule_has_data_and_each_alert_reads_some(prometheus: Prometheus) -> None:
    """An alert on a name that nobody tells would never fire, and nobody would know."""
    rules = prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert [name for name in recorded if not prometheus.ask(name)] == []
    read = {selector for rule in rules for selector in selectors(rule["query"])}
    assert [each for each in sorted(read) if not prometheus.ask(each) and each not in EMPTY] == []


def test_nothing_is_listed_as_empty_that_has_data_or_that_nobody_asks(prometheus: Prometheus) -> None:
    """The list of exceptions stays true."""
    asked = {selector for rule in prometheus.rules() for selector in selectors(rule["query"])} | set(queries())
    assert EMPTY.keys() <= asked
    assert [query for query in EMPTY if prometheus.ask(_filled_in(query))] == []


def test_no_alert_fires_while_all_is_well(prometheus: Prometheus) -> None:
    """Nor does one stay about to, but for those on times: the machine may be busy with other tests.

    A pool that is being filled, and an answer that came too late, are no longer of interest after a while.
    """

    def about_to() -> set[str]:
        rules = [rule for rule in prometheus.rules() if rule["type"] == "alerting"]
        assert rules
        return {rule["name"] for rule in rules if rule["state"] != "inactive"}

    _wait(lambda: about_to() <= {"SandlotLoopSlow", "SandlotCreatesSlow"})


def selectors(query: str) -> list[str]:
    """Return what a query reads: names, each with its conditions."""
    return re.findall(r"\b(?:(?:sandlot[_:]|process_)\w[\w:]*|up)\b(?:\{[^}]*\})?", query)


def test_selectors_are_found() -> None:
    """The tests above would pass on none."""
    query = 'min_over_time(sandlot_a{x!~"b.*"}[10m]) > 0 unless on (up_to) rate(process_b[1m]) * sandlot:c:rate5m or up'
    assert selectors(query) == ['sandlot_a{x!~"b.*"}', "process_b", "sandlot:c:rate5m", "up"]
