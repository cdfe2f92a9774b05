-- Notes what a reconciliation has found; returns the number of the note.
-- $1 cause, $2 when it began, ids from $3 to $4, $5 missing, $6 duplicates, $7 the report.
select outbox.note_reconciliation($1, $2::text::timestamptz, $3, $4, $5, $6, $7::text::jsonb) as id
