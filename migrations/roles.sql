-- Roles and rights. Not a numbered migration: `outbox-relay migrate` runs it after them, every time.
-- Makes: the roles outbox_owner, outbox_producer, outbox_relay, outbox_reader and outbox_admin where they are missing and the
--        caller may make them, hands the objects to outbox_owner, and grants. A role that is missing is passed over;
--        migrate says what an administrator has to run, and the next migrate completes the grants.
-- Locks: the rows of the catalog only.

-- Roles belong to the whole cluster, so another database may be making them at this moment: whoever comes second waits
-- for the first and then finds the role there.
do $$
declare
    role text;
begin
    foreach role in array '{outbox_owner,outbox_producer,outbox_relay,outbox_reader,outbox_admin}'::text[] loop
        continue when exists (select from pg_roles where rolname = role);
        begin
            execute format('create role %I nologin', role);
        exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then null;
        end;
    end loop;
end $$;

-- The owner. Whoever migrates as somebody else must be a superuser or a member, or the objects stay with him. It is all
-- or nothing: a schema of two owners can be migrated by neither.
do $$
declare
    object record;
begin
    if not exists (select from pg_roles where rolname = 'outbox_owner') then
        return;
    end if;
    -- Since Postgres 16 whoever has made a role may grant it, to himself as well, and is a member without any use of it
    -- until he does.
    if not pg_has_role('outbox_owner', 'usage') then
        begin
            execute format('grant outbox_owner to %I', current_user);
        exception
            when insufficient_privilege or unique_violation then null;
        end;
    end if;
    begin
        for object in
            select 'schema outbox' as name, 0 as rank from pg_namespace
            where nspname = 'outbox' and pg_get_userbyid(nspowner) <> 'outbox_owner'
            union all
            -- A partition has an owner of its own; an identity sequence follows its table.
            select format('%s outbox.%I', case relkind when 'v' then 'view' else 'table' end, relname), 1
            from pg_class
            where relnamespace = 'outbox'::regnamespace and relkind in ('r', 'p', 'v')
                and pg_get_userbyid(relowner) <> 'outbox_owner'
            union all
            select format('function %s', oid::regprocedure), 2
            from pg_proc
            where pronamespace = 'outbox'::regnamespace and pg_get_userbyid(proowner) <> 'outbox_owner'
            order by rank, name
        loop
            execute format('alter %s owner to outbox_owner', object.name);
        end loop;
    exception
        when insufficient_privilege then null;
    end;
end $$;

-- Rights. The producer inserts the columns that are its own and no others: with a table-wide insert it could write a
-- foreign txid or id, and no reader would ever find the row.
do $$
declare
    granted record;
