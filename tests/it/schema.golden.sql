schema outbox owner outbox_owner
    rights outbox_admin=U/outbox_owner outbox_producer=U/outbox_owner outbox_reader=U/outbox_owner outbox_relay=U/outbox_owner
table outbox.attempt partition by LIST (slot) owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=ar/outbox_owner
    slot smallint not null default (((floor((EXTRACT(epoch FROM clock_timestamp()) / (14400)::numeric)))::bigint % (8)::bigint))::smallint
    id bigint not null
    at timestamp with time zone not null default clock_timestamp()
    class text not null
    error text
    CREATE INDEX attempt_at_idx ON ONLY outbox.attempt USING btree (at)
    CREATE INDEX attempt_id_idx ON ONLY outbox.attempt USING btree (id)
partition outbox.attempt_0 FOR VALUES IN ('0') with {fillfactor=100}
partition outbox.attempt_1 FOR VALUES IN ('1') with {fillfactor=100}
partition outbox.attempt_2 FOR VALUES IN ('2') with {fillfactor=100}
partition outbox.attempt_3 FOR VALUES IN ('3') with {fillfactor=100}
partition outbox.attempt_4 FOR VALUES IN ('4') with {fillfactor=100}
partition outbox.attempt_5 FOR VALUES IN ('5') with {fillfactor=100}
partition outbox.attempt_6 FOR VALUES IN ('6') with {fillfactor=100}
partition outbox.attempt_7 FOR VALUES IN ('7') with {fillfactor=100}
view outbox.backlog owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=r/outbox_owner
    topic text
    waiting bigint
    retrying bigint
    behind bigint
    scheduled bigint
    oldest timestamp with time zone
table outbox.beat owner outbox_owner with {fillfactor=10,autovacuum_vacuum_scale_factor=0,autovacuum_vacuum_threshold=200}
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=rw/outbox_owner
    one boolean not null default true
    n bigint not null default 0
    at timestamp with time zone not null default clock_timestamp()
    constraint beat_one_check CHECK (one)
    constraint beat_pkey PRIMARY KEY (one)
    CREATE UNIQUE INDEX beat_pkey ON outbox.beat USING btree (one)
view outbox.blocked_key owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=r/outbox_owner
    topic text
    key bytea
    head_id bigint
    since timestamp with time zone
    waiting bigint
    attempts integer
    due_at timestamp with time zone
    error text
table outbox.dead_letter owner outbox_owner
    rights outbox_relay=arw/outbox_owner
    id bigint not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    event_id uuid not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    topic text not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    key bytea rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    payload bytea
    headers jsonb
    partition integer rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    deliver_after timestamp with time zone rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    expires_at timestamp with time zone rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    created_at timestamp with time zone not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    reason_class text not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    fingerprint text not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    error text not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    attempts integer not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    first_failed_at timestamp with time zone not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    last_failed_at timestamp with time zone not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    replay_count integer not null default 0 rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    state text not null default 'open'::text rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    dead_at timestamp with time zone not null default clock_timestamp() rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    copy_topic text rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    copied_at timestamp with time zone rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    changed_at timestamp with time zone rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    replay bigint rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    constraint dead_letter_pkey PRIMARY KEY (id)
    constraint dead_letter_state_check CHECK ((state = ANY (ARRAY['open'::text, 'requeued'::text, 'discarded'::text])))
    CREATE INDEX dead_letter_age_idx ON outbox.dead_letter USING btree (COALESCE(changed_at, dead_at))
    CREATE INDEX dead_letter_cause_idx ON outbox.dead_letter USING btree (fingerprint, id) WHERE (state = 'open'::text)
    CREATE INDEX dead_letter_copy_topic_idx ON outbox.dead_letter USING btree (copy_topic, id) WHERE ((copy_topic IS NOT NULL) AND (copied_at IS NULL))
    CREATE INDEX dead_letter_group_idx ON outbox.dead_letter USING btree (fingerprint, dead_at) WHERE (state = 'open'::text)
    CREATE INDEX dead_letter_open_idx ON outbox.dead_letter USING btree (id) WHERE (state = 'open'::text)
    CREATE UNIQUE INDEX dead_letter_pkey ON outbox.dead_letter USING btree (id)
    CREATE INDEX dead_letter_topic_idx ON outbox.dead_letter USING btree (topic, id) WHERE (state = 'open'::text)
