"""The command line, run as a user runs it."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import anyio
import pytest

from datahike_async.cli import main
from datahike_async.demo import packages
from tests import forging

SCHEMA = """
[{:db/ident :name :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :age :db/valueType :db.type/long :db/cardinality :db.cardinality/one}]
"""


@pytest.fixture(params=["asyncio", "trio"])
def cli(request, tmp_path, monkeypatch, capsys):
    """The program called in this process: one of its own takes a second to start."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=None, code=0, out=None):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            done = main(["--loop", request.param, *arguments])
        except SystemExit as end:
            done = end.code
        said = capsys.readouterr()
        assert done == code, said.out + said.err
        return said.out if out or (out is None and code == 0) else said.err

    return run


@pytest.fixture
def process(tmp_path):
    """The program as a process of its own."""

    def run(*arguments, stdin=None, code=0):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "datahike_async", *arguments],
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


def test_what_a_process_wrote_the_next_one_reads(process):
    process("transact", "--path", "db", "--create", "-", stdin=SCHEMA)
    refused = process("--loop", "trio", "transact", "--path", "db", "[{:agee 1}]", code=1)
    assert refused.count("\n") == 1
    assert ":transact/schema" in refused
    query = "[:find (count ?e) . :where [?e :db/ident :age]]"
    assert process("--loop", "trio", "q", "--path", "db", query).strip() == "1"
    assert "usage" in process("q", query, code=2)


def test_a_database_is_created_as_it_is_asked_for(cli):
    cli("transact", "--path", "db", "--create", "--schema-flexibility", "read", "[{:n 1}]")
    cli("transact", "--path", "db", "[{:n 2}]")
    assert "2" in cli("q", "--path", "db", "[:find (count ?e) . :where [?e :n]]")
    refused = cli("transact", "--path", "db", "--schema-flexibility", "write", "[{:n 3}]", code=1)
    assert ":schema-flexibility" in refused
    refused = cli("transact", "--path", "strict", "--create", "[{:n 1}]", code=1)
    assert ":n" in refused


def test_transact_and_query(cli):
    cli("transact", "--path", "db", "--create", SCHEMA)
    report = json.loads(
        cli("transact", "--path", "db", "--format", "json", "-", stdin='[{:name "Ada" :age 36}]')
    )
    cli("transact", "--path", "db", '[{:name "Bob" :age 5} {:name "Ada" :age 37}]')
    query = "[:find ?n ?a :in $ ?least :where [?e :name ?n] [?e :age ?a] [(>= ?a ?least)]]"
    assert cli("q", "--path", "db", query, "6").splitlines() == [
        "  n     a",
        "  ---  --",
        "  Ada  37",
    ]
    assert json.loads(cli("q", "--path", "db", "--format", "json", query, "0")) == [
        ["Ada", 37],
        ["Bob", 5],
    ]
    edn = cli(
        "q",
        "--path",
        "db",
        "--format",
        "edn",
        "[:find (pull ?e [:name :age]) . :where [?e :age 5]]",
    )
    assert edn.strip() == '{:name "Bob", :age 5}'
    then = cli(
        "q", "--path", "db", "--as-of", str(report["tx"]), "[:find [?a ...] :where [_ :age ?a]]"
    )
    assert then.split()[-1] == "36"
    config = '{:store {:backend :file :path "db"}}'
    assert cli("q", "--config", config, "[:find (count ?e) . :where [?e :name _]]").strip() == "2"


def test_errors_are_said_in_a_line(cli):
    missing = cli("q", "--path", "none", "[:find ?e :where [?e :a]]", code=1)
    assert "does-not-exist" in missing
    assert "Traceback" not in missing
    cli("transact", "--path", "db", "--create", SCHEMA)
    refused = cli("transact", "--path", "db", "[{:agee 1}]", code=1)
    assert ":transact/schema" in refused
    assert ":age" in refused
    assert "line 1, column 1" in cli("q", "--path", "db", "[:find ?e", code=1)
    assert "usage" in cli("q", "[:find ?e]", code=2)


