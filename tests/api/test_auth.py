"""API keys and scopes, security headers, CORS; no key appears in a log or a response."""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

import services.api.routes as package
from services.api.app import create_app
from services.api.auth import OPEN_PATHS
from services.dev import free_port
from shared.api_keys import Scope
from shared.errors import InvalidInput
from shared.settings import Settings, read_settings
from tests.processes import ROOT, wait_for

KEYS = {scope: f"{scope}-0123456789abcdef" for scope in ("read", "generate", "train")}
STRANGER = "stranger-0123456789abcdef"
SETTING = ",".join(f"the-{scope}er:{scope}:{key}" for scope, key in KEYS.items())


@pytest.fixture
def guarded(settings: Settings) -> Iterator[TestClient]:
    """An API that requires keys."""
    with_keys = Settings(**settings.model_dump() | {"redis_url": settings.redis_url, "api_keys": SETTING})
    with TestClient(create_app(with_keys), raise_server_exceptions=False) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def routes(client: TestClient) -> list[tuple[str, str, str | None]]:
    """(method, path, scope) of all operations in the OpenAPI document."""
    paths: dict[str, Any] = client.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path, next((s for entry in operation.get("security", []) for s in entry["ApiKey"]), None))
        for path, operations in paths.items()
        for method, operation in operations.items()
    ]


def test_every_route_has_a_scope_or_is_open_on_purpose(guarded: TestClient) -> None:
    for method, path, scope in routes(guarded):
        assert (scope in set(Scope)) != (path in OPEN_PATHS), f"{method} {path} has the scope {scope}"
    # The only route outside of the document is open
    names = [module.name for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
    paths = {route.path for name in names for route in importlib.import_module(name).router.routes}
    assert paths - {path for _, path, _ in routes(guarded)} == {"/docs"}


def test_a_route_accepts_keys_with_its_scope_only(guarded: TestClient) -> None:
    for method, path, scope in routes(guarded):
        answers = {
            owner: guarded.request(method, path.replace("{", "").replace("}", ""), headers=bearer(key)).status_code
            for owner, key in (KEYS | {"stranger": STRANGER}).items()
        }
        answers["nobody"] = guarded.request(method, path).status_code
        if scope is None:
            assert 401 not in answers.values()
            continue
        assert answers.pop("nobody") == answers.pop("stranger") == 401
        assert answers.pop(scope) not in (401, 403)
        assert set(answers.values()) == {403}, f"{method} {path}"


def test_a_refusal_names_the_required_scope(guarded: TestClient) -> None:
    nobody = guarded.get("/jobs")
    assert (nobody.status_code, nobody.headers["content-type"]) == (401, "application/problem+json")
    assert nobody.headers["www-authenticate"].startswith("Bearer")

    reader = guarded.post("/jobs", json={"preset": "tiny"}, headers=bearer(KEYS["read"]))
    assert (reader.status_code, reader.headers["content-type"]) == (403, "application/problem+json")
    assert "insufficient_scope" in reader.headers["www-authenticate"]
    assert "'train'" in reader.json()["detail"]
    assert guarded.get("/jobs", headers=bearer(KEYS["read"])).json()["data"] == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": KEYS["read"]},
        {"Authorization": f"Basic {KEYS['read']}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {KEYS['read']}x"},
        {"Authorization": f"Bearer {KEYS['read'][:-1]}"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"X-API-Key": KEYS["read"]},
        {"Cookie": f"key={KEYS['read']}"},
    ],
)
def test_a_key_must_be_complete_and_in_the_authorization_header(guarded: TestClient, headers: dict[str, Any]) -> None:
    assert guarded.get("/jobs", headers=headers).status_code == 401


