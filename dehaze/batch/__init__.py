"""A folder job: plan it, run it, resume it, and account for every photo.

The plan is made before any work: each photo has one output, no input is ever an output, and what
cannot be planned is an error at once. A journal in the output folder remembers what was made, from
what, and how, so that a second run does only what is left.

A photo's way is one object, ``Item``: ``plan`` makes it, ``Job`` hands it out, an executor takes it
through its steps with a worker, ``Job`` writes it into the journal, and ``Summary`` holds it.
"""

from dehaze.batch.item import Executor, Item, Status, Work, Worker
from dehaze.batch.job import Job, Summary
from dehaze.batch.journal import JOURNAL_NAME, LOCK_NAME
from dehaze.batch.plan import Plan, PlanError, check_claims, check_room, plan
from dehaze.batch.watch import watch

__all__ = [
    "JOURNAL_NAME",
    "LOCK_NAME",
    "Executor",
    "Item",
    "Job",
    "Plan",
    "PlanError",
    "Status",
    "Summary",
    "Work",
    "Worker",
    "check_claims",
    "check_room",
    "plan",
    "watch",
]