@pytest.fixture
def few_packages(monkeypatch):
    """A machine with few packages: how many files they have is not what is looked at."""
    few = {"anyio", "idna", "sniffio", "trio", "attrs", "outcome", "sortedcontainers", "packaging"}
    found = [x for x in packages.distributions() if x.metadata["Name"] in few]
    monkeypatch.setattr(packages, "distributions", lambda: found)


def test_the_demo_twice(cli, few_packages):
    first = cli("demo", "--path", "demo", "--package", "anyio")
    assert "What depends on anyio?" in first
    assert "first run" in first
    second = cli("demo", "--path", "demo")
    assert " 0 new facts" in second
    assert "What changed since the last run" in second
    # Something is removed in between: the next run sees it come back.
    cli("transact", "--path", "demo", '[[:db/retract [:package/name "anyio"] :package/version]]')
    query = '[:find ?v . :where [?p :package/name "anyio"] [?p :package/version ?v]]'
    assert cli("q", "--path", "demo", query).strip() == "nil"
    third = cli("demo", "--path", "demo")
    assert "1 new facts" in third
    assert cli("q", "--path", "demo", query).strip() != "nil"


@pytest.mark.slow
def test_the_demo_of_all_that_is_installed(process):
    assert "first run" in process("demo", "--path", "demo")
    assert " 0 new facts" in process("--loop", "trio", "demo", "--path", "demo")


def test_branches_and_commits(cli):
    why = ":db/ident :why :db/valueType :db.type/string :db/cardinality :db.cardinality/one"
    cli("transact", "--path", "db", "--create", SCHEMA.replace("]", f"{{{why}}}]"))
    cli("transact", "--path", "db", '{:tx-data [{:name "Ada"}] :tx-meta {:why "first"}}')
    cli("branch", "--path", "db", "trial")
    cli("transact", "--path", "db", "--branch", ":trial", '[{:name "Bob"}]')
    names = "[:find [?n ...] :where [_ :name ?n]]"
    assert cli("q", "--path", "db", names).split() == ["n", "---", "Ada"]
    found = json.loads(cli("q", "--path", "db", "--branch", "trial", "--format", "json", names))
    assert sorted(found) == ["Ada", "Bob"]
    listed = json.loads(cli("branches", "--path", "db", "--format", "json"))
    assert [row["branch"] for row in listed] == [":db", ":trial"]
    log = json.loads(cli("log", "--path", "db", "--branch", "trial", "--format", "json"))
    assert log[0]["commit"] == listed[1]["commit"]
    assert log[1]["commit"] == listed[0]["commit"]
    assert log[1]["meta"] == {":why": "first"}
    assert [row["tx"] for row in log] == sorted((row["tx"] for row in log), reverse=True)
    assert "first" in cli("log", "--path", "db", "--limit", "1")
    found = json.loads(cli("diff", "--path", "db", ":db", ":trial", "--format", "json"))
    assert [(row["op"], row["v"]) for row in found] == [("add", "Bob")]
    assert "retract" in cli("diff", "--path", "db", listed[1]["commit"])
    assert "+" in cli("merge", "--path", "db", "--preview", ":trial")
    assert "Bob" not in cli("q", "--path", "db", names)
    said = json.loads(cli("merge", "--path", "db", ":trial", "--format", "json"))
    assert [fact[2] for fact in said["added"]] == ["Bob"]
    assert "Nothing to merge" in cli("merge", "--path", "db", ":trial")
    cli("transact", "--path", "db", '[[:db/add 1 :name "Ida"]]')
    cli("transact", "--path", "db", "--branch", "trial", '[[:db/add 1 :name "Eda"]]')
    said = cli("merge", "--path", "db", ":trial", "--format", "edn", code=1, out=True)
    assert ':kind "value"' in said
    assert "nothing was written" in cli("merge", "--path", "db", ":trial", code=1)
    cli("merge", "--path", "db", ":trial", "--on-conflict", "theirs")
    assert "Eda" in cli("q", "--path", "db", names)
    cli("branch", "--path", "db", "back", "--of", log[2]["commit"])
    assert "Ada" not in cli("q", "--path", "db", "--branch", "back", names)
    cli("branch", "--path", "db", "trial", "--delete")
    assert "trial" not in cli("branches", "--path", "db")
    said = cli("branch", "--path", "db", "trial", "--delete", code=1)
    assert ":branch-does-not-exist" in said


