-- Time $1, which is text, in Unix seconds. One row always.
-- Reads no table: only Postgres knows how it reads a time.
select extract(epoch from $1::text::timestamptz)::double precision as seconds