begin
    revoke all on schema outbox from public;
    revoke all on all tables in schema outbox from public;
    revoke all on all functions in schema outbox from public;

    for granted in
        select who, what
        from (values
            ('outbox_producer', 'usage on schema outbox'),
            ('outbox_producer', 'insert (event_id, topic, key, payload, headers, partition, deliver_after, expires_at) on outbox.message'),
            ('outbox_producer', 'select (id, event_id) on outbox.message'),

            ('outbox_relay', 'usage on schema outbox'),
            ('outbox_relay', 'select on outbox.message, outbox.migration'),
            ('outbox_relay', 'select on sequence outbox.message_id_seq'),
            ('outbox_relay', 'select, insert on outbox.ledger, outbox.attempt'),
            ('outbox_relay', 'select, insert, update on outbox.dead_letter'),
            ('outbox_relay', 'select on outbox.ring, outbox.heartbeat'),
            -- Reports on requests and nothing else: what was asked stays as it was asked.
            ('outbox_relay', 'select, update (state, done, last_id, error, begun_at, ended_at) on outbox.request'),
            ('outbox_admin', 'select, insert (kind, topic, filter, value, pace, why, expires_at) on outbox.request'),
            ('outbox_reader', 'select on outbox.request'),
            ('outbox_relay', 'select on outbox.reconciliation'),
            ('outbox_reader', 'select on outbox.quota, outbox.ring, outbox.heartbeat'),
            ('outbox_admin', 'select on outbox.quota, outbox.ring, outbox.heartbeat'),
            ('outbox_reader', 'select on outbox.reconciliation'),
            -- Whether a position has passed a row.
            ('outbox_reader', 'select (txid) on outbox.message'),
            ('outbox_admin', 'select (txid) on outbox.message'),
            ('outbox_admin', 'select on outbox.reconciliation'),
            ('outbox_relay', 'select, insert, update, delete on outbox.deferred, outbox.incarnation'),
            ('outbox_relay', 'select, update on outbox.lease, outbox.beat'),
            ('outbox_relay', 'select on outbox.status, outbox.backlog, outbox.blocked_key, outbox.dead_letter_group, outbox.open_lane'),

            ('outbox_reader', 'usage on schema outbox'),
            ('outbox_reader', 'select on outbox.status, outbox.backlog, outbox.blocked_key, outbox.dead_letter_group, outbox.open_lane, outbox.attempt, outbox.migration, outbox.ledger, outbox.lease, outbox.beat'),
            -- All but payload and headers: those are read through outbox.reveal.
            ('outbox_reader', 'select (id, event_id, topic, key, created_at) on outbox.message, outbox.deferred'),
            ('outbox_admin', 'select (id, event_id, topic, key, created_at) on outbox.message, outbox.deferred'),
            ('outbox_reader', 'select (id, event_id, topic, key, partition, deliver_after, expires_at, created_at, reason_class, fingerprint, error, attempts, first_failed_at, last_failed_at, replay_count, state, dead_at, copy_topic, copied_at, changed_at, replay) on outbox.dead_letter'),
            ('outbox_admin', 'select (id, event_id, topic, key, partition, deliver_after, expires_at, created_at, reason_class, fingerprint, error, attempts, first_failed_at, last_failed_at, replay_count, state, dead_at, copy_topic, copied_at, changed_at, replay) on outbox.dead_letter'),

            ('outbox_admin', 'usage on schema outbox'),
            ('outbox_admin', 'select on outbox.status, outbox.backlog, outbox.blocked_key, outbox.dead_letter_group, outbox.open_lane, outbox.attempt, outbox.migration, outbox.ledger, outbox.lease, outbox.beat')
        ) as rights (who, what)
        union all
        -- The functions run with their caller's rights, so the right to call one is worth no more than those above.
        select case
                when proname in ('publish', 'publish_many', 'take_turn', 'is_sendable', 'refuse', 'brake', 'pressure') then 'outbox_producer'
                when proname in ('requeue', 'discard', 'pause', 'resume', 'set_rate', 'set_policy', 'cancel', 'reveal', 'replay', 'set_quota', 'set_maintenance', 'end_maintenance')
                    then 'outbox_admin'
                else 'outbox_relay'
            end,
            format('execute on function %s', oid::regprocedure)
        from pg_proc
        where pronamespace = 'outbox'::regnamespace
        union all
        -- A check constraint is looked at by whoever writes the row, the relay's reports included.
        select 'outbox_admin', format('execute on function outbox.%s(text, text, jsonb, jsonb, int)', name)
        from unnest('{is_askable,is_replayable}'::text[]) as name
        union all
        select 'outbox_admin', 'execute on function outbox.is_maintenance(text, jsonb, jsonb, int, timestamptz, timestamptz)'
        union all
        select 'outbox_admin', 'execute on function outbox.note_reconciliation(text, timestamptz, bigint, bigint, bigint, bigint, jsonb)'
        union all
        select who, 'execute on function outbox.receipt(bytea, int8multirange, bigint)'
        from unnest('{outbox_reader,outbox_admin}'::text[]) as who
        union all
        select who, 'execute on function outbox.as_text(bytea)'
        from unnest('{outbox_reader,outbox_admin}'::text[]) as who
        union all
        select who, 'execute on function outbox.pressure(text)'
        from unnest('{outbox_reader,outbox_admin}'::text[]) as who
    loop
        continue when not exists (select from pg_roles where rolname = granted.who);
        execute format('grant %s to %I', granted.what, granted.who);
    end loop;
end $$;
