-- Waits until no transaction is open that wrote an outbox row, and lets none begin. Readers go on.
-- From here on every id that was drawn is visible or rolled back; a later writer draws a larger one.
lock table outbox.message, outbox.deferred, outbox.ledger in share row exclusive mode