def test_a_key_may_have_several_scopes(settings: Settings) -> None:
    both = Settings(redis_url=settings.redis_url, data=settings.data, api_keys=f"ci:read+train:{KEYS['read']}")
    with TestClient(create_app(both)) as client:
        assert client.post("/jobs", json={"preset": "tiny"}, headers=bearer(KEYS["read"])).status_code == 202
        assert len(client.get("/jobs", headers=bearer(KEYS["read"])).json()["data"]) == 1
        assert client.get("/generate", headers=bearer(KEYS["read"])).status_code == 403


# The settings


def test_keys_can_be_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(
        f"# owners and keys\n\nci:read+train:{KEYS['read']}  # until spring\nweb:generate:{KEYS['train']}\n"
    )
    monkeypatch.setenv("KILN_API_KEYS_FILE", str(file))

    assert [(key.name, sorted(key.scopes)) for key in read_settings().keys] == [
        ("ci", ["read", "train"]),
        ("web", ["generate"]),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "tell-nobody-0123456789",
        "ci:tell-nobody-0123456789",
        "ci:admin:tell-nobody-0123456789",
        "ci::tell-nobody-0123456789",
        "ci:read+:tell-nobody-0123456789",
        ":read:tell-nobody-0123456789",
        "c i:read:tell-nobody-0123456789",
        "ci:read:tell-nobody",
        "ci:read:tell-nobody 0123456789",
        "ci:read:tell-nobody-0123456789,",
        "ci:read:tell-nobody-0123456789,ci:train:other-tell-nobody-0123",
        "a:read:tell-nobody-0123456789,b:train:tell-nobody-0123456789",
        ",",
    ],
)
def test_an_invalid_entry_is_named_but_not_shown(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(text.replace(",", "\n,\n"))
    for variable, value in (("KILN_API_KEYS", text), ("KILN_API_KEYS_FILE", str(file))):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(InvalidInput) as raised:
                read_settings()
        assert raised.value.problems[0].field == variable
        assert "tell-nobody" not in str(raised.value)


def test_an_empty_file_of_keys_does_not_open_the_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("# nobody yet\n")
    monkeypatch.setenv("KILN_API_KEYS_FILE", str(tmp_path / "keys"))
    with pytest.raises(InvalidInput, match="contains no key"):
        read_settings()


def test_settings_do_not_print_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_API_KEYS", SETTING)
    settings = read_settings()

    shown = (
        f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()} {vars(settings)} {settings.keys}"
    )

    assert [key for key in KEYS.values() if key in shown] == []
    assert len(settings.model_copy(update={"port": 1}).keys) == 3


@contextmanager
def api_process(folder: Path, **settings: str) -> Iterator[tuple[httpx2.Client, Path]]:
    """Runs `python -m services.api`. -> an HTTP client for it, and its log file"""
    port, log = free_port(), folder / "api.log"
    environment = (
        os.environ
        | {"KILN_DATA": str(folder / "data"), "KILN_PORT": str(port), "KILN_THREADS": "1", "KILN_ACCESS_LOG": "1"}
        | settings
    )
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", "services.api"], cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
        ) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        try:
            wait_for(lambda: (process.poll(), _is_up(client)), lambda seen: seen != (None, False))
            yield client, log
        finally:
            process.terminate()
            process.wait()


