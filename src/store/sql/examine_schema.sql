-- Whether the schema is there and what the login is in it, as one JSON document. One row always. Reads the catalog alone, which
-- every login may, so that a login without any right gets an answer instead of an error.
select jsonb_build_object(
           'bookkeeping', exists (select from pg_class c where c.relnamespace = n.oid and c.relname = 'migration'),
           'foreign_schema', exists (select from pg_class c where c.relnamespace = n.oid)
               and not exists (select from pg_class c where c.relnamespace = n.oid and c.relname = 'migration'),
           'role', exists (select from pg_roles r where r.rolname = 'outbox_relay'),
           'member', coalesce((select pg_has_role(current_user, r.oid, 'usage') from pg_roles r where r.rolname = 'outbox_relay'), false))::text
  from (select 1) as one left join pg_namespace n on n.nspname = 'outbox'
