"""States of an item, and what users see of a job.

    queued ──claim──▶ running ──complete──▶ succeeded
      ▲                 │  └────fail──────▶ failed
      └─release/rescue──┘        queued ──cancel──▶ cancelled

An item goes through two stages, each with its own claim: intake brings its images into the
blob store, generate answers it. Waiting for a retry is `queued` with a later `due_at`.
"""

from datetime import datetime
from enum import StrEnum


class Stage(StrEnum):
    """What an item waits for next."""

    #: Its images are to be fetched and checked. Moved on by an intake worker.
    INTAKE = "intake"
    #: Its answer is to be generated. Claimed by an engine worker of the item's model.
    GENERATE = "generate"


class SourceApi(StrEnum):
    """The API through which a job was submitted."""

    JOB = "job"
    #: A batch of OpenAI's interface; its answers go into files of that form.
    BATCH = "batch"
    #: One conversation that somebody waits for: claimed first, and left out of lists.
    CHAT = "chat"


class ItemState(StrEnum):
    """State of an item. The last three are final."""

    #: Waiting for a worker. Entered by submit, release, rescue and a retryable failure.
    QUEUED = "queued"
    #: Leased to one worker's session. Entered by claim only.
    RUNNING = "running"
    #: Answered. Entered by complete.
    SUCCEEDED = "succeeded"
    #: Given up with a code and a sentence. Entered by fail.
    FAILED = "failed"
    #: Never to be run. Entered from queued when its job is cancelled.
    CANCELLED = "cancelled"


FINAL_STATES = (ItemState.SUCCEEDED, ItemState.FAILED, ItemState.CANCELLED)


class JobState(StrEnum):
    """State of a job that users see, derived from its facts and never stored."""

    #: Accepted and durable; its items are still being imported from the spool.
    IMPORTING = "importing"
    #: Sealed; no item has been claimed yet.
    QUEUED = "queued"
    RUNNING = "running"
    #: Paused: nothing new is claimed.
    PAUSED = "paused"
    #: Cancelled; items that were running may still finish and keep their answers.
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    #: Every item is final and at least one failed.
    FINISHED_WITH_ERRORS = "finished_with_errors"
    CANCELLED = "cancelled"
    #: Its time was over before everything was started.
    EXPIRED = "expired"


class PauseReason(StrEnum):
    """Why a job is paused."""

    #: Somebody asked for it.
    REQUESTED = "requested"
    #: More of its answers have issues than its `pause_on_issues` allows.
    ISSUES = "issues"
    #: Engines of its model serve another variant than the one that has answered so far.
    MODEL_CHANGED = "model_changed"


class ModelChanged(StrEnum):
    """What a job does when no engine serves the variant of its model any more."""

    #: Go on with another variant; also while both are served.
    CONTINUE = "continue"
    #: Pause until somebody resumes it.
    PAUSE = "pause"


FINAL_JOB_STATES = (
    JobState.SUCCEEDED,
    JobState.FINISHED_WITH_ERRORS,
    JobState.CANCELLED,
    JobState.EXPIRED,
)


def ended_as(
    *, cancelled_at: datetime | None, expires_at: datetime | None, failed: int
) -> JobState:
    """State of a finished job."""
    if cancelled_at:
        expired = expires_at is not None and cancelled_at >= expires_at
        return JobState.EXPIRED if expired else JobState.CANCELLED
    return JobState.FINISHED_WITH_ERRORS if failed else JobState.SUCCEEDED
