"""What the server of a review answers, by JSON and pictures; slides and cells are asked for by number only."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from milscope.review._answers import Unanswered, told_run, told_slide, told_undo, told_verdict
from milscope.review._images import Encoded, NothingThereError, Pictures
from milscope.review._run import Asked, ReviewedRun
from milscope.review._safety import Application, Guard
from milscope.review._store import VerdictStore
from milscope.types import InputError

STATIC = Path(__file__).parent / "static"
AGAIN = "The cells of this run were ranked again since this review was started. End it, and start `milscope review` again."
FACTORS = (1.0, 32.0)
"""How far a cell's surroundings reach, in multiples of its longer side."""


class Review(NamedTuple):
    """What is reviewed, where verdicts go, the pictures, and the reviewer that was named at the start ("": the page asks)."""

    run: ReviewedRun
    store: VerdictStore
    pictures: Pictures
    reviewer: str


def application(review: Review, port: int, token: str) -> Application:
    """The whole server, guarded, as an ASGI application.

    Args:
        review: What is reviewed.
        port: The port that it will be served on.
        token: What the first address must hold.
    """
    routes = [
        Route("/", _page, methods=["GET"]),
        Route("/api/run", _answer(review, _run), methods=["GET"]),
        Route("/api/slides/{index:int}", _answer(review, _slide), methods=["GET"]),
        Route("/api/verdicts", _posted(review, told_verdict), methods=["POST"]),
        Route("/api/undo", _posted(review, told_undo), methods=["POST"]),
        Route("/crops/{index:int}/{rank:int}", _answer(review, _crop), methods=["GET"]),
        Route("/context/{index:int}/{rank:int}", _answer(review, _context), methods=["GET"]),
        Route("/slides/{index:int}/overview", _answer(review, _overview), methods=["GET"]),
        Route("/slides/{index:int}/tiles/{level:int}/{tile}", _answer(review, _tile), methods=["GET"]),
        Route("/slides/{index:int}/heat", _answer(review, _heat), methods=["GET"]),
        *([Mount("/static", StaticFiles(directory=STATIC))] if STATIC.is_dir() else []),
    ]
    handlers: dict[Any, Callable] = {HTTPException: _refusal, Exception: _failure}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), port, token)


def _answer(review: Review, give: Callable[[Review, Request], Response]) -> Callable[[Request], Response]:
    """An answer that is made in a thread of its own, and given only if the cells are still those that were looked at."""
    def endpoint(request: Request) -> Response:
        response = _made(review, lambda: give(review, request))
        if review.run.changed():
            raise HTTPException(409, AGAIN)
        return response

    return endpoint


def _posted(review: Review, tell: Callable[..., dict[str, Any]]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            asked = json.loads(await request.body())
        except ValueError as error:
            raise HTTPException(400, "Not JSON.") from error
        if not isinstance(asked, dict):
            raise HTTPException(400, "Not a JSON object.")
        return await run_in_threadpool(_made, review, lambda: JSONResponse(tell(review.run, review.store, asked)))

    return endpoint


def _made(review: Review, give: Callable[[], Response]) -> Response:
    """What was asked for, or in a sentence why not."""
    try:
        if review.run.changed():
            raise HTTPException(409, AGAIN)
        return give()
    except Unanswered as error:
        raise HTTPException(error.status, str(error)) from error
    except NothingThereError as error:
        raise HTTPException(404, str(error)) from error
    except (sqlite3.Error, OSError, pa.ArrowException) as error:
        raise HTTPException(503, f"This could not be read or kept: {error}.") from error
    except InputError as error:
        raise HTTPException(404, str(error)) from error


def _page(_: Request) -> Response:
    page = STATIC / "index.html"
    if not page.exists():
        raise HTTPException(404, "The page of the review is not installed.")
    return FileResponse(page)


def _run(review: Review, request: Request) -> Response:
    return JSONResponse(told_run(review.run, review.store, _task(review, request), _reviewer(review, request)))


def _slide(review: Review, request: Request) -> Response:
    slide, task = _named(review, request), _task(review, request)
    return JSONResponse(told_slide(review.run, review.store, slide, task, _reviewer(review, request)))


def _crop(review: Review, request: Request) -> Response:
    return _image(review.pictures.crop(_named(review, request), request.path_params["rank"], _task(review, request)))


def _context(review: Review, request: Request) -> Response:
    try:
        factor = float(request.query_params.get("factor", "4"))
    except ValueError as error:
        raise HTTPException(400, "`factor` should be a number.") from error
    if not FACTORS[0] <= factor <= FACTORS[1]:
        raise HTTPException(400, f"`factor` should be {FACTORS[0]:g} to {FACTORS[1]:g}.")
    slide, rank = _named(review, request), request.path_params["rank"]
    return _image(review.pictures.context(slide, rank, _task(review, request), factor))


def _overview(review: Review, request: Request) -> Response:
    return _image(review.pictures.overview(_named(review, request)))


def _tile(review: Review, request: Request) -> Response:
    column, _, row = request.path_params["tile"].partition("_")
    if not (column.isdecimal() and row.isdecimal() and len(column) + len(row) < 16):
        raise HTTPException(404, "There is no such tile.")
    return _image(review.pictures.tile(_named(review, request), request.path_params["level"], int(column), int(row)))


def _heat(review: Review, request: Request) -> Response:
    return _image(review.pictures.heat(_named(review, request), _task(review, request)))


def _named(review: Review, request: Request) -> str:
    """The slide of a number."""
    index = request.path_params["index"]
    if not 0 <= index < len(review.run.slides):
        raise HTTPException(404, f"There is no slide {index}.")
    return review.run.slides[index]


def _task(review: Review, request: Request) -> Asked:
    task = review.run.task(request.query_params.get("task", ""))
    if task is None:
        raise HTTPException(404, "There is no such task.")
    return task


def _reviewer(review: Review, request: Request) -> str:
    return request.query_params.get("reviewer", "").strip() or review.reviewer


def _image(image: Encoded) -> Response:
    return Response(image.content, media_type=image.media_type)


def _refusal(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _failure(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"The server failed: {type(error).__name__}."}, 500)