view outbox.dead_letter_group owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=r/outbox_owner
    fingerprint text
    reason_class text
    letters bigint
    topics text[]
    first_failed_at timestamp with time zone
    last_failed_at timestamp with time zone
    sample_id bigint
    error text
table outbox.deferred owner outbox_owner with {autovacuum_vacuum_scale_factor=0.02,autovacuum_vacuum_threshold=1000}
    rights outbox_relay=arwd/outbox_owner
    id bigint not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    event_id uuid not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    topic text not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    key bytea rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    payload bytea
    headers jsonb
    partition integer
    deliver_after timestamp with time zone
    expires_at timestamp with time zone
    created_at timestamp with time zone not null rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    reason text not null
    due_at timestamp with time zone
    attempts integer not null default 0
    tries integer not null default 0
    first_rejected_at timestamp with time zone
    last_tried_at timestamp with time zone
    class text
    error text
    deferred_at timestamp with time zone not null default clock_timestamp()
    passable boolean not null default false
    replay bigint
    constraint deferred_check CHECK (((due_at IS NOT NULL) OR (reason = 'behind'::text)))
    constraint deferred_pkey PRIMARY KEY (id)
    constraint deferred_reason_check CHECK ((reason = ANY (ARRAY['retry'::text, 'behind'::text, 'scheduled'::text])))
    CREATE INDEX deferred_due_idx ON outbox.deferred USING btree (due_at) WHERE (due_at IS NOT NULL)
    CREATE INDEX deferred_key_idx ON outbox.deferred USING btree (topic, key, id) WHERE ((reason <> 'scheduled'::text) AND (NOT passable))
    CREATE INDEX deferred_oldest_idx ON outbox.deferred USING btree (topic, created_at) WHERE (reason <> 'scheduled'::text)
    CREATE INDEX deferred_parked_idx ON outbox.deferred USING btree (topic, id) WHERE (due_at = 'infinity'::timestamp with time zone)
    CREATE UNIQUE INDEX deferred_pkey ON outbox.deferred USING btree (id)
table outbox.heartbeat owner outbox_owner with {fillfactor=10,autovacuum_vacuum_scale_factor=0,autovacuum_vacuum_threshold=200}
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=r/outbox_owner
    one boolean not null default true
    id bigint
    written_at timestamp with time zone
    confirmed_written_at timestamp with time zone
    constraint heartbeat_one_check CHECK (one)
    constraint heartbeat_pkey PRIMARY KEY (one)
    CREATE UNIQUE INDEX heartbeat_pkey ON outbox.heartbeat USING btree (one)
unlogged table outbox.incarnation owner outbox_owner
    rights outbox_relay=arwd/outbox_owner
    one boolean not null default true
    token uuid not null
    constraint incarnation_one_check CHECK (one)
    constraint incarnation_pkey PRIMARY KEY (one)
    CREATE UNIQUE INDEX incarnation_pkey ON outbox.incarnation USING btree (one)
table outbox.lease owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=rw/outbox_owner
    one boolean not null default true
    holder uuid
    holder_name text
    epoch bigint not null default 0
    since timestamp with time zone
    system_identifier bigint
    database_oid oid
    kafka_cluster_id text
    timeline integer
    constraint lease_one_check CHECK (one)
    constraint lease_pkey PRIMARY KEY (one)
    CREATE UNIQUE INDEX lease_pkey ON outbox.lease USING btree (one)
