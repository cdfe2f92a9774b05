-- What migrate must know about the server and the schema before it starts. Always one row.
-- `foreign_schema`: a schema outbox that holds relations and is not ours.
select
    pg_is_in_recovery() as replica,
    current_setting('server_version_num')::int as version,
    getdatabaseencoding()::text as encoding,
    to_regclass('outbox.migration') is not null as bookkeeping,
    to_regclass('outbox.migration') is null
        and exists (select from pg_class where relnamespace = to_regnamespace('outbox')) as foreign_schema
