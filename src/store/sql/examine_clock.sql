-- The clock of the server, in seconds since 1970. One row always.
-- Nothing else is read, so that the answer is as fresh as the network allows.
select extract(epoch from clock_timestamp())::double precision as now
