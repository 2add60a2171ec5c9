"""Valkey's users can do their work and nothing else (P10); the other tests all run as these users."""

import re
from importlib.resources import files
from pathlib import Path

import pytest
from cluster import Cluster
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from servers import RunningServer, as_owner, as_user
from waiting import wait_until

from availability import access
from ledger import Expire, Ledger, Unavailable, deploy_library

CONFIG = Path(__file__).parent.parent / "config"
CALL = re.compile(r"\bcall(?:_in_portions)?\((?:'(\w+)'|(\w+))")
DECIDING = (access.API, access.INGEST, access.KEEPER, access.OPERATOR)
TAKEN_OVER = {
    *("acl setuser api on", "bgrewriteaof", "client kill id 1", "cluster reset", "config set appendonly no"),
    "debug sleep 0",
    *("eval return 0", "failover", "flushall", "flushdb", "function delete x", "function flush", "function restore x"),
    *("keys *", "migrate h 1 k 0 1", "module load x", "replicaof h 1", "restore {s0}:k 0 x", "save", "script flush"),
    *("script load x", "shutdown", "swapdb 0 1", "monitor", "slaveof h 1", "latency reset", "publish c m"),
}
"""What nobody but an owner may do."""
MAKING_A_PRIMARY = {"replicaof h 1", "slaveof h 1"}
"""What a failover needs."""


def commands_of_the_library() -> set[str]:
    """Every command that a script sends, by the Lua text; a call that does not name its command in it is found too."""
    found = set()
    for file in (files("ledger") / "lua").iterdir():
        text = re.sub(r"--.*", "", file.read_text())
        for named, unnamed in CALL.findall(text):
            assert named or unnamed in {"command", "key"}, f"{file.name} calls what it does not name: {unnamed}"
            found.add(named.lower())
    return found - {""}


def allowed(user: str) -> set[str]:
    return {rule[1:] for rule in access.VALKEY[user] if rule.startswith("+")}


def test_the_library_is_allowed_all_that_it_calls_and_that_alone() -> None:
    """P1: a refusal in the middle of a script would leave what was written before it."""
    deciding, filling = ({rule[1:] for rule in rules} for rules in (access.LUA, access.FILLING))
    assert deciding | filling == commands_of_the_library()
    for user in DECIDING:
        assert deciding | {"fcall"} <= allowed(user), user
        assert (filling <= allowed(user)) == (user == access.OPERATOR), user
    for user in set(access.VALKEY) - set(DECIDING):
        assert not {"fcall", "set", "hset", "xadd", "del"} & allowed(user), user


def test_the_file_for_servers_of_your_own_says_the_same() -> None:
    lines = [line for line in (CONFIG / "valkey.acl").read_text().splitlines() if line]
    assert lines == access.valkey_acl()


def test_nobody_can_take_the_server_over(valkey_url: str) -> None:
    with Redis.from_url(as_owner(valkey_url)) as owner:
        for user in access.VALKEY:
            for taken_over in TAKEN_OVER - (MAKING_A_PRIMARY if user == access.OPERATOR else set()):
                answer = owner.execute_command("ACL", "DRYRUN", user, *taken_over.split())
                assert b"no permissions" in answer, (user, taken_over)


def test_each_user_has_the_ledgers_keys_alone(valkey_url: str) -> None:
    with (
        Redis.from_url(as_user(valkey_url, access.API)) as api,
        Redis.from_url(as_user(valkey_url, "monitor")) as monitor,
    ):
        api.set("{s0}:shard", "mine")
        assert monitor.xlen("{s0}:journal") == 0
        assert monitor.get("{s0}:shard") == b"mine", "by which `doctor` tells whether the number of shards is right"
        with pytest.raises(NoPermissionError):
            api.set("somebody:else", "theirs")
        with pytest.raises(NoPermissionError):
            monitor.set("{s0}:shard", "not mine")
    with Redis.from_url(as_user(valkey_url, access.JOURNAL)) as journal, pytest.raises(NoPermissionError):
        journal.xrange("{s0}:shard")


def test_who_does_not_say_who_he_is_may_do_nothing(valkey_server: RunningServer) -> None:
    port = valkey_server.url.rpartition(":")[2]
    for nobody in (f"redis://127.0.0.1:{port}", f"redis://default:of-the-tests@127.0.0.1:{port}"):
        with Redis.from_url(nobody) as client, pytest.raises((NoPermissionError, AuthenticationError)):
            client.ping()


def test_a_user_without_a_password_of_its_own_cannot_come_in(valkey_url: str) -> None:
    """The file for servers of your own has none: one that is forgotten opens no door."""
    with Redis.from_url(as_owner(valkey_url)) as owner:
        owner.execute_command("ACL", "SETUSER", "forgotten", *access.valkey_acl()[1].split()[2:])
        with Redis.from_url(valkey_url.replace("//api:", "//forgotten:")) as client, pytest.raises(AuthenticationError):
            client.ping()
        owner.acl_deluser("forgotten")


@pytest.mark.anyio
async def test_a_process_waits_for_the_library_that_it_may_not_load(valkey_url: str) -> None:
    with Redis.from_url(as_owner(valkey_url)) as owner:
        owner.function_flush("SYNC")
        ledger = await Ledger.open(valkey_url)
        assert ledger.state().reasons == ["the ledger's server has not got our library: run `availability migrate`"]
        with pytest.raises(Unavailable, match="run `availability migrate`"):
            await ledger.expire(Expire())
        assert not owner.function_list()
        assert await deploy_library(as_user(valkey_url, access.OPERATOR)) == 1
        assert await deploy_library(as_user(valkey_url, access.OPERATOR)) == 0
        await wait_until(lambda: is_ready(ledger))
    await ledger.close()


@pytest.mark.anyio
async def test_every_primary_of_a_cluster_gets_the_library(cluster: Cluster) -> None:
    for node in cluster.nodes:
        with Redis.from_url(node.url) as owner:
            owner.function_flush("SYNC")
    operator = as_user(cluster.url, access.OPERATOR)
    assert await deploy_library(f"redis://127.0.0.1:1,{operator}") == len(cluster.nodes)
    assert await deploy_library(operator) == 0


async def is_ready(ledger: Ledger) -> bool:
    return (await ledger.check()).ready
