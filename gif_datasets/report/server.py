"""A local web page to look through an expanded folder, and to reject samples: ``gif-datasets browse``.

The server listens on the loopback interface alone, and answers nobody who does not know the token in its address: other
users of the machine, and pages of the web that a browser has open, are turned away.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from gif_datasets.errors import ConfigError, GifDatasetsError, MissingExtra
from gif_datasets.io.parsing import read_json
from gif_datasets.report.gallery import KINDS, ORDER, Gallery, Query, galleries
from gif_datasets.shards.index import IMAGE_SUFFIXES
from gif_datasets.shards.rejections import reject
from gif_datasets.types import Progress, no_progress

try:
    from aiohttp import web
except ImportError as error:
    raise MissingExtra("aiohttp", "browse") from error

LOOPBACK = "127.0.0.1"
MOST = 500  # samples, or seeds, in one answer
_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
_ASSETS = {
    "": ("browse.html", "text/html"),
    "browse.js": ("browse.js", "text/javascript"),
    "report.css": ("report.css", "text/css"),
    "browse.css": ("browse.css", "text/css"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def browse(
    folder: str | Path, port: int = 0, *, ready: Callable[[str], None], progress: Progress | None = None
) -> None:
    """Serve the page until the user interrupts it.

    Args:
        folder: Output of ``gif-datasets expand``, on this machine. Rejections are written to its ``rejected.json``;
            nothing else is written.
        port: Port of the loopback interface; 0: any free port.
        ready: Called with the address of the page when it can be opened.
        progress: Wraps the loop over the records.

    Raises:
        UsageError: If the folder is not a finished expansion.
        ConfigError: If the port is taken.
    """
    shown = galleries(Path(folder), progress or no_progress)
    listener = _listen(port)
    token = secrets.token_urlsafe(16)
    address = f"http://{LOOPBACK}:{listener.getsockname()[1]}"

    async def announce(app: web.Application) -> None:
        ready(f"{address}/{token}/")

    app = application(shown, token, address)
    app.on_startup.append(announce)
    web.run_app(app, sock=listener, print=None, access_log=None)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen()  # a browser that opens the address now waits, and is not refused
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(f"cannot listen on port {port}: {error}; choose another --port, or none") from error
    return listener


def application(shown: dict[str, Gallery], token: str, address: str) -> web.Application:
    """The page, and the answers to its requests.

    Args:
        shown: The gallery of each split.
        token: The first part of every path.
        address: Address of the server, as a browser sends it.
    """
    pages = _Pages(shown)
    app = web.Application(middlewares=[_guarded(token, address), _answered])
    routes: list[tuple[str, str, _Handler]] = [
        *(("GET", name, _asset(*asset)) for name, asset in _ASSETS.items()),
        ("GET", "set", pages.about),
        ("GET", "samples", pages.samples),
        ("GET", "seeds", pages.seeds),
        ("GET", "family", pages.family),
        ("GET", r"picture/{split}/{number:\d{1,9}}", pages.picture),
        ("POST", "reject", pages.reject),
    ]
    app.on_response_prepare.append(_protect)
    for method, path, handler in routes:
        app.router.add_route(method, f"/{token}/{path}", handler)
    return app


def _guarded(token: str, address: str) -> Any:
    host = address.removeprefix("http://")

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuse foreign host names that point here, pages of other sites, and requests without the token."""
        given = request.path.lstrip("/").partition("/")[0]
        known = secrets.compare_digest(given.encode(), token.encode())
        if request.host != host or request.headers.get("Origin", address) != address or not known:
            raise web.HTTPForbidden(text="open the address that gif-datasets browse printed")
        return await handler(request)

    return guard


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    """Give every answer the headers, those to errors included."""
    response.headers.update(_HEADERS)


