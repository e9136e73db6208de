"""The command that serves a review on this machine, until it is ended."""

import importlib.util
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

from milscope.configs import ReviewConfig
from milscope.review._answers import judged
from milscope.review._images import Pictures
from milscope.review._run import ReviewedRun
from milscope.review._store import Ranked, VerdictStore
from milscope.types import refuse

ADDRESS = "127.0.0.1"
STORE = Path("review") / "verdicts.sqlite"
"""Where the verdicts on a run are, in its directory."""


def review(run: str | Path, config: ReviewConfig | None = None, *, ready: Callable[[str], None] | None = None) -> None:
    """Serves the ranked cells of a run to reviewers on this machine, until interrupted; verdicts are kept in the run.

    Args:
        run: A run's directory, with ranked cells.
        config: Settings; the defaults of `ReviewConfig` if None.
        ready: Called with the address to open once the server listens; by default it is printed.

    Raises:
        InputError: If the run has no ranked cells, its verdicts are another run's or cannot be written, the port is taken, or
            Starlette and uvicorn are not installed.
    """
    config = config or ReviewConfig()
    _installed()
    reviewed = ReviewedRun(Path(run))
    with closing(open_verdicts(reviewed)) as store, _listening(config.port) as listener:
        port, token = listener.getsockname()[1], secrets.token_urlsafe(32)
        address = f"http://{ADDRESS}:{port}/?token={token}"
        (ready or _print)(address)
        if config.open:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        _serve(reviewed, store, config.reviewer, (listener, token))


def open_verdicts(run: ReviewedRun) -> VerdictStore:
    """The verdicts on a run; an empty store if there were none.

    Raises:
        InputError: If they are another run's, or cannot be read and written.
    """
    made_from = Ranked(run.manifest.fingerprint, run.manifest.inputs.get("cells", run.manifest.fingerprint))
    known = {task.name: task for task in run.tasks}
    return VerdictStore(run.directory / STORE, made_from, lambda verdict: verdict.task in known and run.ranks(
        [judged(verdict)], known[verdict.task]) != [None])


def _serve(run: ReviewedRun, store: VerdictStore, reviewer: str, opened: tuple[socket.socket, str]) -> None:
    import uvicorn

    from milscope.review._server import Review, application

    listener, token = opened
    guarded = application(Review(run, store, Pictures(run), reviewer), listener.getsockname()[1], token)
    server = uvicorn.Server(uvicorn.Config(
        guarded, log_level="error", access_log=False, server_header=False, ws="none", lifespan="off",
        timeout_graceful_shutdown=3))
    with _quiet_interrupt():
        server.run(sockets=[listener])


def _installed() -> None:
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise refuse("review", "installed with its web server", f"no {', '.join(missing)}",
                     "Run `pip install 'milscope[review]'`.")


@contextmanager
def _listening(port: int) -> Generator[socket.socket]:
    """A socket of this machine alone that accepts already: whoever opens the address at once waits, but is answered."""
    if not 0 <= port < 65536:
        raise refuse("port", "0 to 65535", port, "0 takes any that is free.")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:  # else asyncio waits 40 ms to send
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, port))
        except OSError as error:
            raise refuse("port", "one that is free", f"{port}: {error.strerror}", "Give another; 0 takes any.") from error
        listener.listen(128)
        yield listener


@contextmanager
def _quiet_interrupt() -> Generator[None]:
    """Ctrl-C ends the review as it should: without a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        return


def _print(address: str) -> None:
    print(f"   review  {address}\n           Verdicts are kept as they are given. Ctrl-C ends the review.", flush=True)
