-- Since when the oldest open dead letter and the oldest blocked key wait for a human, as Unix seconds; null where there is none.
-- One row always. Two probes of dead_letter_group_idx for each of at most $1 causes; keys are looked for among the deferred rows
-- along deferred_key_idx, whose size retry.deferred_max bounds.
with recursive causes as (
    (select d.fingerprint from outbox.dead_letter d where d.state = 'open' order by d.fingerprint limit 1)
    union all
    select (select d.fingerprint from outbox.dead_letter d
             where d.state = 'open' and d.fingerprint > c.fingerprint order by d.fingerprint limit 1)
      from causes c where c.fingerprint is not null
)
select (select extract(epoch from min(o.dead_at))::double precision
          from (select c.fingerprint from causes c where c.fingerprint is not null limit $1) f
               cross join lateral (
                   select d.dead_at from outbox.dead_letter d
                    where d.state = 'open' and d.fingerprint = f.fingerprint order by d.dead_at limit 1) o) as dead_letter,
       (select extract(epoch from min(coalesce(d.first_rejected_at, d.deferred_at)))::double precision
          from outbox.deferred d
         where d.reason <> 'scheduled' and not d.passable and d.reason = 'retry' and d.key is not null) as blocked_key