table outbox.ledger partition by LIST (slot) owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=ar/outbox_owner
    slot smallint not null default (((floor((EXTRACT(epoch FROM clock_timestamp()) / (14400)::numeric)))::bigint % (8)::bigint))::smallint
    epoch bigint not null
    seq bigint not null
    txid xid8 not null default pg_current_xact_id()
    lane text
    snapshot pg_snapshot not null
    high bigint not null
    as_of xid8 not null
    late_snapshot pg_snapshot
    late_after bigint
    published int8multirange not null default '{}'::int8multirange
    deferred int8multirange not null default '{}'::int8multirange
    dead int8multirange not null default '{}'::int8multirange
    dropped int8multirange not null default '{}'::int8multirange
    expired int8multirange not null default '{}'::int8multirange
    receipts bytea
    at timestamp with time zone not null default clock_timestamp()
    cause text
    closed boolean not null default false
    waiting bigint
    lacking int8multirange
    replayed jsonb
    constraint ledger_check CHECK (((late_snapshot IS NULL) = (late_after IS NULL)))
    constraint ledger_high_check CHECK ((high >= 0))
    constraint ledger_pkey PRIMARY KEY (slot, epoch, seq)
    CREATE INDEX ledger_dead_idx ON ONLY outbox.ledger USING gist (dead) WHERE (dead <> '{}'::int8multirange)
    CREATE INDEX ledger_deferred_idx ON ONLY outbox.ledger USING gist (deferred) WHERE (deferred <> '{}'::int8multirange)
    CREATE INDEX ledger_dropped_idx ON ONLY outbox.ledger USING gist (dropped) WHERE (dropped <> '{}'::int8multirange)
    CREATE INDEX ledger_expired_idx ON ONLY outbox.ledger USING gist (expired) WHERE (expired <> '{}'::int8multirange)
    CREATE INDEX ledger_lane_idx ON ONLY outbox.ledger USING btree (lane, epoch, seq) WHERE (lane IS NOT NULL)
    CREATE INDEX ledger_newest_idx ON ONLY outbox.ledger USING btree (epoch, seq)
    CREATE UNIQUE INDEX ledger_pkey ON ONLY outbox.ledger USING btree (slot, epoch, seq)
    CREATE INDEX ledger_published_idx ON ONLY outbox.ledger USING gist (published)
    CREATE INDEX ledger_replayed_idx ON ONLY outbox.ledger USING btree (epoch, seq) WHERE (replayed IS NOT NULL)
