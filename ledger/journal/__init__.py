"""The journal: what the ledger did, kept in Postgres, and what stands beside it there: quarantine and feed status."""

from ledger.journal.audit_status import AuditReport, AuditStatus, ClaimsStanding
from ledger.journal.checkpointing import Checkpointed, CheckpointRefused, make_checkpoint
from ledger.journal.checkpoints import Checkpoints
from ledger.journal.checks import check_postgres
from ledger.journal.conflicts import Conflict, conflicts, settle_conflicts
from ledger.journal.enduring import endure
from ledger.journal.explaining import ClaimOn, Explanation, PositionMovement, Unexplained, explain
from ledger.journal.feed_status import FeedStatus
from ledger.journal.follower import Follower, Observer
from ledger.journal.indexer import Indexer
from ledger.journal.migrations import ChangedMigration, migrate
from ledger.journal.outbox import CursorMoved, Outbox
from ledger.journal.overcommitted import (
    BadCursor,
    ClaimedLine,
    Claims,
    OvercommittedPage,
    OvercommittedPosition,
)
from ledger.journal.postgres import FAILED as JOURNAL_FAILED
from ledger.journal.postgres import open_unless_stopped
from ledger.journal.quarantine import Quarantine, QuarantinedEvent, QuarantineRow
from ledger.journal.reader import Journal, JournalEnd, Problem, ShardStatus, SourceStatus, Status
from ledger.journal.records import Cursor, Place, Unreadable
from ledger.journal.republishing import Again, announce_again, announced_since
from ledger.journal.roles import ROLES, make_roles
from ledger.journal.search import Filters, FoundReservation, ReservationPage, Reservations
from ledger.journal.stream import StreamStatus
from ledger.journal.writer import JournalWriter, Written

__all__ = [
    "JOURNAL_FAILED",
    "ROLES",
    "Again",
    "AuditReport",
    "AuditStatus",
    "BadCursor",
    "ChangedMigration",
    "CheckpointRefused",
    "Checkpointed",
    "Checkpoints",
    "ClaimOn",
    "ClaimedLine",
    "Claims",
    "ClaimsStanding",
    "Conflict",
    "Cursor",
    "CursorMoved",
    "Explanation",
    "FeedStatus",
    "Filters",
    "Follower",
    "FoundReservation",
    "Indexer",
    "Journal",
    "JournalEnd",
    "JournalWriter",
    "Observer",
    "Outbox",
    "OvercommittedPage",
    "OvercommittedPosition",
    "Place",
    "PositionMovement",
    "Problem",
    "Quarantine",
    "QuarantineRow",
    "QuarantinedEvent",
    "ReservationPage",
    "Reservations",
    "ShardStatus",
    "SourceStatus",
    "Status",
    "StreamStatus",
    "Unexplained",
    "Unreadable",
    "Written",
    "announce_again",
    "announced_since",
    "check_postgres",
    "conflicts",
    "endure",
    "explain",
    "make_checkpoint",
    "make_roles",
    "migrate",
    "open_unless_stopped",
    "settle_conflicts",
]
