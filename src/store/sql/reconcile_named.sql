-- What settlements say of the ids from $1 to $2: runs of ids by outcome, as they stand in the ledger; a run may reach beyond.
-- Uses the gist indexes on the ledger's ranges.
with span as materialized (
    select int8multirange(int8range($1::bigint, $2::bigint, '[]')) as ids
)
select n.outcome, lower(n.run) as first_id, upper(n.run) - 1 as last_id
  from (select 'published' as outcome, unnest(l.published) as run from outbox.ledger l where l.published && (select s.ids from span s)
        union all
        select 'deferred', unnest(l.deferred) from outbox.ledger l where l.deferred && (select s.ids from span s) and l.deferred <> '{}'
        union all
        select 'dead', unnest(l.dead) from outbox.ledger l where l.dead && (select s.ids from span s) and l.dead <> '{}'
        union all
        select 'dropped', unnest(l.dropped) from outbox.ledger l where l.dropped && (select s.ids from span s) and l.dropped <> '{}'
        union all
        select 'expired', unnest(l.expired) from outbox.ledger l where l.expired && (select s.ids from span s) and l.expired <> '{}') n
 where n.run && int8range($1::bigint, $2::bigint, '[]')
