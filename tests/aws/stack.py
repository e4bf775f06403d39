"""Emulated AWS (ministack) with one function behind all that can ask it over HTTP."""

from __future__ import annotations

import http.client
import io
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import tracedbridge
from tests.support import HANG_S

__all__ = ("WAYS", "Reply", "Stack")

WAYS = ("function url", "http api", "rest api", "load balancer", "load balancer, lists")
"""How the function is asked."""

_REGION = "us-east-1"
_ENTRY = "import sys\nsys.path.insert(0, {source!r})\nfrom tracedbridge import handler\n"


class Reply(NamedTuple):
    """What a client got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Stack:
    """From its start to its end; a context manager."""

    def __init__(self, folder: Path, app: str) -> None:
        """
        Start it, and have the function made.

        Args:
            folder: For what it writes.
            app: Source of the function's ``index.py``.
        """
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        self._output = folder.joinpath("ministack.txt").open("wb")
        self._process = subprocess.Popen(
            (sys.executable, "-m", "hypercorn", "ministack.app:app", "--bind", f"127.0.0.1:{self.port}"),
            cwd=folder, env={**os.environ, "GATEWAY_PORT": str(self.port)}, stdin=subprocess.DEVNULL,
            stdout=self._output, stderr=self._output,
        )  # fmt: skip
        # By which host, and what before the path; or before the path only.
        self.hosts: dict[str, tuple[str, str]] = {}
        self.prefixes: dict[str, str] = {}
        try:
            self._wait()
            self._make(app)
        except BaseException:
            self.close()
            raise

    def ask(
        self, way: str, method: str, target: str, headers: list[tuple[str, str]], body: bytes, *, host: str = ""
    ) -> Reply:
        """Send a request that way, as it is; to ``host`` instead of the way's own."""
        if host:
            prefix = self.prefixes[way]
        else:
            host, prefix = self.hosts[way]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3 * HANG_S)
        try:
            connection.putrequest(method, prefix + target, skip_host=True, skip_accept_encoding=True)
            length = [("content-length", str(len(body)))] if body else []
            for name, value in (("host", host), *headers, *length):
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return Reply(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(HANG_S)
        self._output.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self) -> None:
        until_s = time.monotonic() + 3 * HANG_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), HANG_S).close()
                return
            except OSError:
                assert time.monotonic() < until_s, "ministack does not listen"
                assert self._process.poll() is None, "ministack has ended"

    def _client(self, name: str) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            name, endpoint_url=f"http://127.0.0.1:{self.port}", region_name=_REGION, aws_access_key_id="test",
            aws_secret_access_key="test", config=Config(read_timeout=3 * HANG_S, retries={"max_attempts": 1}),
        )  # fmt: skip

    def _make(self, app: str) -> None:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("index.py", app)
            archive.writestr("entry.py", _ENTRY.format(source=str(Path(tracedbridge.__file__).parents[1])))
        functions = self._client("lambda")
        arn = functions.create_function(
            FunctionName="shop", Runtime=f"python{sys.version_info[0]}.{sys.version_info[1]}",
            Role="arn:aws:iam::000000000000:role/shop", Handler="entry.handler", Code={"ZipFile": packed.getvalue()},
            Timeout=30, Environment={"Variables": {"TRACEDBRIDGE_TELEMETRY": "off"}},
        )["FunctionArn"]  # fmt: skip
        url = functions.create_function_url_config(FunctionName="shop", AuthType="NONE")["FunctionUrl"]
        host = url.removeprefix("https://").rstrip("/")
        self.hosts["function url"], self.prefixes["function url"] = (
            (host, ""),
            f"/_aws/lambda-url/{host.partition('.')[0]}",
        )
        self._make_http_api(arn)
        self._make_rest_api(arn)
        for way in WAYS[3:]:
            self._make_balancer(way, arn)

    def _make_http_api(self, arn: str) -> None:
        apis = self._client("apigatewayv2")
        api = apis.create_api(Name="shop", ProtocolType="HTTP")["ApiId"]
        made = apis.create_integration(
            ApiId=api, IntegrationType="AWS_PROXY", IntegrationUri=arn, PayloadFormatVersion="2.0"
        )
        apis.create_route(ApiId=api, RouteKey="$default", Target=f"integrations/{made['IntegrationId']}")
        apis.create_stage(ApiId=api, StageName="$default", AutoDeploy=True)
        self.hosts["http api"] = (f"{api}.execute-api.localhost:{self.port}", "")
        self.prefixes["http api"] = f"/_aws/execute-api/{api}/$default"

    def _make_rest_api(self, arn: str) -> None:
        apis = self._client("apigateway")
        api = apis.create_rest_api(name="shop", binaryMediaTypes=["*/*"])["id"]
        root = apis.get_resources(restApiId=api)["items"][0]["id"]
        below = apis.create_resource(restApiId=api, parentId=root, pathPart="{proxy+}")["id"]
        uri = f"arn:aws:apigateway:{_REGION}:lambda:path/2015-03-31/functions/{arn}/invocations"
        for resource in (root, below):
            apis.put_method(restApiId=api, resourceId=resource, httpMethod="ANY", authorizationType="NONE")
            apis.put_integration(
                restApiId=api, resourceId=resource, httpMethod="ANY", type="AWS_PROXY", integrationHttpMethod="POST",
                uri=uri,
            )  # fmt: skip
        apis.create_deployment(restApiId=api, stageName="prod")
        self.hosts["rest api"] = (f"{api}.execute-api.localhost:{self.port}", "/prod")
        self.prefixes["rest api"] = f"/_aws/execute-api/{api}/prod"

    def _make_balancer(self, way: str, arn: str) -> None:
        balancers = self._client("elbv2")
        name = way.replace(" ", "-").replace(",", "")
        group = balancers.create_target_group(Name=name, TargetType="lambda")["TargetGroups"][0]["TargetGroupArn"]
        if "lists" in way:
            balancers.modify_target_group_attributes(
                TargetGroupArn=group, Attributes=[{"Key": "lambda.multi_value_headers.enabled", "Value": "true"}]
            )
        balancers.register_targets(TargetGroupArn=group, Targets=[{"Id": arn}])
        made = balancers.create_load_balancer(Name=name, Subnets=["subnet-1"])["LoadBalancers"][0]
        balancers.create_listener(
            LoadBalancerArn=made["LoadBalancerArn"], Protocol="HTTP", Port=80,
            DefaultActions=[{"Type": "forward", "TargetGroupArn": group}],
        )  # fmt: skip
        self.hosts[way], self.prefixes[way] = (made["DNSName"], ""), f"/_alb/{name}"
