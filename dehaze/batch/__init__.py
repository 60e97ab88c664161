"""A folder job: plan it, run it, resume it, and account for every photo.

The plan is made before any work: each photo has one output, no input is ever an output, and what
cannot be planned is an error at once. A journal in the output folder remembers what was made, from
what, and how, so that a second run does only what is left.
"""

from dehaze.batch.job import Job, Outcome, Summary
from dehaze.batch.journal import JOURNAL_NAME, LOCK_NAME
from dehaze.batch.plan import Plan, PlanError, PlannedPhoto, check_room, plan
from dehaze.batch.task import Executor, Report, Saved, Task, Worker
from dehaze.batch.watch import watch

__all__ = [
    "JOURNAL_NAME",
    "LOCK_NAME",
    "Executor",
    "Job",
    "Outcome",
    "Plan",
    "PlanError",
    "PlannedPhoto",
    "Report",
    "Saved",
    "Summary",
    "Task",
    "Worker",
    "check_room",
    "plan",
    "watch",
]