@web.middleware
async def _answered(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer a bad request with the error message."""
    try:
        return await handler(request)
    except GifDatasetsError as error:
        return web.json_response({"error": str(error)}, status=400)


def _asset(name: str, kind: str) -> _Handler:
    async def answer(request: web.Request) -> web.Response:
        text = (files("gif_datasets") / "assets" / name).read_text(encoding="utf-8")
        return web.Response(text=text, content_type=kind)

    return answer


class _Pages:
    """Answers to the requests of the page."""

    def __init__(self, shown: dict[str, Gallery]) -> None:
        self.shown = shown

    async def about(self, request: web.Request) -> web.Response:
        """The dataset, and the values of the page's form."""
        splits = {
            name: {"classes": gallery.counts(), "scores": [*gallery.scores], "samples": len(gallery.reader)}
            for name, gallery in self.shown.items()
        }
        title = next(iter(self.shown.values())).reader.manifest.title
        return web.json_response(
            {"title": title, "splits": splits, "kinds": KINDS, "order": ORDER, "rejected": self._rejected}
        )

    async def samples(self, request: web.Request) -> web.Response:
        """The samples that match the query."""
        gallery = self._gallery(request.query.get("split"))
        numbers = gallery.chosen(_query(request))
        part = [gallery.to_json(int(number)) for number in numbers[_part(request)]]
        return web.json_response({"total": len(numbers), "rows": part})

    async def seeds(self, request: web.Request) -> web.Response:
        """The seeds of the samples that match, each with all its copies."""
        gallery = self._gallery(request.query.get("split"))
        seeds = gallery.seeds(_query(request))
        rows = [[gallery.to_json(number) for number in gallery.family(int(seed))] for seed in seeds[_part(request)]]
        return web.json_response({"total": len(seeds), "rows": rows})

    async def family(self, request: web.Request) -> web.Response:
        """A seed, if it is stored, and its copies."""
        gallery = self._gallery(request.query.get("split"))
        numbers = gallery.family(_number(request.query.get("seed", "")))
        return web.json_response({"rows": [gallery.to_json(number) for number in numbers]})

    async def picture(self, request: web.Request) -> web.Response:
        """An image, as it is stored."""
        reader = self._gallery(request.match_info["split"]).reader
        number = int(request.match_info["number"])
        if number >= len(reader):
            raise web.HTTPNotFound(text=f"no sample {number}; there are {len(reader)}")
        kind = _TYPES[IMAGE_SUFFIXES[reader.index.suffix[number]]]
        headers = {"Cache-Control": "private, max-age=3600"}
        return web.Response(body=reader.image_bytes(number), content_type=kind, headers=headers)

    async def reject(self, request: web.Request) -> web.Response:
        """Reject samples, or undo it."""
        try:
            body = read_json(await request.read())
            gallery, keys, rejected = self._gallery(body["split"]), body["keys"], body["rejected"]
            gallery.numbers_of(keys)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"cannot reject that: {error!r}") from error
        if not isinstance(rejected, bool):
            raise ConfigError(f"rejected must be true or false, got {rejected!r}")
        reject(gallery.folder, keys, rejected)
        for each in self.shown.values():
            each.refresh()
        return web.json_response({"rejected": self._rejected})

    @property
    def _rejected(self) -> int:
        return sum(gallery.rejected for gallery in self.shown.values())

    def _gallery(self, split: str | None) -> Gallery:
        reader = self.shown.get(split or next(iter(self.shown)))
        if reader is None:
            raise ConfigError(f"no split {split!r}; there is {' and '.join(self.shown)}")
        return reader


def _query(request: web.Request) -> Query:
    query = request.query
    label = query.get("label", "")
    return Query(
        _number(label) if label else None, query.get("kind", "all"), query.get("sort", ORDER), "falling" in query
    )


def _part(request: web.Request) -> slice:
    start, count = (_number(request.query.get(name, usual)) for name, usual in (("start", "0"), ("count", "60")))
    return slice(start, start + min(count, MOST))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ConfigError(f"not a number: {text[:20]!r}")
    return int(text)
