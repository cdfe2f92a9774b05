-- Planned work that was announced and that nobody has ended: until when (Unix seconds), and whether that is still to come, by this
-- server's clock. Of several the newest counts. No row: none. Uses request_open_idx.
-- A leader is not needed for it: what it has to cancel does not count any more, what it has not taken up yet does.
select extract(epoch from r.expires_at)::double precision as ends, r.expires_at > clock_timestamp() as holds
  from outbox.request r
 where r.kind = 'maintenance' and r.state in ('asked', 'running')
   and not exists (select from outbox.request c
                    where c.kind = 'cancel' and c.state in ('asked', 'running') and c.value = jsonb_build_object('request', r.id))
 order by r.id desc
 limit 1
