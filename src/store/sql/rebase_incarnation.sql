-- A dump carries unlogged tables too. Nobody who remembers this token may go on with it.
-- No row was there: the server forgot it by itself, or nobody has led yet.
delete from outbox.incarnation
