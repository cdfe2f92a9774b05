-- 0012 maintenance: planned work is announced with an end, and alerts about what it stops are held back until then.
-- Makes: the functions set_maintenance, end_maintenance and is_maintenance, is_askable anew, and requests of the kind maintenance.
-- Locks: outbox.request for an instant.
-- oldest binary: 0.1.0

-- Says of an announcement whether it can be taken, or raises the error that tells why not. It must have an end that is near: nobody
-- remembers alerts that are held back for a week. Seconds and not intervals, because a day may have 25 hours; a minute more than a
-- day, because the two times are taken one after the other.
create function outbox.is_maintenance(topic text, filter jsonb, value jsonb, pace int, asked_at timestamptz, expires_at timestamptz)
returns boolean
language plpgsql immutable as $$
declare
    reason text;
begin
    reason := case
        when topic is not null then 'maintenance is about the whole outbox; to let one topic stand still, pause it'
        when filter <> '{}' or value is not null or pace is not null then 'maintenance has no filter, value or pace'
        when expires_at is null then 'maintenance needs an end: for how long?'
        when expires_at <= asked_at then 'maintenance ends after it has begun'
        when extract(epoch from expires_at - asked_at) > 86460 then 'maintenance lasts a day at most; ask again to go on'
    end;
    if reason is null then
        return true;
    end if;
    raise exception using errcode = 'check_violation', message = 'request refused: ' || reason,
        schema = 'outbox', table = 'request', constraint = 'request_is_askable';
end $$;
comment on function outbox.is_maintenance(text, jsonb, jsonb, int, timestamptz, timestamptz) is
    'True for an announcement of planned work that the relay understands. For any other it raises an error that says why not.';

-- Only the list of kinds.
do $$
begin
    execute replace(pg_get_functiondef('outbox.is_askable(text, text, jsonb, jsonb, int)'::regprocedure),
                    'release, replay and repair', 'release, replay, repair and maintenance');
end $$;

alter table outbox.request
    drop constraint request_is_askable,
    add constraint request_is_askable check (
        case when kind in ('reveal', 'quota') then state = 'done'
             when kind in ('replay', 'repair') then outbox.is_replayable(kind, topic, filter, value, pace)
             when kind = 'maintenance' then outbox.is_maintenance(topic, filter, value, pace, asked_at, expires_at)
             else outbox.is_askable(kind, topic, filter, value, pace) end) not valid;

create function outbox.set_maintenance(duration interval, why text default null) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, expires_at, why)
    values ('maintenance', clock_timestamp() + set_maintenance.duration, set_maintenance.why) returning id;
end;
comment on function outbox.set_maintenance(interval, text) is
    'Announces planned work: alerts about what it stops are held back for so long, a day at most. A later one takes its place. Returns the request.';

-- Also those whose time is over: as long as a topic is paused they are not.
create function outbox.end_maintenance(why text default null) returns bigint
language sql volatile
begin atomic
    insert into outbox.request (kind, value, why)
    select 'cancel', jsonb_build_object('request', r.id), end_maintenance.why
      from outbox.request r where r.kind = 'maintenance' and r.state in ('asked', 'running')
     order by r.id desc
    returning id;
end;
comment on function outbox.end_maintenance(text) is
    'Says that planned work is over. Returns the request to cancel the announcement; null: none was open.';
