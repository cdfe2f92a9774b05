-- Which of these rights the login lacks, as numbers into the lists: $1 kinds of object (schema, table, sequence), $2 objects without
-- their schema, $3 columns or an empty text, $4 privileges. Then the functions that it may not call, $5 aside. One row always.
-- Objects that are not there are passed over: an older schema is told by its version. Reads the catalog alone.
select (select coalesce(array_agg(w.place - 1 order by w.place), '{}')
          from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality as w (kind, object, col, privilege, place)
               cross join (select n.oid from pg_namespace n where n.nspname = 'outbox') n
               left join pg_class c on c.relnamespace = n.oid and c.relname = w.object
         where not case when w.kind = 'schema' then has_schema_privilege(n.oid, w.privilege)
                        when c.oid is null then true
                        when w.kind = 'sequence' then has_sequence_privilege(c.oid, w.privilege)
                        when w.col = '' then has_table_privilege(c.oid, w.privilege)
                        else coalesce((select has_column_privilege(c.oid, a.attnum, w.privilege)
                                         from pg_attribute a where a.attrelid = c.oid and a.attname = w.col), true) end)::bigint[] as rights,
       (select coalesce(array_agg(format('outbox.%I(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) order by p.proname), '{}')
          from pg_proc p
         where p.pronamespace = (select n.oid from pg_namespace n where n.nspname = 'outbox')
           and p.proname <> all ($5::text[]) and not has_function_privilege(p.oid, 'execute'))::text[] as functions
