"""`evolve dashboard`: what it opens, where it listens, and what it says.

On loopback unless told otherwise; on any other address whoever wants in needs the token that is printed. `--save`
writes one file instead and listens nowhere.
"""

from __future__ import annotations

import secrets
import socket
import sys
import threading
import webbrowser
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from evolve.dashboard.shelf import Shelf
from evolve.errors import EvolveError, UsageError
from evolve.runs import find_run, is_run

PORT = 8420
TRIED = 20  # ports from there on, where none was asked for


@dataclass(frozen=True, kw_only=True)
class Order:
    target: str | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    open_browser: bool = True
    save: Path | None = None


def dashboard(order: Order) -> None:
    root, name = place(order.target)
    if order.save is not None:
        from evolve.dashboard.report import save

        if name is None:
            raise UsageError("--save writes the report of one run: name it, evolve dashboard RUN --save report.html.")
        written = save(Shelf(root), name, order.save)
        print(f"{order.save}: {written / 1024:,.0f} kB, opens without this program and without a network.")
        return
    listen(order, root, name)


def place(target: str | None) -> tuple[Path, str | None]:
    """The folder of runs, and the run in it that was named."""
    if target is None:
        return Path("runs"), None
    given = Path(target)
    if target.endswith(("/", "\\")) or (given.is_dir() and not is_run(given)):
        return given, None
    folder = find_run(target)
    folder = folder if folder.name else folder.resolve()
    return folder.parent, folder.name


def listen(order: Order, root: Path, name: str | None) -> None:
    import uvicorn

    from evolve.dashboard.app import application
    from evolve.dashboard.guard import Guard, is_loopback

    if not root.is_dir():
        print(f"{root}/ does not exist yet; it is looked into when it does.", file=sys.stderr)
    shelf = Shelf(root)
    token = None if is_loopback(order.host) else secrets.token_urlsafe(18)
    sock = bound(order.host, order.port)
    port = sock.getsockname()[1]
    path = f"/r/{quote(name)}" if name else "/"
    shown = f"[{order.host}]" if ":" in order.host else order.host
    address = f"http://{shown}:{port}{path}" + (f"?token={token}" if token else "")
    print(f"{address}\nCtrl-C ends it.", flush=True)
    guard = Guard(app=application(shelf), host=order.host, token=token)
    config = uvicorn.Config(
        guard, log_level="warning", access_log=False, server_header=False, lifespan="off",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    if order.open_browser:
        threading.Timer(0.3, webbrowser.open, (address,)).start()
    threading.Thread(target=_warm, args=(shelf, name), daemon=True).start()
    try:
        uvicorn.Server(config).run(sockets=[sock])
    except KeyboardInterrupt:  # uvicorn has shut down in order and passes the signal on
        pass
    finally:
        shelf.close()


def bound(host: str, port: int | None) -> socket.socket:
    """A socket on that port; on the usual one or one of the next, if none was asked for."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port is not None else range(PORT, PORT + TRIED):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, candidate))
        except OverflowError as error:
            sock.close()
            raise UsageError(f"--port {port}: expected 0 to 65535; 0 takes a free one.") from error
        except OSError as error:
            sock.close()
            why = error.strerror or str(error)
            continue
        sock.listen(128)
        return sock
    asked = f"{host}:{port}" if port is not None else f"{host}:{PORT} and the next {TRIED - 1}"
    raise UsageError(f"{asked}: {why}; give another --port, or 0 for a free one.")


def _warm(shelf: Shelf, name: str | None) -> None:
    """The first page of a long run need not wait for its columns, nor the first of all for the templates."""
    from evolve.dashboard import frame

    frame.environment().get_template("run.html")
    with suppress(EvolveError, OSError):
        latest = name or max(shelf.names(), key=shelf.changed, default=None)
        if latest is not None:
            book = shelf.book(latest)
            with book.journal() as journal:
                book.columns(journal)
