-- Gives the pending rows ($1, if $2 says that they are to be published) the txid of this transaction, so that the
-- relay finds them as late rows, and rows from this server's future a txid of its distant past, so that it does not.
-- An xid of the future would look like a writer that has not begun. Reads every row once.
update outbox.message
set txid = case when $2 and $1::text::int8multirange @> id then pg_current_xact_id() else '3'::xid8 end
where txid >= pg_current_xact_id() or $2 and $1::text::int8multirange @> id
