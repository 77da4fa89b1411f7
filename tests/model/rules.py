"""The rules of the design, one switch each. All on is the design as modelled; one off is a mistake to be found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """What each step must not forget. Those marked FIX were not in the first design: see `log_model`."""

    reserve_compares: bool = True  # a reserved id is not given to other content
    claim_finds_first: bool = True  # a claim of a request that stands does not make it anew
    claim_names_its_fence: bool = True  # FIX: a repeated claim is `mine` only while its own fence stands
    claim_looks_again: bool = True  # after the claim the record is read for cancels (and written again if lost)
    taker_looks: bool = True  # FIX: so does a taker, as the claimer may have died in between
    archive_is_unique: bool = True  # one record per request id
    archive_orders: bool = True  # FIX: one record per ordinal of a conversation
    archive_before_append: bool = True  # nothing is shown that the archive does not own
    append_fenced: bool = True
    append_compares_owner: bool = True  # FIX: fence and owner and incarnation, as clocks may stand still
    append_skips: bool = True  # what is there already is not written twice
    cancel_writes_first: bool = True  # a cancel writes the record, then looks at the request
    cancel_is_archived: bool = True  # FIX: a cancel is in the archive before it is acknowledged
    post_settles: bool = True  # a cancel after the seal is too late
    post_stores: bool = True
    seal_hears: bool = True  # a seal is refused while there is a cancel that was not heard
    end_once: bool = True  # the archive's first ending stands
    finish_asks_archive: bool = True  # what is published is the archive's ending
    finish_promotes: bool = True
    finish_recognised: bool = True  # a repeated finish answers as the first
    release_unshown: bool = True  # only before the first append
    release_own: bool = True  # FIX: only the claim that it made, while its fence stands
    release_strange: bool = True  # FIX: a taker whose request the archive does not own releases it
    release_buries: bool = True  # FIX: a claim that comes after its own release is refused
    hand_over_fenced: bool = True
    take_over_waits: bool = True  # only what has no owner, or one whose lease has run out
    take_over_raises: bool = True  # the fence
    take_over_asks: bool = True  # the archive: FIX: and writes the fence there
    take_over_own: bool = True  # FIX: a node takes what it owns without a task
    loss_is_noticed: bool = True  # every script compares the server's replid
    reenter_new_epoch: bool = True
    reenter_yields: bool = True  # to whoever has the request in this incarnation, or a higher fence
    reenter_in_doubt: bool = True  # absent requests only while in doubt
    reenter_asks: bool = True  # FIX: the archive, whether it was taken over or has ended
    reenter_asks_again: bool = True  # FIX: after another loss
    reenter_shown: bool = True  # FIX: only what has been shown; the rest is rebuilt
    reenter_one_floor: bool = True  # FIX: nobody else has, or keeps, the floor of the conversation
    rebuild_waits: bool = True  # a lease time, for living owners to re-enter
    rebuild_leaves_known: bool = True
    doubt_refuses_claims: bool = True
    doubt_sweeps: bool = True  # the archive is compared with the log again and again
    effect_marked: bool = True  # FIX: a side effect is marked in the archive before it is run
    effect_told: bool = True  # tool.running is in the log before the tool runs, and a taker does not run it again
