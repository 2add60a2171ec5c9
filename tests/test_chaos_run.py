"""P1 to P8 under kill -9: the short form of ``make chaos``, which breaks a real service under load and judges it."""

import pytest
from chaos.faults import FAULTS
from chaos.run import Options, Run
from chaos.table import Table

SHORT_TTLS_S = (1, 1, 2)


@pytest.mark.anyio
async def test_a_service_that_is_killed_under_load_keeps_its_promises() -> None:
    faults = [FAULTS[name]() for name in ("kill-valkey", "kill-api-before-reply")]
    table = Table(seed=5, command="")
    said: list[str] = []
    findings = await Run(Options(faults, 5, shoppers=8, window_s=6.0, ttls_s=SHORT_TTLS_S), table, said.append).run()
    assert findings == [], said
    assert {name: row.counts["times"] for name, row in table.rows.items() if row.counts["times"]} == {
        fault.name: 1 for fault in faults
    }, said
    assert table.sometimes["positions put in order"] > 0
