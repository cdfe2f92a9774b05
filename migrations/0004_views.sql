-- 0004 views: what became of a message, what waits, and why. None shows a payload or headers.
-- Makes: outbox.status, outbox.backlog, outbox.blocked_key, outbox.dead_letter_group, the function receipt,
--        and small indexes on outbox.ledger.
-- Locks: the indexes lock an empty table; nothing waits.
-- oldest binary: 0.1.0

-- "Which settlement dropped this id?" Rare outcomes, so the indexes stay empty where they never happen.
create index ledger_dropped_idx on outbox.ledger using gist (dropped) where dropped <> '{}';
create index ledger_expired_idx on outbox.ledger using gist (expired) where expired <> '{}';

-- Where the record of one published id is, out of the receipts of its settlement. Null for an id that is not among
-- `published`, and for bytes of another format; a receipt may lack its offset (the broker recognised a repeated batch).
-- Format 1, as src/receipt.rs writes it: a byte 1, then for every published id, ascending, a varint
-- partition * 2 + (1 if the offset is known), and if it is known a zigzag varint of its distance to the offset that
-- follows the partition's previous one (the first follows -1). Varints are LEB128: 7 bits a byte, low bits first.
-- It reads from the front: 3 ms for the last of 5,000.
create function outbox.receipt(
    receipts bytea, published int8multirange, id bigint, out record_partition int, out record_offset bigint
)
language plpgsql immutable parallel safe as $$
#variable_conflict use_column
declare
    ahead bigint;
    -- A copy, because stored bytes lie out of line: each get_byte on them would fetch them anew.
    bytes constant bytea := receipt.receipts || ''::bytea;
    length constant int := octet_length(receipt.receipts);
    at int := 1;
    byte int;
    shift int;
    head bigint;
    distance bigint;
    expected bigint[] := '{}';
    place bigint;
begin
    if receipt.receipts is null or receipt.id is null or length = 0 or get_byte(bytes, 0) <> 1
        or not receipt.published @> receipt.id
    then
        return;
    end if;
    select sum(least(coalesce(upper(run), receipt.id), receipt.id) - lower(run)) into ahead
    from unnest(receipt.published) as run
    where lower(run) <= receipt.id;

    loop
        head := 0;
        shift := 0;
        loop
            if at >= length then return; end if;
            byte := get_byte(bytes, at);
            at := at + 1;
            head := head | ((byte & 127)::bigint << shift);
            exit when byte < 128;
            shift := shift + 7;
        end loop;
        place := null;
        if head & 1 = 1 then
            distance := 0;
            shift := 0;
            loop
                if at >= length then return; end if;
                byte := get_byte(bytes, at);
                at := at + 1;
                distance := distance | ((byte & 127)::bigint << shift);
                exit when byte < 128;
                shift := shift + 7;
            end loop;
            distance := ((distance >> 1) & 9223372036854775807) # (-(distance & 1));
            place := coalesce(expected[head >> 1], 0) + distance;
            expected[head >> 1] := place + 1;
        end if;
        if ahead = 0 then
            record_partition := head >> 1;
            record_offset := place;
            return;
        end if;
        ahead := ahead - 1;
    end loop;
end $$;

comment on function outbox.receipt(bytea, int8multirange, bigint) is
    'Partition and offset of one published id, decoded from the receipts of its settlement (a row of outbox.ledger).';

-- One row per message. Quick for `where id = ...`: an index probe per slot and table. `event_id` has no index, because
-- every producer would pay for it: `where event_id = ...` reads the rows of the last day, some seconds for ten million;
-- `returning id` at the insert spares that. Grouping all messages by state looks each of them up: use outbox.backlog.
-- Deferred rows and dead letters stay in this view when their message has left the ring; published ones leave with it.
create view outbox.status as
select row.id,
    row.event_id,
    row.topic,
    row.created_at,
    case
        when deferred.reason = 'retry' then 'retrying'
        when deferred.reason is not null then deferred.reason
        when dead_letter.state in ('open', 'discarded') then 'dead'
        when published.at is not null then 'published'
        when dropped.at is not null then 'dropped'
        when expired.at is not null then 'expired'
        else 'pending'
    end as state,
    published.at as published_at,
    -- What the producer asked for; null when it left the choice to the key.
    row.partition,
    -- Where Kafka put it.
    receipt.record_partition,
    receipt.record_offset,
    coalesce(deferred.attempts, dead_letter.attempts) as attempts,
    deferred.due_at,
    coalesce(deferred.error, dead_letter.error) as error,
    head.id as behind_id