def test_verify_and_info_say_how_a_database_is(cli, tmp_path):
    cli("transact", "--path", "db", "--create", "-", stdin=SCHEMA)
    said = cli("verify", "--path", "db", "--deep")
    assert said.startswith("nothing is wrong: ")
    assert json.loads(cli("verify", "--path", "db", "--format", "json"))["ok"] is True
    assert ":ok true" in cli("verify", "--path", "db", "--format", "edn")
    found = json.loads(cli("info", "--path", "db", "--format", "json"))
    assert [branch["name"] for branch in found["branches"]] == [":db"]
    assert "branch :db at commit" in cli("info", "--path", "db")
    log = next((tmp_path / "db").glob("*.log"))
    data = log.read_bytes()
    log.write_bytes(data[:-100] + b"x" + data[-99:])
    cli("verify", "--path", "db", code=1)
    assert ":backend-does-not-exist" in cli("verify", "--path", "none", code=1)


def test_audit_says_whether_a_database_is_what_its_commits_say(cli, tmp_path):
    config = '{:store {:backend :file :path "db"} :crypto-hash? true}'
    cli("transact", "--config", config, "--create", "-", stdin=SCHEMA)
    for n in range(3):
        cli("transact", "--path", "db", f'[{{:name "Ada {n}" :age 36}}]')
    assert cli("audit", "--path", "db", "--deep").startswith(":ok: the ids of ")
    found = json.loads(cli("audit", "--path", "db", "--limit", "2", "--format", "json"))
    assert (found["status"], found["commits"], found["ok"]) == (":ok", 2, True)
    assert ':status ":ok"' in cli("audit", "--path", "db", "--format", "edn")
    cli("audit", "--path", "db", "--limit", "0", code=1)
    cli("transact", "--path", "plain", "--create", "-", stdin=SCHEMA)
    assert cli("audit", "--path", "plain", code=3, out=True).startswith(":advisory: ")

    async def forge():
        async with forging.store_of({"store": {"backend": "file", "path": "db"}}) as store:
            await forging.drop_record_of_tail(store)

    anyio.run(forge)
    assert "mismatch the log of :db: " in cli("audit", "--path", "db", code=1, out=True)


def test_backup_and_restore_copy_a_database(cli):
    cli("transact", "--path", "db", "--create", "-", stdin=SCHEMA)
    cli("transact", "--path", "db", '[{:name "Ada" :age 36}]')
    cli("branch", "--path", "db", ":trial")
    assert "branch :trial at commit" in cli("backup", "--path", "db", "--to", "copy")
    again = json.loads(cli("backup", "--path", "db", "--to", "copy", "--format", "json"))
    assert (again["blobs"], again["rewritten"]) == (0, False)
    said = cli("restore", "--path", "restored", "--from", "copy", "--only", ":db")
    assert "branch :trial" not in said
    assert "Ada" in cli("q", "--path", "restored", "[:find ?n :where [_ :name ?n]]")
    assert ":db-already-exists" in cli("restore", "--path", "restored", "--from", "copy", code=1)
    cli("verify", "--path", "restored")
    assert "--to" in cli("backup", "--path", "db", code=2)


def test_garbage_is_collected_or_only_counted(cli):
    cli("transact", "--path", "db", "--create", SCHEMA)
    cli("branch", "--path", "db", "trial")
    cli("branch", "--path", "db", "trial", "--delete")
    told = json.loads(cli("gc", "--path", "db", "--dry-run", "--format", "json"))
    assert told["dry_run"] is True
    assert "could be freed" in cli("gc", "--path", "db", "--dry-run")
    done = json.loads(cli("gc", "--path", "db", "--commits", "1", "--format", "json"))
    assert list(done["branches"]) == [":db"]
    assert done["epoch"] == 1
    assert ":epoch 2" in cli("gc", "--path", "db", "--remove-before", "0", "--format", "edn")
    assert " kept" in cli("gc", "--path", "db", "--seconds", "1")
    assert "expected" in cli("gc", "--path", "db", "--commits", "0", code=1)