partition outbox.ledger_0 FOR VALUES IN ('0') with {fillfactor=100} storage receipts e
partition outbox.ledger_1 FOR VALUES IN ('1') with {fillfactor=100} storage receipts e
partition outbox.ledger_2 FOR VALUES IN ('2') with {fillfactor=100} storage receipts e
partition outbox.ledger_3 FOR VALUES IN ('3') with {fillfactor=100} storage receipts e
partition outbox.ledger_4 FOR VALUES IN ('4') with {fillfactor=100} storage receipts e
partition outbox.ledger_5 FOR VALUES IN ('5') with {fillfactor=100} storage receipts e
partition outbox.ledger_6 FOR VALUES IN ('6') with {fillfactor=100} storage receipts e
partition outbox.ledger_7 FOR VALUES IN ('7') with {fillfactor=100} storage receipts e
table outbox.message partition by LIST (slot) owner outbox_owner
    rights outbox_relay=r/outbox_owner
    txid xid8 not null default pg_current_xact_id() rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    id bigint not null generated always as identity rights {outbox_producer=r/outbox_owner,outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    slot smallint not null default (((floor((date_part('epoch'::text, clock_timestamp()) / (14400)::double precision)))::bigint % (8)::bigint))::smallint
    event_id uuid not null default gen_random_uuid() rights {outbox_producer=ar/outbox_owner,outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    topic text not null rights {outbox_producer=a/outbox_owner,outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    key bytea rights {outbox_producer=a/outbox_owner,outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    payload bytea rights {outbox_producer=a/outbox_owner}
    headers jsonb rights {outbox_producer=a/outbox_owner}
    partition integer rights {outbox_producer=a/outbox_owner}
    deliver_after timestamp with time zone rights {outbox_producer=a/outbox_owner}
    expires_at timestamp with time zone rights {outbox_producer=a/outbox_owner}
    created_at timestamp with time zone not null default clock_timestamp() rights {outbox_reader=r/outbox_owner,outbox_admin=r/outbox_owner}
    constraint message_is_sendable CHECK (outbox.is_sendable(topic, event_id, headers, partition, deliver_after, expires_at, key)) NOT VALID
    CREATE INDEX message_id_idx ON ONLY outbox.message USING btree (id)
    CREATE INDEX message_txid_idx ON ONLY outbox.message USING btree (txid)
partition outbox.message_0 FOR VALUES IN ('0') with {autovacuum_vacuum_insert_threshold=-1,vacuum_truncate=off}
partition outbox.message_1 FOR VALUES IN ('1') with {autovacuum_vacuum_insert_threshold=-1,vacuum_truncate=off}
partition outbox.message_2 FOR VALUES IN ('2') with {autovacuum_vacuum_insert_threshold=-1,vacuum_truncate=off}
partition outbox.message_3 FOR VALUES IN ('3') with {autovacuum_vacuum_insert_threshold=-1,vacuum_truncate=off}
partition outbox.message_4 FOR VALUES IN ('4') with {autovacuum_vacuum_insert_threshold=-1,vacuum_truncate=off}
partition outbox.message_5 FOR VALUES IN ('5') with {autovacuum_vacuum_insert_threshold=-1,vacuum_truncate=off}
partition outbox.message_6 FOR VALUES IN ('6') with {autovacuum_vacuum_insert_threshold=-1,vacuum_truncate=off}
partition outbox.message_7 FOR VALUES IN ('7') with {autovacuum_vacuum_insert_threshold=-1,vacuum_truncate=off}
sequence outbox.message_id_seq owner outbox_owner
    rights outbox_relay=r/outbox_owner
table outbox.migration owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=r/outbox_owner
    version integer not null
    name text not null
    checksum text not null
    oldest_binary text not null
    applied_at timestamp with time zone not null default clock_timestamp()
    constraint migration_pkey PRIMARY KEY (version)
    CREATE UNIQUE INDEX migration_pkey ON outbox.migration USING btree (version)
view outbox.open_lane owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=r/outbox_owner
    topic text
    cause text
    snapshot pg_snapshot
    high bigint
    as_of xid8
    late_snapshot pg_snapshot
    late_after bigint
    waiting bigint
    epoch bigint
    seq bigint
    at timestamp with time zone
table outbox.quota owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner
    topic text not null
    max_waiting bigint not null
    constraint quota_max_waiting_check CHECK ((max_waiting > 0))
    constraint quota_pkey PRIMARY KEY (topic)
    constraint quota_topic_check CHECK ((topic ~ '^[a-zA-Z0-9._-]{1,249}$'::text))
    CREATE UNIQUE INDEX quota_pkey ON outbox.quota USING btree (topic)
table outbox.reconciliation owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=r/outbox_owner
    id bigint not null generated always as identity
    cause text not null
    who text not null
    begun_at timestamp with time zone not null
    ended_at timestamp with time zone not null default clock_timestamp()
    from_id bigint not null
    until_id bigint not null
    missing bigint not null
    duplicates bigint not null
    report jsonb not null
    constraint reconciliation_cause_check CHECK ((cause = ANY (ARRAY['asked'::text, 'takeover'::text, 'promotion'::text, 'producer'::text])))
    constraint reconciliation_pkey PRIMARY KEY (id)
    CREATE INDEX reconciliation_found_idx ON outbox.reconciliation USING btree (id) WHERE ((missing > 0) OR (duplicates > 0))
    CREATE UNIQUE INDEX reconciliation_pkey ON outbox.reconciliation USING btree (id)
sequence outbox.reconciliation_id_seq owner outbox_owner
table outbox.request owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=r/outbox_owner
    id bigint not null generated always as identity
    kind text not null rights {outbox_admin=a/outbox_owner}
    topic text rights {outbox_admin=a/outbox_owner}
    filter jsonb not null default '{}'::jsonb rights {outbox_admin=a/outbox_owner}
    value jsonb rights {outbox_admin=a/outbox_owner}
    pace integer rights {outbox_admin=a/outbox_owner}
    why text rights {outbox_admin=a/outbox_owner}
    who text not null default SESSION_USER
    asked_at timestamp with time zone not null default clock_timestamp()
    expires_at timestamp with time zone rights {outbox_admin=a/outbox_owner}
    state text not null default 'asked'::text rights {outbox_relay=w/outbox_owner}
    done bigint not null default 0 rights {outbox_relay=w/outbox_owner}
    last_id bigint not null default 0 rights {outbox_relay=w/outbox_owner}
    error text rights {outbox_relay=w/outbox_owner}
    begun_at timestamp with time zone rights {outbox_relay=w/outbox_owner}
    ended_at timestamp with time zone rights {outbox_relay=w/outbox_owner}
    constraint request_is_askable CHECK (
CASE
    WHEN (kind = ANY (ARRAY['reveal'::text, 'quota'::text])) THEN (state = 'done'::text)
    WHEN (kind = ANY (ARRAY['replay'::text, 'repair'::text])) THEN outbox.is_replayable(kind, topic, filter, value, pace)
    WHEN (kind = 'maintenance'::text) THEN outbox.is_maintenance(topic, filter, value, pace, asked_at, expires_at)
    ELSE outbox.is_askable(kind, topic, filter, value, pace)
END) NOT VALID
    constraint request_pkey PRIMARY KEY (id)
    constraint request_state_check CHECK ((state = ANY (ARRAY['asked'::text, 'running'::text, 'done'::text, 'expired'::text, 'refused'::text, 'cancelled'::text])))
    CREATE INDEX request_open_idx ON outbox.request USING btree (id) WHERE (state = ANY (ARRAY['asked'::text, 'running'::text]))
    CREATE UNIQUE INDEX request_pkey ON outbox.request USING btree (id)
sequence outbox.request_id_seq owner outbox_owner
table outbox.ring owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=r/outbox_owner
    ring text not null
    width integer not null default 14400
    emptied_to bigint not null default 0
    constraint ring_pkey PRIMARY KEY (ring)
    constraint ring_ring_check CHECK ((ring = ANY (ARRAY['message'::text, 'ledger'::text, 'attempt'::text])))
    constraint ring_width_check CHECK ((width > 0))
    CREATE UNIQUE INDEX ring_pkey ON outbox.ring USING btree (ring)
view outbox.status owner outbox_owner
    rights outbox_admin=r/outbox_owner outbox_reader=r/outbox_owner outbox_relay=r/outbox_owner
    id bigint
    event_id uuid
    topic text
    created_at timestamp with time zone
    state text
    published_at timestamp with time zone
    partition integer
    record_partition integer
    record_offset bigint
    attempts integer
    due_at timestamp with time zone
    error text
    behind_id bigint
function outbox.as_text(bytes bytea) returns text language plpgsql immutable parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner outbox_reader=X/outbox_owner outbox_relay=X/outbox_owner
function outbox.brake(topic text) returns void language plpgsql stable parallel unsafe security definer owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.cancel(request bigint, why text DEFAULT NULL::text) returns bigint language sql volatile parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.discard(filter jsonb, why text, pace integer DEFAULT NULL::integer) returns bigint language sql volatile parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.empty_slot(p_epoch bigint, p_token uuid, p_ring text, p_slot integer, p_snapshot pg_snapshot, p_before timestamp with time zone) returns text language plpgsql volatile parallel unsafe security definer owner outbox_owner
    rights outbox_relay=X/outbox_owner
function outbox.end_maintenance(why text DEFAULT NULL::text) returns bigint language sql volatile parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.fix_times() returns trigger language plpgsql volatile parallel unsafe owner outbox_owner
    rights outbox_relay=X/outbox_owner
function outbox.forget_letters(p_epoch bigint, p_before timestamp with time zone, p_rows integer) returns bigint language plpgsql volatile parallel unsafe security definer owner outbox_owner
    rights outbox_relay=X/outbox_owner
function outbox.is_askable(kind text, topic text, filter jsonb, value jsonb, pace integer) returns boolean language plpgsql immutable parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner outbox_relay=X/outbox_owner
function outbox.is_maintenance(topic text, filter jsonb, value jsonb, pace integer, asked_at timestamp with time zone, expires_at timestamp with time zone) returns boolean language plpgsql immutable parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner outbox_relay=X/outbox_owner
function outbox.is_replayable(kind text, topic text, filter jsonb, value jsonb, pace integer) returns boolean language plpgsql immutable parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner outbox_relay=X/outbox_owner
function outbox.is_sendable(topic text, event_id uuid, headers jsonb, partition integer, deliver_after timestamp with time zone, expires_at timestamp with time zone) returns boolean language plpgsql immutable parallel safe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.is_sendable(topic text, event_id uuid, headers jsonb, partition integer, deliver_after timestamp with time zone, expires_at timestamp with time zone, key bytea) returns boolean language plpgsql immutable parallel safe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.is_wanted(first_id bigint, last_id bigint) returns boolean language sql stable parallel unsafe owner outbox_owner
    rights outbox_relay=X/outbox_owner
function outbox.note_reconciliation(cause text, begun_at timestamp with time zone, from_id bigint, until_id bigint, missing bigint, duplicates bigint, report jsonb) returns bigint language plpgsql volatile parallel unsafe security definer owner outbox_owner
    rights outbox_admin=X/outbox_owner outbox_relay=X/outbox_owner
function outbox.pause(topic text, duration interval DEFAULT NULL::interval, why text DEFAULT NULL::text) returns bigint language sql volatile parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.pressure(topic text DEFAULT NULL::text, OUT waiting bigint, OUT lag interval, OUT quota bigint) returns record language plpgsql stable parallel unsafe security definer owner outbox_owner
    rights outbox_admin=X/outbox_owner outbox_producer=X/outbox_owner outbox_reader=X/outbox_owner
function outbox.publish_many(messages json, serialize boolean DEFAULT false) returns SETOF uuid language plpgsql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.publish_many(messages jsonb, serialize boolean DEFAULT false) returns SETOF uuid language sql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.publish_many(messages text, serialize boolean DEFAULT false) returns SETOF uuid language sql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.publish(topic text, key bytea, payload bytea, headers jsonb DEFAULT NULL::jsonb, partition integer DEFAULT NULL::integer, deliver_after timestamp with time zone DEFAULT NULL::timestamp with time zone, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, event_id uuid DEFAULT NULL::uuid, serialize boolean DEFAULT false) returns uuid language plpgsql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.publish(topic text, key bytea, payload json, headers jsonb DEFAULT NULL::jsonb, partition integer DEFAULT NULL::integer, deliver_after timestamp with time zone DEFAULT NULL::timestamp with time zone, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, event_id uuid DEFAULT NULL::uuid, serialize boolean DEFAULT false) returns uuid language sql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.publish(topic text, key bytea, payload jsonb, headers jsonb DEFAULT NULL::jsonb, partition integer DEFAULT NULL::integer, deliver_after timestamp with time zone DEFAULT NULL::timestamp with time zone, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, event_id uuid DEFAULT NULL::uuid, serialize boolean DEFAULT false) returns uuid language sql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.publish(topic text, key bytea, payload text, headers jsonb DEFAULT NULL::jsonb, partition integer DEFAULT NULL::integer, deliver_after timestamp with time zone DEFAULT NULL::timestamp with time zone, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, event_id uuid DEFAULT NULL::uuid, serialize boolean DEFAULT false) returns uuid language sql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.publish(topic text, key text, payload bytea, headers jsonb DEFAULT NULL::jsonb, partition integer DEFAULT NULL::integer, deliver_after timestamp with time zone DEFAULT NULL::timestamp with time zone, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, event_id uuid DEFAULT NULL::uuid, serialize boolean DEFAULT false) returns uuid language sql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.publish(topic text, key text, payload json, headers jsonb DEFAULT NULL::jsonb, partition integer DEFAULT NULL::integer, deliver_after timestamp with time zone DEFAULT NULL::timestamp with time zone, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, event_id uuid DEFAULT NULL::uuid, serialize boolean DEFAULT false) returns uuid language sql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.publish(topic text, key text, payload jsonb, headers jsonb DEFAULT NULL::jsonb, partition integer DEFAULT NULL::integer, deliver_after timestamp with time zone DEFAULT NULL::timestamp with time zone, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, event_id uuid DEFAULT NULL::uuid, serialize boolean DEFAULT false) returns uuid language sql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.publish(topic text, key text, payload text, headers jsonb DEFAULT NULL::jsonb, partition integer DEFAULT NULL::integer, deliver_after timestamp with time zone DEFAULT NULL::timestamp with time zone, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, event_id uuid DEFAULT NULL::uuid, serialize boolean DEFAULT false) returns uuid language sql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.raise_beat(p_holder uuid, p_epoch bigint) returns boolean language plpgsql volatile parallel unsafe owner outbox_owner
    rights outbox_relay=X/outbox_owner
function outbox.receipt(receipts bytea, published int8multirange, id bigint, OUT record_partition integer, OUT record_offset bigint) returns record language plpgsql immutable parallel safe owner outbox_owner
    rights outbox_admin=X/outbox_owner outbox_reader=X/outbox_owner outbox_relay=X/outbox_owner
function outbox.refuse(topic text, event_id uuid, headers jsonb, partition integer, deliver_after timestamp with time zone, expires_at timestamp with time zone) returns boolean language plpgsql immutable parallel safe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.replay(filter jsonb, why text, "to" text DEFAULT NULL::text, pace integer DEFAULT NULL::integer, beyond_window boolean DEFAULT false, duration interval DEFAULT '1 day'::interval) returns bigint language sql volatile parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.requeue(filter jsonb, why text DEFAULT NULL::text, pace integer DEFAULT NULL::integer) returns bigint language sql volatile parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.resign(p_holder uuid, p_epoch bigint) returns boolean language plpgsql volatile parallel unsafe owner outbox_owner
    rights outbox_relay=X/outbox_owner
function outbox.resume(topic text, why text DEFAULT NULL::text) returns bigint language sql volatile parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.reveal(ids bigint[], why text DEFAULT NULL::text) returns TABLE(id bigint, payload bytea, headers jsonb) language plpgsql volatile parallel unsafe security definer owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.set_maintenance(duration interval, why text DEFAULT NULL::text) returns bigint language sql volatile parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.set_policy(topics text, policy jsonb, duration interval DEFAULT NULL::interval, why text DEFAULT NULL::text) returns bigint language sql volatile parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.set_quota(topic text, max_waiting bigint, why text DEFAULT NULL::text) returns bigint language plpgsql volatile parallel unsafe security definer owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.set_rate(topic text, per_second integer, duration interval DEFAULT NULL::interval, why text DEFAULT NULL::text) returns bigint language sql volatile parallel unsafe owner outbox_owner
    rights outbox_admin=X/outbox_owner
function outbox.set_slot_width(p_epoch bigint, p_ring text, p_seconds integer, p_wait_ms integer) returns boolean language plpgsql volatile parallel unsafe security definer owner outbox_owner
    rights outbox_relay=X/outbox_owner
function outbox.settle(p_epoch bigint, p_seq bigint, p_token uuid, p_durable boolean, p_snapshot pg_snapshot, p_high bigint, p_late_snapshot pg_snapshot, p_late_after bigint, p_moved boolean, p_published int8multirange, p_receipts bytea, p_expired int8multirange, p_dropped int8multirange, p_settled_deferred bigint[], p_defer_ids bigint[], p_defer_reasons text[], p_defer_delays_ms bigint[], p_defer_attempts integer[], p_defer_tries integer[], p_defer_classes text[], p_defer_errors text[], p_defer_passable boolean[], p_rare jsonb) returns text language plpgsql volatile parallel unsafe owner outbox_owner
    rights outbox_relay=X/outbox_owner
function outbox.take_over(p_holder uuid, p_holder_name text, p_epoch bigint, p_beat bigint, p_token uuid, p_system_identifier bigint, p_database_oid oid, p_timeline integer, p_kafka_cluster_id text) returns bigint language plpgsql volatile parallel unsafe owner outbox_owner
    rights outbox_relay=X/outbox_owner
function outbox.take_turn(topic text, key bytea) returns void language plpgsql volatile parallel unsafe owner outbox_owner
    rights outbox_producer=X/outbox_owner
function outbox.write_heartbeat(p_epoch bigint, p_token uuid, p_topic text) returns text language plpgsql volatile parallel unsafe security definer owner outbox_owner
    rights outbox_relay=X/outbox_owner
