-- A dump carries unlogged tables too. Nobody who remembers this token may go on with it.
delete from outbox.incarnation