def test_no_branch_is_named_to_what_takes_all_of_a_database(cli):
    cli("transact", "--path", "db", "--create", SCHEMA)
    for command in ("info", "verify"):
        assert "--branch" in cli(command, "--path", "db", "--branch", "trial", code=2)
    backup = ("backup", "--path", "db", "--to", "copy")
    assert "--only" in cli(*backup, "--branch", "trial", code=2)


def test_branches_are_tagged_renamed_forced_reverted_and_rebased(cli):
    names = "[:find [?n ...] :where [_ :name ?n]]"

    def said(*arguments, branch="db"):
        return cli("q", "--path", "db", "--branch", branch, "--format", "json", names, *arguments)

    def there(branch="db"):
        return sorted(json.loads(said(branch=branch)))

    cli("transact", "--path", "db", "--create", SCHEMA)
    cli("transact", "--path", "db", '[{:name "Ada" :age 36}]')
    cli("tag", "--path", "db", "v1")
    cli("transact", "--path", "db", '[{:name "Bob" :age 9}]')
    cli("tag", "--path", "db", "v1-again", "--of", "v1")
    tags = json.loads(cli("tags", "--path", "db", "--format", "json"))
    assert [tag["tag"] for tag in tags] == [":v1", ":v1-again"]
    assert len({tag["commit"] for tag in tags}) == 1
    assert "Bob" in cli("diff", "--path", "db", "v1")
    cli("untag", "--path", "db", "v1-again")
    assert "v1-again" not in cli("tags", "--path", "db")
    assert ":tag-does-not-exist" in cli("untag", "--path", "db", "v1-again", code=1)

    cli("branch", "--path", "db", "sping", "--of", "v1")
    cli("rename-branch", "--path", "db", "sping", "spring")
    assert there("spring") == ["Ada"]
    cli("transact", "--path", "db", "--branch", "spring", '[{:name "Cy"}]')
    done = json.loads(cli("rebase", "--path", "db", "--branch", "spring", "db", "--format", "json"))
    assert [one["added"] for one in done] == [1]
    assert there("spring") == ["Ada", "Bob", "Cy"]

    [newest, *_] = json.loads(cli("log", "--path", "db", "--format", "json"))
    report = json.loads(cli("revert", "--path", "db", str(newest["tx"]), "--format", "json"))
    assert [fact[2] for fact in report["retracted"]] in (["Bob", 9], [9, "Bob"])
    assert there() == ["Ada"]
    assert "no transaction" in cli("revert", "--path", "db", "7", code=1)

    cli("transact", "--path", "db", '[[:db/add [:name "Ada"] :age 37]]')
    [newest, *_] = json.loads(cli("log", "--path", "db", "--format", "json"))
    cli("transact", "--path", "db", '[[:db/add [:name "Ada"] :age 38]]')
    assert "value at :age" in cli("revert", "--path", "db", newest["commit"], code=1, out=True)

    cli("force-branch", "--path", "db", "spring", "--of", "v1", "--parent", "spring")
    assert there("spring") == ["Ada"]
    cli("force-branch", "--path", "db", "new")
    assert there("new") == ["Ada"]
    assert "new" in cli("branches", "--path", "db")


def test_what_is_purged_is_gone(cli):
    cli("transact", "--path", "db", "--create", SCHEMA)
    cli("transact", "--path", "db", '[{:name "Ada" :age 36} {:name "Bob"}]')
    cli("tag", "--path", "db", "v1")
    form = '[[:db.purge/entity [:name "Ada"]]]'
    done = json.loads(
        cli("purge", "--path", "db", "--everywhere", "--format", "json", "-", stdin=form)
    )
    assert (done["datoms"], done["untagged"]) == (2, [":v1"])
    assert "Ada" not in cli("q", "--path", "db", "[:find ?n :where [_ :name ?n]]")
    assert "purges nothing" in cli("purge", "--path", "db", "[[:db/add 1 :age 3]]", code=1)
