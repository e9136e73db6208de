"""Who may ask the server of a review: one person on this machine, from its own page."""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY = 64 * 1024
"""Most bytes of a request's body."""
NAMES = ("127.0.0.1", "localhost", "[::1]")
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
}
STORED = b"private, max-age=3600"
"""Of pictures. `Vary: Cookie` keeps those of an earlier review, of another run on the same port, from being shown."""


class Refused(NamedTuple):
    """An answer that ends a request: its status, what it says, and further headers."""

    status: int
    said: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Guard:
    """Lets only requests of the page itself through, and puts what browsers shall keep to on every answer.

    The token of the printed address is exchanged for a cookie, and the browser is sent on to an address without it.

    Args:
        application: What is guarded.
        port: The port that it is served on.
        token: What the address that starts a review holds.
    """

    def __init__(self, application: Application, port: int, token: str) -> None:
        self._application, self._token = application, token
        self._hosts = {f"{name}:{port}".encode() for name in NAMES}
        self._cookie = f"milscope-{port}={secrets.token_urlsafe(32)}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers or refuses one request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is None:
            body = await _body(receive) if scope["method"] == "POST" else b""
            if body is not None:
                given = _replayed(body, receive) if scope["method"] == "POST" else receive
                await self._application(scope, given, _with_headers(scope, send))
                return
            refused = Refused(413, f"More than {BODY} bytes.")
        await _answer(refused, _with_headers(scope, send))

    def _refused(self, scope: Scope) -> Refused | None:
        if scope["method"] not in ("GET", "POST"):
            return Refused(405, "Only GET and POST.", ((b"allow", b"GET, POST"),))
        host = _one(scope, b"host")
        if host not in self._hosts:
            return Refused(403, "This server answers on this machine only, by the address that was printed.")
        if scope["path"] == "/" and (given := parse_qs(scope["query_string"]).get(b"token")):
            return self._exchanged(given[0])
        if not self._known(_one(scope, b"cookie")):
            return Refused(403, "Open the address that `milscope review` printed.")
        return _foreign(scope, host) if scope["method"] == "POST" else None

    def _exchanged(self, given: bytes) -> Refused:
        if not secrets.compare_digest(given, self._token.encode()):
            return Refused(403, "This address is of an earlier review. Open the one that `milscope review` printed last.")
        cookie = self._cookie + b"; HttpOnly; SameSite=Strict; Path=/"
        return Refused(303, "", ((b"location", b"/"), (b"set-cookie", cookie)))

    def _known(self, header: bytes) -> bool:
        """Whether the cookie is among those sent; other servers of this machine may have set odd ones."""
        return any(secrets.compare_digest(pair.strip(), self._cookie) for pair in header.split(b";"))


def _foreign(scope: Scope, host: bytes) -> Refused | None:
    """Why a POST does not come from the page; None if it does."""
    origin = _one(scope, b"origin")
    own = origin == b"http://" + host if origin else _one(scope, b"x-milscope") == b"1"
    if not own:
        return Refused(403, "This request does not come from the page of the review.")
    if _one(scope, b"content-type").split(b";")[0].strip().lower() != b"application/json":
        return Refused(415, "Only JSON.")
    return None


def _one(scope: Scope, name: bytes) -> bytes:
    """The value of a header; b"" if it is not there, or there twice."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0] if len(values) == 1 else b""


async def _body(receive: Receive) -> bytes | None:
    """The whole body of a request; None if it is longer than allowed, or its sender went away."""
    held = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        held += message.get("body", b"")
        if len(held) > BODY:
            return None
        if not message.get("more_body"):
            return bytes(held)


def _replayed(body: bytes, rest: Receive) -> Receive:
    """Gives the body that was read already, and then what comes: who is told of an end too early stops to answer."""
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            return await rest()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _with_headers(scope: Scope, send: Send) -> Send:
    """Every answer says what the page may load and who may keep it: pictures may be kept, all else is asked for again."""
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.lower(), value) for name, value in message.get("headers", [])]
            static = scope["path"].startswith("/static/")
            picture = message["status"] == 200 and not static and any(
                name == b"content-type" and value.startswith(b"image/") for name, value in headers)
            kept = STORED if picture else b"private, no-cache" if static else b"private, no-store"
            headers = [pair for pair in headers if pair[0] not in (*HEADERS, b"cache-control")]
            message = {**message, "headers": [*headers, *HEADERS.items(), (b"cache-control", kept), (b"vary", b"Cookie")]}
        await send(message)

    return guarded


async def _answer(refused: Refused, send: Send) -> None:
    body = refused.said.encode()
    headers = [*refused.headers, (b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
