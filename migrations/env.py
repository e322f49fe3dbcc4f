"""How Alembic reaches the database: a connection it is handed, else the one of ``UNIROUTE_DATABASE_URL``."""

from alembic import context
from sqlalchemy import Connection

from workers.settings import Settings
from workers.storage.migrate import connect, hold_migrator_lock
from workers.storage.tables import Base


def run_migrations(connection: Connection) -> None:
    with hold_migrator_lock(connection):
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            compare_type=True,
            compare_server_default=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


def write_sql() -> None:
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


handed: Connection | None = context.config.attributes.get("connection")
if context.is_offline_mode():
    write_sql()
elif handed is not None:
    run_migrations(handed)
else:
    with connect(Settings().database_url) as opened:
        run_migrations(opened)
