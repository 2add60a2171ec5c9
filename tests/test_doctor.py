"""``availability doctor`` says what is unsafe, and does not call well what it could not see."""

import asyncio
from pathlib import Path

from click.testing import CliRunner
from cluster import Cluster, node_id, slot_of
from redis import Redis as SyncRedis
from servers import as_owner

from availability import cli_tools, doctor, issuer
from availability.settings import Settings
from ledger import Finding


def safe(folder: Path, *, redis_url: str = "", nats_url: str = "", postgres_url: str = "") -> Settings:
    issuer.create_keys(folder)
    return Settings(
        redis_url=redis_url,
        nats_url=nats_url,
        postgres_url=postgres_url,
        jwks_file=str(issuer.jwks_file(folder)),
        token_issuer=issuer.ISSUER,
    )


def verdicts(settings: Settings) -> dict[str, str]:
    """By subject, of what is not about users, clocks and disks."""
    findings = asyncio.run(doctor.examine(settings))
    apart = ("user", "role", "clock", "disk")
    return {finding.subject: finding.verdict for finding in findings if not finding.subject.endswith(apart)}


def test_our_own_servers_are_safe(tmp_path: Path, valkey_url: str, nats_url: str, postgres_url: str) -> None:
    findings = asyncio.run(
        doctor.examine(safe(tmp_path, redis_url=valkey_url, nats_url=nats_url, postgres_url=postgres_url))
    )
    assert {finding.verdict for finding in findings} <= {"ok", "warning"}
    told = {finding.subject: finding.verdict for finding in findings}
    clocks = {"Valkey's clock", "Postgres's clock"}
    assert {subject for subject in told if told[subject] == "ok"} >= {"tokens", "Valkey", "NATS", "Postgres", *clocks}
    assert doctor.exit_code(findings) == 0


def test_each_server_of_a_cluster_is_looked_at(tmp_path: Path, cluster: Cluster) -> None:
    """P2, P9: whichever of them is named."""
    settings = safe(tmp_path, redis_url=f"redis://127.0.0.1:1,{cluster.nodes[1].url}")
    first, second, third = ("Valkey " + node.url.rpartition("@")[2].removesuffix("/0") for node in cluster.nodes)
    others = {"tokens": "ok", "nats_url": "unchecked", "postgres_url": "unchecked"}
    assert verdicts(settings) == {first: "ok", second: "ok", third: "ok", **others}

    owner, target = cluster.node_of(0), cluster.another_than(cluster.node_of(0))
    moving = {first: "ok", second: "ok", third: "ok", **others}
    moving.pop(subject := (first, second, third)[cluster.nodes.index(owner)])
    with SyncRedis.from_url(owner.url) as client:
        client.config_set("cluster-require-full-coverage", "yes")
        client.execute_command("CLUSTER", "SETSLOT", slot_of(0), "MIGRATING", node_id(target))
        found = verdicts(settings)
        client.execute_command("CLUSTER", "SETSLOT", slot_of(0), "STABLE")
        client.config_set("cluster-require-full-coverage", "no")
    assert found == moving | dict.fromkeys(
        [f"{subject}'s cluster-require-full-coverage", f"{subject}'s slots"], "unsafe"
    )


def test_servers_that_are_no_cluster_are_not_named_together(tmp_path: Path, valkey_url: str, cluster: Cluster) -> None:
    """P9: whichever answers first would be the ledger."""
    assert verdicts(safe(tmp_path, redis_url=f"{valkey_url},{cluster.url}"))["redis_url"] == "unsafe"


def test_what_does_not_answer_is_unchecked(tmp_path: Path) -> None:
    settings = safe(
        tmp_path,
        redis_url="redis://127.0.0.1:1",
        nats_url="nats://127.0.0.1:1",
        postgres_url="postgresql://127.0.0.1:1/x",
    )
    findings = asyncio.run(doctor.examine(settings))
    assert {finding.subject for finding in findings if finding.verdict == "unchecked"} == {"Valkey", "NATS", "Postgres"}
    assert doctor.exit_code(findings) == 2


def test_a_wrong_password_is_told_and_not_shown(tmp_path: Path, valkey_url: str) -> None:
    """P10."""
    findings = asyncio.run(
        doctor.examine(safe(tmp_path, redis_url=as_owner(valkey_url).replace("of-the-tests", "guessed")))
    )
    [valkey] = [finding for finding in findings if finding.subject == "Valkey"]
    assert valkey.verdict == "unchecked"
    assert "guessed" not in valkey.text


def test_tokens_that_anyone_could_sign_are_unsafe(tmp_path: Path) -> None:
    """P10."""
    shared = tmp_path / "shared.json"
    shared.write_text('{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}]}')
    assert verdicts(Settings(jwks_file=str(shared), token_issuer="us"))["jwks_file"] == "unsafe"
    assert verdicts(Settings(jwks_url="http://keys", token_issuer="us"))["jwks_url"] == "unsafe"
    assert verdicts(Settings())["token_issuer"] == "unsafe"


def test_a_clock_is_accepted_unless_clocks_differ_or_nobody_can_be_told(valkey_url: str) -> None:
    """P9: by the exit codes of the command."""

    def accepted(url: str, *findings: Finding) -> int:
        return asyncio.run(doctor.accept_clock(Settings(redis_url=url), findings))[0]

    differs = Finding("unsafe", "Postgres's clock", "is an hour behind")
    with SyncRedis.from_url(as_owner(valkey_url)) as client:
        assert accepted(valkey_url, differs) == 1
        assert client.get("{s0}:clock") is None
        assert accepted(valkey_url, Finding("ok", "Valkey's clock", "is 0.001 s behind")) == 0
        assert client.get("{s0}:clock") == b"accepted"
    assert accepted("redis://127.0.0.1:1") == 2


def test_the_command_ends_with_1_when_something_is_unsafe(tmp_path: Path, valkey_url: str) -> None:
    """P2, P9: and tells what to do; with 2 where only something could not be checked."""
    settings = safe(tmp_path, redis_url=valkey_url)
    with SyncRedis.from_url(as_owner(valkey_url)) as client:
        client.config_set("appendfsync", "everysec")
        try:
            unsafe = CliRunner().invoke(cli_tools.doctor, [], obj=settings)
        finally:
            client.config_set("appendfsync", "always")
    remedy = "set it to always, an acknowledged operation must have reached the disk"
    assert unsafe.exit_code == 1
    assert f"unsafe     Valkey's appendfsync is everysec: {remedy}\n" in unsafe.output
    assert CliRunner().invoke(cli_tools.doctor, [], obj=settings).exit_code == 2
