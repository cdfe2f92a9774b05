-- The bookkeeping of the migrations, inside schema outbox so that it never meets the application's migrations.
-- It exists before the first migration; repeating it changes nothing. Several statements, sent as one message.
create schema if not exists outbox;
create table if not exists outbox.migration (
    version       integer primary key,
    name          text not null,
    checksum      text not null,
    oldest_binary text not null,
    applied_at    timestamptz not null default clock_timestamp()
);
comment on table outbox.migration is
    'Migrations of outbox-relay that were applied, and the oldest binary that may run after each.';
