-- Which roles are missing, and whether the objects could be handed to outbox_owner.
-- Always one row, also before the schema exists.
select
    current_user::text as migrator,
    coalesce((
        select array_agg(role order by place)
        from unnest('{outbox_owner,outbox_producer,outbox_relay,outbox_reader,outbox_admin}'::text[])
            with ordinality as wanted (role, place)
        where not exists (select from pg_roles where rolname = role)
    ), '{}') as missing,
    exists (
        select from pg_namespace where nspname = 'outbox' and pg_get_userbyid(nspowner) = 'outbox_owner'
    ) as owned
