-- What the schema is, as one JSON document: applied migrations, and how large each table is with its indexes and parts.
-- One row always. Rows are the planner's estimates: counting would read everything.
select jsonb_build_object(
           'migrations', (select coalesce(jsonb_agg(jsonb_build_object(
                                      'version', m.version, 'name', m.name, 'checksum', m.checksum, 'oldest_binary', m.oldest_binary,
                                      'applied_at', m.applied_at) order by m.version), '[]') from outbox.migration m),
           'tables', (select jsonb_agg(to_jsonb(t) order by t.name)
                        from (select regexp_replace(c.relname, '_[0-9]+$', '') as name, sum(pg_total_relation_size(c.oid)) as bytes,
                                     sum(greatest(c.reltuples, 0))::bigint as estimated_rows
                                from pg_class c
                               where c.relnamespace = 'outbox'::regnamespace and c.relkind = 'r'
                               group by 1) t))::text