def _is_up(client: httpx2.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx2.TransportError:
        return False


def test_neither_keys_nor_the_redis_password_appear_in_the_log_or_a_response(tmp_path: Path) -> None:
    password = "the-password-of-redis"  # noqa: S105
    # Given an API with keys, and an unreachable Redis whose URL holds a password
    redis_url = f"redis://:{password}@127.0.0.1:{free_port()}/0"
    with api_process(tmp_path, KILN_API_KEYS=SETTING, KILN_REDIS_URL=redis_url) as (client, log):
        # When clients send their keys in the header, and by mistake in the URL
        bodies = []
        for key in (*KEYS.values(), STRANGER):
            for method, path in (
                ("GET", "/jobs"),
                ("POST", "/jobs"),
                ("GET", "/readyz"),
                ("GET", f"/nothing?key={key}"),
            ):
                body = {"preset": "tiny"} if method == "POST" else None
                bodies.append(client.request(method, path, json=body, headers=bearer(key)).text)
            bodies.append(client.get(f"/readyz?api_key={key}").text)
        assert any("does not answer" in text for text in bodies)
    logged = log.read_text()

    # Then the log lists the requests, and neither the log nor a response holds a key or the password
    assert logged.count('"POST /jobs HTTP/1.1" 503') == 1
    assert logged.count('"POST /jobs HTTP/1.1" 403') == 2
    for secret in (*KEYS.values(), STRANGER, password):
        assert secret not in logged
        assert secret not in "".join(bodies)


# Headers


@pytest.mark.parametrize("path", ["/healthz", "/jobs", "/jobs/nope", "/nothing", "/generate", "/openapi.json", "/docs"])
def test_every_response_has_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"].startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_docs_page_may_run_its_own_script_only(client: TestClient) -> None:
    policy = client.get("/docs").headers["content-security-policy"]

    assert "'sha256-" in policy
    assert "script-src https://cdn.jsdelivr.net 'sha256-" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert "unsafe-inline" not in client.get("/jobs").headers["content-security-policy"]


def test_an_internal_error_has_security_headers_and_reveals_nothing(client: TestClient) -> None:
    app: Any = client.app
    app.state.kiln = None  # every route that uses the state raises

    answer = client.get("/jobs")

    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "NoneType" not in answer.text


# Other origins


def test_other_origins_are_allowed_only_if_configured(settings: Settings) -> None:
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "authorization"}  # fmt: skip
    with TestClient(create_app(settings)) as client:
        assert (
            "access-control-allow-origin" not in client.get("/healthz", headers={"Origin": "https://a.example"}).headers
        )
        assert client.options("/jobs", headers=preflight).status_code == 405

    some = settings.model_copy(update={"cors_origins": ("https://a.example",)})
    with TestClient(create_app(some)) as client:
        allowed = client.options("/jobs", headers=preflight)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert allowed.headers["x-content-type-options"] == "nosniff"
        other = client.get("/healthz", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        seen = client.get("/jobs/nope", headers={"Origin": "https://a.example"})
        assert seen.headers["access-control-allow-origin"] == "https://a.example"


def test_origins_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_CORS_ORIGINS", "https://a.example, http://localhost:8080")
    assert read_settings().cors_origins == ("https://a.example", "http://localhost:8080")
    monkeypatch.setenv("KILN_CORS_ORIGINS", "a.example")
    with pytest.raises(InvalidInput, match="is not an origin"):
        read_settings()


# Bodies


async def _refused(app: Any, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers of the response to a request whose body never arrives."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": raw,
        "http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": "",
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/verify", {}, 401),
        ("POST", "/verify", bearer(STRANGER), 401),
        ("POST", "/verify", bearer(KEYS["read"]), 403),
        ("POST", "/jobs", {"Transfer-Encoding": "chunked"}, 401),
        ("POST", "/jobs", bearer(KEYS["generate"]) | {"Transfer-Encoding": "chunked"}, 403),
        ("PUT", "/aliases/default", bearer(KEYS["read"]), 403),
        ("GET", "/jobs", {}, 401),
        ("POST", "/no/such/path", {}, 401),
    ],
)
def test_a_body_is_not_read_without_a_key_that_may_send_it(
    tmp_path: Path, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    app = create_app(Settings(data=tmp_path, api_keys=SETTING))
    sized = headers if "Transfer-Encoding" in headers else headers | {"Content-Length": str(4 << 20)}

    answered, answer_headers = asyncio.run(_refused(app, method, path, sized))

    assert answered == status
    assert answer_headers[b"content-type"] == b"application/problem+json"
    assert answer_headers[b"connection"] == b"close"
    assert answer_headers[b"x-content-type-options"] == b"nosniff"
