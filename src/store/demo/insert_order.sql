-- Writes one order, in the caller's transaction.
insert into orders (id, customer, version, cents) values ($1, $2, $3, $4)