from (
    select id, event_id, topic, created_at, partition from outbox.message
    union all
    select id, event_id, topic, created_at, partition from outbox.deferred
    where not exists (select from outbox.message where message.id = deferred.id)
    union all
    select id, event_id, topic, created_at, partition from outbox.dead_letter
    where not exists (select from outbox.message where message.id = dead_letter.id)
        and not exists (select from outbox.deferred where deferred.id = dead_letter.id)
) as row
left join outbox.deferred on deferred.id = row.id
left join outbox.dead_letter on dead_letter.id = row.id
-- The newest: a copy that a crash or an operator caused has a later settlement.
left join lateral (
    select ledger.at, ledger.receipts, ledger.published from outbox.ledger
    where ledger.published @> row.id
    order by ledger.epoch desc, ledger.seq desc limit 1
) as published on true
left join lateral (
    select ledger.at from outbox.ledger
    where ledger.dropped @> row.id and ledger.dropped <> '{}'
    order by ledger.epoch desc, ledger.seq desc limit 1
) as dropped on true
left join lateral (
    select ledger.at from outbox.ledger
    where ledger.expired @> row.id and ledger.expired <> '{}'
    order by ledger.epoch desc, ledger.seq desc limit 1
) as expired on true
left join lateral outbox.receipt(published.receipts, published.published, row.id) as receipt
    on published.at is not null
left join lateral (
    select waiting.id from outbox.deferred as waiting
    where deferred.reason = 'behind' and waiting.topic = deferred.topic and waiting.key = deferred.key
        and waiting.id < deferred.id and waiting.reason <> 'scheduled'
    order by waiting.id limit 1
) as head on true;

comment on view outbox.status is
    'One row per message: published when and where (record_partition, record_offset), retrying, behind which other message (behind_id), scheduled, dead, dropped, expired, or pending.';

-- What waits. The row without a topic counts unread messages: ids drawn above the relay's position, so rolled back ones
-- count too; it is exact at zero, and costs the same with ten million waiting. Which topics they belong to is not known
-- before they are read. The rows with a topic count what the relay has read and put off.
create view outbox.backlog as
with position as (
    select high from outbox.ledger where lane is null order by epoch desc, seq desc limit 1
), unread as (
    select greatest(sequence.last_value - position.high, 1) as waiting, message.created_at as oldest
    from position
    cross join outbox.message_id_seq as sequence
    cross join lateral (
        select created_at from outbox.message where message.id > position.high order by message.id limit 1
    ) as message
)
select null::text as topic,
    coalesce(max(waiting), 0) as waiting,
    0::bigint as retrying,
    0::bigint as behind,
    0::bigint as scheduled,
    max(oldest) as oldest
from unread
union all
select topic,
    0::bigint,
    count(*) filter (where reason = 'retry'),
    count(*) filter (where reason = 'behind'),
    count(*) filter (where reason = 'scheduled'),
    min(created_at) filter (where reason <> 'scheduled')
from outbox.deferred
group by topic;

comment on view outbox.backlog is
    'What waits: unread messages of all topics in the row without a topic (an upper bound, exact at zero), and per topic those that are retried, behind another of their key, or scheduled.';

-- Keys whose messages do not move, because the first of them failed.
create view outbox.blocked_key as
select head.topic,
    head.key,
    head.id as head_id,
    head.first_rejected_at as since,
    waiting.count as waiting,
    head.attempts,
    head.due_at,
    head.error
from outbox.deferred as head
cross join lateral (
    select count(*) from outbox.deferred as other
    where other.topic = head.topic and other.key = head.key and other.reason <> 'scheduled' and other.id > head.id
) as waiting
where head.reason = 'retry' and head.key is not null
    and not exists (
        select from outbox.deferred as earlier
        where earlier.topic = head.topic and earlier.key = head.key and earlier.reason <> 'scheduled'
            and earlier.id < head.id);

comment on view outbox.blocked_key is
    'Keys whose messages wait behind one that failed: the failed one (head_id), since when, how many wait behind it, and its error.';

-- Dead letters that died of the same cause.
create view outbox.dead_letter_group as
select fingerprint,
    reason_class,
    count(*) as letters,
    array_agg(distinct topic) as topics,
    min(first_failed_at) as first_failed_at,
    max(last_failed_at) as last_failed_at,
    min(id) as sample_id,
    (array_agg(error order by id))[1] as error
from outbox.dead_letter
where state = 'open'
group by fingerprint, reason_class;

comment on view outbox.dead_letter_group is
    'Open dead letters by cause: how many, of which topics, since when, and one of them as a sample.';
