-- Login roles for docker-compose.yml: one for the relays, one for services that write messages. May run repeatedly.
-- Passwords like these are for a laptop.
select 'create role relay login password ''relay'' in role outbox_relay'
where not exists (select from pg_roles where rolname = 'relay') \gexec

select 'create role app login password ''app'' in role outbox_producer'
where not exists (select from pg_roles where rolname = 'app') \gexec
