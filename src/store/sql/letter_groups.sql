-- Open dead letters by cause, the most first, each as a JSON document. No row: there is none.
-- Reads all open letters: a second for a million.
select jsonb_build_object(
           'fingerprint', g.fingerprint, 'reason', g.reason_class, 'letters', g.letters, 'topics', g.topics,
           'first_failed_at', g.first_failed_at, 'last_failed_at', g.last_failed_at, 'sample_id', g.sample_id,
           'error', g.error)::text
  from outbox.dead_letter_group g
 order by g.letters desc, g.fingerprint
