import json

import pytest
from sqlalchemy import make_url
from typer.testing import CliRunner

from workers.cli.database import command
from workers.storage import migrate

pytestmark = pytest.mark.stack


@pytest.fixture
def run(database_url: str) -> CliRunner:
    """Run the command on an empty database, as an operator's shell would."""
    return CliRunner(env={"UNIROUTE_DATABASE_URL": database_url})


def test_an_operator_checks_upgrades_and_checks_again(run: CliRunner) -> None:
    """Exit code 1 and the differences before, exit code 0 after."""
    before = run.invoke(command, ["check", "--json"])
    upgraded = run.invoke(command, ["upgrade"])
    after = run.invoke(command, ["check", "--json"])

    assert before.exit_code == 1
    assert f"revision is none, not {migrate.head()}" in json.loads(before.stdout)["differences"]
    assert upgraded.exit_code == 0
    assert f"is at revision {migrate.head()}." in upgraded.stdout
    assert after.exit_code == 0
    assert json.loads(after.stdout)["differences"] == []


def test_the_revision_is_told_for_people_and_programs(run: CliRunner, database_url: str) -> None:
    """Both name the revision there is and the one that is needed."""
    as_text = run.invoke(command, ["current"])
    as_json = run.invoke(command, ["current", "--json"])

    assert f"is at revision none; {migrate.head()} is needed." in as_text.stdout
    found = json.loads(as_json.stdout)
    assert (found["revision"], found["needed"]) == (None, migrate.head())
    assert found["database"].endswith(f"/{make_url(database_url).database}")


def test_differences_are_one_a_line_for_people(run: CliRunner) -> None:
    """Without --json the differences are lines, and their absence is said."""
    before = run.invoke(command, ["check"])
    run.invoke(command, ["upgrade"])
    after = run.invoke(command, ["check"])

    assert "add table: llms" in before.stdout.splitlines()
    assert "is what this version of uniroute needs." in after.stdout
