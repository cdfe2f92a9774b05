-- The schema as sorted lines: columns, constraints, indexes, functions, views and rights. Catalog functions are more
-- stable between versions of Postgres than a dump; the owner's rights are left out, they differ by version. Of the partitions only what they do not share with their parent.
with relation as (
    select oid, relname, relkind, relispartition, relacl, reloptions, relpersistence, relowner
    from pg_class where relnamespace = 'outbox'::regnamespace
), line (sort, text) as (
    select relname || ' 0', format('%s outbox.%s%s owner %s%s%s',
        case when relpersistence = 'u' then 'unlogged ' else '' end ||
        case relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end,
        relname, coalesce(' partition by ' || pg_get_partkeydef(oid), ''), pg_get_userbyid(relowner),
        coalesce(' with ' || reloptions::text, ''), coalesce(e'\n    rights ' || (
            select string_agg(right_::text, ' ' order by right_::text) from unnest(relacl) as right_
            where right_::text not like 'outbox_owner=%'), ''))
    from relation where relkind in ('r', 'p', 'v', 'S') and not relispartition
    union all
    select relname || ' 0', format('partition outbox.%s %s%s%s', relname,
        (select pg_get_expr(relpartbound, c.oid) from pg_class c where c.oid = relation.oid),
        coalesce(' with ' || reloptions::text, ''),
        coalesce(' storage ' || (select string_agg(attname || ' ' || attstorage::text, ', ' order by attnum) from pg_attribute
            join pg_type on pg_type.oid = atttypid where attrelid = relation.oid and attstorage <> typstorage), ''))
    from relation where relispartition and relkind = 'r'
    union all
    select relname || ' 1 ' || to_char(attnum, 'FM000'), format('    %s %s%s%s%s%s', attname,
        format_type(atttypid, atttypmod), case when attnotnull and relkind <> 'v' then ' not null' else '' end,
        case attidentity when 'a' then ' generated always as identity' else '' end,
        coalesce(' default ' || pg_get_expr(adbin, adrelid), ''),
        coalesce(' rights ' || attacl::text, ''))
    from relation
    join pg_attribute on attrelid = relation.oid and attnum > 0 and not attisdropped
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where relkind in ('r', 'p', 'v') and not relispartition
    union all
    select relname || ' 2 ' || conname, format('    constraint %s %s', conname, pg_get_constraintdef(pg_constraint.oid))
    from relation join pg_constraint on conrelid = relation.oid
    where not relispartition and contype <> 'n'
    union all
    select relname || ' 3 ' || indexrelid::regclass::text, '    ' || pg_get_indexdef(indexrelid)
    from relation join pg_index on indrelid = relation.oid where not relispartition
    union all
    select 'zz ' || proname || pg_get_function_identity_arguments(pg_proc.oid),
        format('function outbox.%s(%s) returns %s language %s %s parallel %s%s owner %s%s', proname,
            pg_get_function_arguments(pg_proc.oid), pg_get_function_result(pg_proc.oid), lanname,
            case provolatile when 'i' then 'immutable' when 's' then 'stable' else 'volatile' end,
            case proparallel when 's' then 'safe' else 'unsafe' end,
            case when prosecdef then ' security definer' else '' end, pg_get_userbyid(proowner),
            coalesce(e'\n    rights ' || (
                select string_agg(right_::text, ' ' order by right_::text) from unnest(proacl) as right_
                where right_::text not like 'outbox_owner=%'), ''))
    from pg_proc join pg_language on pg_language.oid = prolang where pronamespace = 'outbox'::regnamespace
    union all
    select '', format('schema outbox owner %s%s', pg_get_userbyid(nspowner), e'\n    rights ' || (
        select string_agg(right_::text, ' ' order by right_::text) from unnest(nspacl) as right_
        where right_::text not like 'outbox_owner=%'))
    from pg_namespace where nspname = 'outbox'
)
select text from line order by sort collate "C", text collate "C"
