"""A clock that jumped is not believed: nothing is changed by it, and nothing expires en masse (P5, P9)."""

from collections.abc import AsyncIterator

import pytest
from ledgers import Clock, Shop
from redis import Redis
from servers import as_owner

from ledger import messages as m
from ledger.errors import Unavailable
from ledger.findings import clock_ms
from ledger.journal.records import START
from ledger.server_clock import Learnt, ServerClock, accept_clock
from ledger.state import State
from ledger.store import Ledger

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000
KEY = "{s0}:clock"


def clock_of(ledger: Ledger) -> ServerClock:
    (shard,) = ledger._shards  # noqa: SLF001 a server's clock cannot be set: its process's count is
    return shard._clock  # noqa: SLF001


def jump(ledger: Ledger, by_ms: int) -> None:
    """As if the server's clock had moved against what this process counts."""
    clock = clock_of(ledger)
    learnt = clock._learnt  # noqa: SLF001
    assert learnt is not None
    clock._learnt = Learnt(learnt.ledger_ms - by_ms, learnt.monotonic_ms)  # noqa: SLF001


async def looked(ledger: Ledger) -> State:
    """What the ledger says of itself after what each process does once a second."""
    await ledger.standing(0, START)
    return ledger.state()


@pytest.fixture
async def ledger(valkey_url: str) -> AsyncIterator[Ledger]:
    """Of a process that has counted for a while: A is held at S1."""
    ledger = await Ledger.open(valkey_url)
    shop = Shop(ledger, Clock())
    await shop.open()
    await shop.stock("A", 5)
    await shop.hold(("A", 1), ttl_ms=60_000)
    yield ledger
    await ledger.close()


@pytest.fixture
def client(valkey_url: str) -> Redis:
    return Redis.from_url(as_owner(valkey_url))


@pytest.mark.parametrize("by_ms", [HOUR_MS, -HOUR_MS, 60_500, -60_500])
async def test_after_a_jump_nothing_is_changed_and_reads_go_on(ledger: Ledger, client: Redis, by_ms: int) -> None:
    """P5, P9: not even by the very call that meets the jump."""
    entries = client.xlen("{s0}:journal")
    jump(ledger, by_ms)
    shop = Shop(ledger, Clock())
    for change in (shop.hold(("A", 1)), shop.stock("A", 9), ledger.expire(m.Expire())):
        with pytest.raises(Unavailable, match="jumped"):
            await change

    # It is told by the time that the process counts.
    assert (await shop.position("A")).held == (1 if by_ms > 0 else 0)
    assert client.xlen("{s0}:journal") == entries
    (reason,) = ledger.state().reasons
    assert "--accept-clock" in reason


async def test_a_read_that_meets_the_jump_is_answered(ledger: Ledger) -> None:
    """P9: by the time that the process counts, so that the hold is still there."""
    jump(ledger, HOUR_MS)

    assert (await Shop(ledger, Clock()).position("A")).held == 1
    assert not ledger.ready


@pytest.mark.parametrize("by_ms", [59_500, -59_500])
async def test_a_step_of_less_than_a_minute_is_followed(ledger: Ledger, by_ms: int) -> None:
    jump(ledger, by_ms)

    assert isinstance(await Shop(ledger, Clock()).hold(("A", 1)), m.Done)
    assert (await looked(ledger)).ready


async def test_when_the_clock_is_right_again_it_goes_on_by_itself(ledger: Ledger, client: Redis) -> None:
    """P9: whoever looks first sees it, a call or the look of each second; the mark goes too."""
    jump(ledger, HOUR_MS)
    assert not (await looked(ledger)).ready
    assert client.get(KEY) == b"doubted"
    jump(ledger, -HOUR_MS)

    assert (await looked(ledger)).ready
    assert client.get(KEY) is None
    assert isinstance(await Shop(ledger, Clock()).hold(("A", 1)), m.Done)

    jump(ledger, HOUR_MS)
    assert not (await ledger.check()).ready
    jump(ledger, -HOUR_MS)
    assert (await ledger.check()).ready


async def test_a_process_that_is_started_after_the_jump_does_not_believe_it_either(
    ledger: Ledger, valkey_url: str, client: Redis
) -> None:
    """P5: its own clock may have jumped, too. It looks, and changes nothing, until an operator accepts the clock."""
    jump(ledger, HOUR_MS)
    await looked(ledger)
    late = Ledger(valkey_url)
    for _ in range(2):
        with pytest.raises(Unavailable, match="before this process was started"):
            await late.expire(m.Expire())
        assert (await Shop(late, Clock()).position("A")).held == 1
        assert not (await looked(late)).ready
    assert client.get(KEY) == b"doubted"

    await accept_clock(valkey_url, 1)
    for process in (ledger, late):
        assert (await looked(process)).ready
        assert isinstance(await Shop(process, Clock()).hold(("A", 1)), m.Done)
    assert 0 < client.pttl(KEY) <= 60_000
    await late.close()


async def test_a_process_that_was_asleep_stops_only_itself(ledger: Ledger, valkey_url: str, client: Redis) -> None:
    """P9: those that have counted meanwhile know better."""
    healthy = await Ledger.open(valkey_url)
    jump(ledger, HOUR_MS)
    assert not (await looked(ledger)).ready
    assert client.get(KEY) == b"doubted"
    for _ in range(2):
        assert (await looked(healthy)).ready
        assert client.get(KEY) is None
        assert not (await looked(ledger)).ready
        assert client.get(KEY) is None, "it is said once"
    await healthy.close()


async def test_a_machine_whose_own_clock_is_wrong_changes_nothing_until_it_is_mended(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P9: before it has counted, a process goes by its own clock."""
    monkeypatch.setattr("ledger.server_clock.clock_ms", lambda: 1_000_000)
    lost = Ledger(valkey_url)
    with pytest.raises(Unavailable, match="jumped"):
        await Shop(lost, Clock()).open()
    monkeypatch.undo()

    assert (await lost.check()).ready
    await Shop(lost, Clock()).open()
    await lost.close()


async def test_a_ledger_that_has_lived_ahead_is_no_jump(valkey_url: str) -> None:
    """P5: its time stands still until the clock has come to it, for a process that found it so."""
    clock = Clock()
    clock.now_ms = clock_ms() + HOUR_MS
    ahead, late = Ledger(valkey_url, now_ms=clock), Ledger(valkey_url)
    await Shop(ahead, clock).open()
    shop = Shop(late, clock)
    await shop.stock("A", 5)
    for _ in range(3):
        assert (await shop.hold(("A", 1))).reservation.created_at_ms == clock.now_ms
        assert (await looked(late)).ready
    await ahead.close()
    await late.close()


async def test_a_clock_that_went_back_is_not_accepted(ledger: Ledger, valkey_url: str, client: Redis) -> None:
    """P5: the ledger's time never runs back, so that it would stand still."""
    clock = Clock()
    clock.now_ms = clock_of(ledger).expected_ms() + HOUR_MS
    ahead = Ledger(valkey_url, now_ms=clock)
    await Shop(ahead, clock).open()
    await ahead.close()

    with pytest.raises(Unavailable, match="wait until the clock has come to it"):
        await accept_clock(valkey_url, 1)
    assert client.get(KEY) is None
