-- Notes a migration as applied.
-- Fails on a version that is there already; the lock of migrate rules that out.
insert into outbox.migration (version, name, checksum, oldest_binary) values ($1, $2, $3, $4)
