-- What the demo must know of a server before it makes a database there: its version, whether it is a replica, and which
-- of the outbox roles exist already (the others are the demo's own and leave with it). One row always.
select current_setting('server_version') as version,
       pg_is_in_recovery() as replica,
       array(select rolname::text from pg_roles
              where rolname in ('outbox_owner', 'outbox_producer', 'outbox_relay', 'outbox_reader', 'outbox_admin')) as roles
