-- What a controller must still know after a restart, and what people ask about the past.
--
-- One process writes: the controller. Its deciding loop writes everything a step says in one transaction (commit); its
-- dispatcher leases and postpones outbox rows. Readers see committed states only (write-ahead log).
--
-- Times are whole milliseconds since 1970 UTC (`_ms`). Values that are decided by again after a restart are kept whole,
-- as JSON in `body`, to the nanosecond; the columns beside a body exist to be searched by and are never read back.

-- The controller itself: one row, there from the start, replaced by every commit.
-- `seed` and `minted` are what ids are made of, so that no id is made twice; `seed` is an unsigned number kept by its
-- bits. `alive_ms` tells the next run since when nobody watched; it is null until the first commit.
create table controller (
    controller_id integer not null primary key constraint controller_only_one check (controller_id = 1),
    seed integer not null,
    minted integer not null,
    alive_ms integer
) strict;
insert into controller (controller_id, seed, minted) values (1, 0, 0);

-- Each trunk as the board has it: health, listing, active holds, override, gate. Replaced by commit when a step says so,
-- read once at start. There is no history here; that is what `entry` is for.
create table trunk (
    trunk_id text not null primary key,
    body text not null
) strict;

-- Each campaign as the board has it, and our claim on it: what lets a restarted controller resume what it had paused,
-- and nothing else. Replaced or deleted by commit, read once at start.
create table campaign (
    dialer_id text not null,
    campaign_id text not null,
    body text not null,
    constraint campaign_key primary key (dialer_id, campaign_id)
) strict;

-- Each PBX as the board has it. Few rows; rewritten by commit when one changed, read once at start.
create table pbx (
    pbx_id text not null primary key,
    body text not null
) strict;

-- Every hold there ever was, within retention: what people are shown. An active one is in its trunk's body too, which
-- is what a restart goes on from. Written by commit; ended ones are deleted by prune.
create table hold (
    hold_id text not null primary key,
    trunk_id text not null,
    since_ms integer not null,
    released_ms integer,
    refused_calls integer not null,
    body text not null
) strict;
-- Pages of holds, the newest first.
create index hold_in_time on hold (since_ms);
-- A trunk's holds in a span, for the calls they refused.
create index hold_of_trunk on hold (trunk_id, since_ms);

-- Many trunks failing together. Open ones are read at start. Written by commit; ended ones are deleted by prune.
create table incident (
    incident_id text not null primary key,
    pbx_id text not null,
    since_ms integer not null,
    ended_ms integer,
    body text not null
) strict;
create index incident_in_time on incident (since_ms);

-- Whose history of what: the name of a series of runs. Apart from `entry`, so that an entry is a few integers and a
-- word, and so that a trunk's series can be listed without touching its entries. Written by commit, never deleted:
-- there are as many as there are registrations, contacts and trunks.
-- A PBX's series is kept once and shown with each of its trunks.
create table series (
    series_id integer not null primary key,
    scope_kind text not null constraint series_scope_known check (scope_kind in ('trunk', 'pbx')),
    scope_id text not null,
    kind text not null,
    subject text not null,
    constraint series_named_once unique (scope_kind, scope_id, kind, subject)
) strict;

-- History: a run of equal outcomes is one row with a count, so it grows with change and not with time. Written by
-- commit, which keeps this true of each series: in the order of `entry_id`, one run begins no earlier than the one
-- before was last seen. The queries rest on it. An outcome holds until the next run of its series begins.
-- prune deletes runs that were over before the retention's beginning, never the newest of a series.
create table entry (
    entry_id integer not null primary key,
    series_id integer not null constraint entry_in_series references series (series_id),
    previous text,
    outcome text not null,
    seen_count integer not null constraint entry_was_seen check (seen_count >= 1),
    first_at_ms integer not null,
    last_at_ms integer not null,
    detail text,
    constraint entry_runs_forward check (last_at_ms >= first_at_ms)
) strict;
-- Pages: a series in the order of history. SQLite appends the row's own key, which is entry_id.
create index entry_of_series on entry (series_id);
-- Where in a series an instant is. Neither index has last_at_ms or seen_count in it: extending a run, the most frequent
-- write of all, touches no index.
create index entry_in_time on entry (series_id, first_at_ms);

-- Messages to dialers and people. Written by commit, in the transaction of the decision that made them; leased,
-- postponed by the dispatcher; settled by commit when the receipt comes in. Settled ones are deleted by prune.
-- `lane` is what is delivered in order: the recipient and, where it has one, the campaign.
create table outbox (
    outbox_id integer not null primary key,
    message_id text not null constraint outbox_message_once unique,
    lane text not null,
    recipient_kind text not null constraint outbox_recipient_known check (recipient_kind in ('dialer', 'notify')),
    recipient text not null,
    dialer_id text,
    campaign_id text,
    kind text not null,
    body text not null,
    at_ms integer not null,
    state text not null constraint outbox_state_known check (state in ('pending', 'delivered', 'abandoned')),
    attempts integer not null default 0,
    next_at_ms integer not null,
    leased_until_ms integer,
    last_error text,
    settled_ms integer,
    constraint outbox_campaign_whole check ((dialer_id is null) = (campaign_id is null)),
    constraint outbox_settled_when_not_pending check ((state = 'pending') = (settled_ms is null))
) strict;
-- The head of each lane.
create index outbox_pending on outbox (lane, outbox_id) where state = 'pending';
-- What prune looks for.
create index outbox_settled on outbox (settled_ms) where state <> 'pending';

-- The ordered log of inputs and decisions: what `replay` reads, and what an event stream resumes from. Written by
-- commit, and by journal_append for `start` rows; deleted by prune. Its numbers are given out as event ids, so one is
-- never used twice, even after all rows are gone: hence autoincrement.
create table journal (
    journal_id integer not null primary key autoincrement,
    at_ms integer not null,
    kind text not null,
    body text not null
) strict;
