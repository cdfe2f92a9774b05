-- Removes everything that migrate made, except the roles: they belong to the cluster, another database may need them.
-- Cascade also takes what others built on top, such as a view on outbox.status.
drop schema outbox cascade
