-- One page of the look at a slot of the ledger: settlements of slot $1 behind ($2 epoch, $3 seq), at most $4, and whether they
-- name a message that is still there. Such a settlement says that the message was published, so it has to stay.
-- One row always; last_epoch and last_seq are null where the slot ends before. The snapshot in which was looked comes as text.
-- Uses the primary key, and message_id_idx for the runs that reach the oldest message or lie above it.
with page as materialized (
    select l.epoch, l.seq, l.published + l.deferred + l.dead + l.dropped + l.expired as ids
      from outbox.ledger l
     where l.slot = $1 and (l.epoch, l.seq) > ($2, $3)
     order by l.epoch, l.seq
     limit $4
), last as (
    select p.epoch, p.seq from page p order by p.epoch desc, p.seq desc limit 1
), oldest as materialized (
    select m.id from outbox.message m order by m.id limit 1
), runs as materialized (
    select lower(run) as first, upper(run) as behind
      from page p cross join lateral unnest(p.ids) as run
     where upper(run) > (select o.id from oldest o)
)
select pg_current_snapshot()::text as snapshot, (select count(*) from page) as rows,
       (select l.epoch from last l) as last_epoch, (select l.seq from last l) as last_seq,
       exists (select from runs r
                      cross join lateral (select from outbox.message m where m.id >= r.first and m.id < r.behind
                                           order by m.id limit 1) m) as held
